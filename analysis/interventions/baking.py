"""Write an intervention (analysis/interventions/operations.py) into a model's weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from analysis.detection.detect import anatomy
from analysis.files import write_json
from analysis.interventions.operations import intervened
from analysis.interventions.output_bias import difference, probe, tolerance, with_output_bias
from analysis.models.adapters import check_live
from analysis.models.anatomy import Anatomy, base_model
from analysis.models.compat import Conv1D, unwrapped
from analysis.models.hub import place
from analysis.models.linear import linear_map
from analysis.models.processor import copy_processor
from analysis.models.quantised import packed_weight

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from analysis.interventions.operations import Constants, Intervention
    from analysis.models.loading import Config, Tokenizer


@torch.no_grad()
def bake(
    model: nn.Module,
    intervention: Intervention | None,
    added: Constants | None = None,
    biased: bool = False,
    find: Callable[[nn.Module], Anatomy] = anatomy,
) -> Any:
    """A model with the intervention in its weights (None: none). The one given is used up.

    Adapters are merged first. `added` comes from `constants`. biased: o_proj gets a bias even if
    there is nothing to add, so that all conditions of a `mean` have one architecture. find: what
    finds a model's anatomy, where that is not detected.

    Raises:
        ValueError: the constants depend on the position, the architecture can't hold them, an
            adapter is not served or can't be merged, or the result computes something else on a
            few tokens.
    """
    if intervention is not None and intervention.operation in ("mean_by_position", "resample"):
        raise ValueError(
            f"{intervention.operation} depends on the position, and weights do not; bake zero, "
            "scale or mean, or intervene on the live model"
        )
    check_live(model)
    model = unwrapped(model)
    _check_changeable(model)
    whole = (
        _merged(model)
        if callable(getattr(model, "merge_and_unload", None))
        else (base_model(model))
    )
    parts = find(whole)
    with intervened(whole, intervention, added, parts):
        live = probe(whole)
    if biased or added is not None:
        changed = {} if intervention is None or added is None else intervention.by_layer
        of = [some.part for at in changed.items() for some in parts.heads_of(*at)]
        whole = with_output_bias(whole, parts, of)
        parts = find(whole)
    if intervention is None:
        return whole
    for layer, heads in intervention.by_layer.items():
        _change(parts, layer, heads, intervention.factor, added)
    off = difference(live, probe(whole))
    if not off <= tolerance(live):
        raise ValueError(
            f"the model with {intervention} in its weights computes something else than the live "
            f"one (off by {off:.2g} of 1); intervene on the live model (backend=hf)"
        )
    return whole


def _check_changeable(model: nn.Module) -> None:
    """Raise ValueError if weights are elsewhere, or packed."""
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(
            "the model is offloaded (device_map), and its weights can't be changed there; load it "
            "on one device (device_map=None)"
        )
    if (found := packed_weight(model)) is not None:
        raise ValueError(
            f"the model is quantised ({found}), and packed weights can't be changed; dequantise it "
            "(model.dequantize()), or intervene on the live model"
        )


def _merged(model: Any) -> Any:
    """The model that a PEFT model computes, as one without adapters; the one given is used up.

    Raises:
        ValueError: PEFT can't merge it, or the merged one computes something else.
    """
    before = probe(model)
    _untie(base_model(model))
    try:
        whole = model.merge_and_unload()
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"the adapter can't be merged: {str(error).strip().splitlines()[0]}"
        ) from error
    if whole.get_input_embeddings().weight is not whole.get_output_embeddings().weight:
        whole.config.tie_word_embeddings = False
    off = difference(before, probe(whole))
    if not off <= tolerance(before):
        raise ValueError(
            f"the model with its adapter merged computes something else (off by {off:.2g} of 1); "
            "measure it unmerged (backend=hf)"
        )
    return whole


def _untie(whole: PreTrainedModel) -> None:
    """Give lm_head a weight of its own where an adapter changes it or the embedding it shares.

    A merge would otherwise change both.
    """
    ends: list[Any] = [whole.get_input_embeddings(), whole.get_output_embeddings()]
    changed = [end for end in ends if hasattr(end, "get_base_layer")]
    bare: list[Any] = [end.get_base_layer() if end in changed else end for end in ends]
    if changed and bare[0].weight is bare[1].weight:
        bare[1].weight = nn.Parameter(bare[1].weight.clone())


def _change(
    parts: Anatomy, layer: int, heads: list[int], factor: float, added: Constants | None
) -> None:
    """The columns of the heads, and the bias, of one layer's o_proj."""
    for some in parts.heads_of(layer, heads):
        module = some.part.o_proj
        weight = module.weight.T if type(module) is Conv1D else module.weight  # [d, H * e], a view
        if tuple(weight.shape) != tuple(linear_map(module).shape):
            raise ValueError(
                f"layer {layer}: {type(module).__name__} does not hold its matrix as it is, so "
                "nothing can be written into it; intervene on the live model (backend=hf)"
            )
        columns = weight.unflatten(1, (some.part.n_heads, -1))
        if added is not None:
            constant = added.by_layer[layer][-1, some.places].to(weight.device, torch.float64)
            wanted = torch.einsum("dne,ne->d", columns[:, some.heads].double(), constant)
            module.bias.copy_((module.bias.double() + wanted).to(module.bias.dtype))
        for head in some.heads:
            columns[:, head] *= factor


