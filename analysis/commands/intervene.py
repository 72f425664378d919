"""Write an intervention on some heads into the weights of a checkpoint.

    headlab intervene model=DIR intervention=scale:1.3:L3H2,L5H1 out=DIR

The result is an ordinary Hugging Face checkpoint for other engines (vLLM, SGLang, lighteval). A
mean becomes a bias of o_proj, which the architecture must have and an engine has to know: vLLM's
Qwen3 leaves it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from analysis.cli import key


@dataclass
class Options:
    model: str = key("directory, hub name (NAME@REVISION) or RUN@STEP; may be an adapter")
    intervention: str = key("zero:HEADS, scale:FACTOR:HEADS or mean:HEADS")
    out: str = key("directory for the changed checkpoint")
    reference: str | None = key("pairs file whose clean prompts give the means", None)
    dtype: str | None = key("of the checkpoint; default: the model's own", None)


def act(options: Options) -> None:
    """Load, bake and save."""
    from analysis.detection.detect import anatomy
    from analysis.interventions.baking import save_baked
    from analysis.interventions.head_sets import parse_intervention, split_intervention
    from analysis.interventions.operations import constants, read_reference
    from analysis.models.loading import load_config, load_model, load_tokenizer
    from analysis.records.checkpoints import find_model

    out = Path(options.out)
    if out.exists():
        raise ValueError(f"{out} exists; give another out, or remove it")
    named = find_model(options.model)
    config = load_config(named.path, named.base)
    if split_intervention(options.intervention) is None:
        raise ValueError("intervention=none changes nothing; give zero:, scale: or mean:")
    tokenizer, reference = load_tokenizer(named.path, named.base), []
    if options.reference is not None:
        reference = read_reference(Path(options.reference), tokenizer, config)
    model = load_model(named.path, options.dtype or named.dtype, base=named.base)
    intervention = parse_intervention(options.intervention, anatomy(model).graph)
    assert intervention is not None, "it is not none"
    added = constants(model, intervention, reference)
    save_baked(out, model, tokenizer, intervention, added)
    print(f"{len(intervention.heads)} heads changed ({intervention}); wrote {out}")