def save_baked(
    out: Path,
    model: nn.Module,
    tokenizer: Tokenizer,
    intervention: Intervention | None,
    added: Constants | None,
    biased: bool = False,
) -> None:
    """Bake, and write a Hugging Face checkpoint with its tokenizer and intervention.json.

    Raises:
        ValueError: as `bake`, or the tokenizer would be read back as another one.
    """
    baked = bake(model, intervention, added, biased)
    settings = baked.generation_config
    if not settings.do_sample:  # else what some published files hold is refused as invalid
        for name in ("temperature", "top_p", "top_k", "min_p", "typical_p"):
            setattr(settings, name, None)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        draft = Path(scratch) / "model"
        baked.save_pretrained(draft)
        _save_tokenizer(draft, tokenizer, baked.config.model_type)
        _save_processor(draft, baked.config)
        write_json(draft / "intervention.json", {"intervention": str(intervention)})
        draft.rename(out)


def _save_processor(out: Path, config: Config) -> None:
    """Give a multimodal checkpoint its model's processor, where that lies on this machine."""
    source = str(config.name_or_path or "")
    if source and config.get_text_config() is not config:
        with suppress(ValueError):  # a name that is nowhere
            copy_processor(place(source), out)


def _save_tokenizer(out: Path, tokenizer: Tokenizer, model_type: str) -> None:
    """Save a tokenizer so that AutoTokenizer reads the same one back.

    Beside a configuration of another type (a Qwen2 that became a Llama) AutoTokenizer might choose
    another class, with another splitting of the text; then the plain fast class is written.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer.save_pretrained(out)
    if _splits(AutoTokenizer.from_pretrained(out, trust_remote_code=False)) == _splits(tokenizer):
        return
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    plain = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        chat_template=tokenizer.chat_template,
        model_max_length=tokenizer.model_max_length,
        clean_up_tokenization_spaces=False,
        **{name: getattr(tokenizer, name) for name in names},
    )
    plain.save_pretrained(out)
    if _splits(AutoTokenizer.from_pretrained(out, trust_remote_code=False)) != _splits(tokenizer):
        raise ValueError(
            f"{out}: the tokenizer would be read back as another one beside a {model_type} "
            "configuration; use the tokenizer of the original model with this checkpoint"
        )


def _splits(tokenizer: Tokenizer) -> list[list[int]]:
    """Token ids of texts on which ways of splitting differ."""
    texts = ("12345 + 678=?", "  two  spaces\n\n\nand lines", "It's naïve, 東京!", "x_y=3.14e-5")
    return [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
