"""Say which models headlab can track, or what it finds in one model.

    headlab models
    headlab models model=MODEL

Without a model: every type of model of transformers, as it was found in tiny ones with random
weights; docs/models.md says what was proved. With one: whether it is supported, or why not; its
layers in words; the graph; that its proofs hold, and what they note; and what attribution will need
in memory, its passes and the weights included, with each layer run once or twice
(tracking.recompute). On a CPU the process takes about half as much again, for the gaps that the C
library keeps; headlab attribute plan=true measures that.
"""

from __future__ import annotations

import sys
import textwrap
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from analysis.cli import key
from analysis.files import to_json
from analysis.models.loading import DTYPES
from analysis.ranges import COUNT

if TYPE_CHECKING:
    from torch import nn

    from analysis.models.anatomy import Anatomy
    from analysis.reporting.anatomy_words import Experts

GIB = 2**30
_TOKENS = 8  # that are run to see which experts there are


@dataclass
class Options:
    model: str | None = key("directory, hub name (NAME@REVISION) or RUN@STEP", None)
    dtype: str = key("of the weights", "float32", among=DTYPES)
    kv: str = key(
        "grouped, or ungrouped: a k and a v for every query head",
        "grouped",
        among=("grouped", "ungrouped"),
    )
    batch_size: int = key("pairs in one pass, for the memory", 8, COUNT)
    tokens: int = key("tokens of a prompt, for the memory", 128, COUNT)
    json: bool = key("print one JSON object", False)


def describe(model: nn.Module, options: Options) -> dict[str, Any]:
    """What there is to say of a model that is supported.

    Raises:
        Unsupported: it is not; the message says why.
    """
    from analysis.attribution.eap import MEMORY_BUDGET
    from analysis.attribution.graph_bytes import graph_bytes
    from analysis.attribution.memory import Sizes, need
    from analysis.detection.audits import prove, proved
    from analysis.detection.detect import anatomy
    from analysis.models.preserve import preserved
    from analysis.reporting.anatomy_features import special
    from analysis.reporting.anatomy_words import alike, destination_kinds, graph_in_words

    parts = proved(model, anatomy(model, options.kv))
    notes = prove(model, parts)
    graph, experts = parts.graph, experts_of(parts)
    with preserved(model):
        kept = graph_bytes(parts)
    batch = Sizes.of(parts), kept, options.batch_size, options.tokens, MEMORY_BUDGET
    once, twice = (need(*batch, recompute=again) for again in (False, True))
    return {
        "supported": True,
        "layers": [
            {"layers": layers, "parts": [{"name": name, "is": words} for name, words in told]}
            for layers, told in alike(parts, experts)
        ],
        "special": special(parts, experts),
        "heads": [graph.heads_in(layer) for layer in range(graph.n_layers)],
        "sources": graph.n_sources,
        "destinations": destination_kinds(graph),
        "edges": graph.n_edges,
        "graph": graph_in_words(graph),
        "proved": ["logits", "causal", "outside", "gradient", "heads"],
        "notes": notes,
        "memory": asdict(once) | {"peak": once.peak, "peak_recomputed": twice.peak},
    }


def experts_of(parts: Anatomy) -> Experts:
    """Layers that are mixtures of experts: how many a token is given to, of how many."""
    import torch

    from analysis.models.preserve import preserved
    from analysis.models.routing import Routing

    ids = torch.arange(min(_TOKENS, parts.vocabulary), device=parts.device)[None]
    routing = Routing.of(parts)
    with preserved(parts.causal_lm), torch.no_grad(), routing.recorded():
        parts.causal_lm(input_ids=ids, use_cache=False)
    experts = {}
    for layer in routing.layers:
        chosen, of = routing.experts(layer)
        experts[layer] = (chosen.shape[-1], of)
    return experts


def act(options: Options) -> None:
    """Print the table, or what is found in the model."""
    from analysis.reporting.anatomy_features import known_models, known_table

    if options.model is None:
        table = msgspec.to_builtins(known_models())
        print(to_json(table) if options.json else "\n".join(known_table()))
        return
    with redirect_stdout(sys.stderr):  # libraries greet there, and a program reads the JSON
        from analysis.models.anatomy import Unsupported
        from analysis.models.loading import load_model
        from analysis.records.checkpoints import find_model

        named = find_model(options.model)
        model = load_model(named.path, options.dtype, base=named.base)
        try:
            found = describe(model, options)
        except Unsupported as error:
            found = {"supported": False, "reason": str(error)}
    found = {"model": options.model, "class": type(model).__name__, **found}
    print(to_json(found) if options.json else "\n".join(as_text(found, options)))


def as_text(found: dict[str, Any], options: Options) -> list[str]:
    """What was found, in lines of 80 columns."""
    from analysis.reporting.anatomy_words import layers_in_words
    from analysis.reporting.text import WIDTH

    if not found["supported"]:
        return textwrap.wrap(f"{found['class']} is not supported: {found['reason']}", WIDTH)
    told = [
        (group["layers"], tuple((part["name"], part["is"]) for part in group["parts"]))
        for group in found["layers"]
    ]
    memory = {what: size / GIB for what, size in found["memory"].items()}
    peak, twice = memory.pop("peak"), memory.pop("peak_recomputed")
    needs = ", ".join(f"{what} {size:.2f}" for what, size in memory.items() if what != "points")
    texts = [
        f"{found['class']} is supported.",
        found["graph"],
        f"Proved on a few tokens: {', '.join(found['proved'])} (docs/models.md).",
        *found["notes"],
        f"Memory for {options.batch_size} pairs of {options.tokens} tokens, in GiB: {needs}; in "
        f"all {peak:.2f}, or {twice:.2f} with recompute=true.",
    ]
    first, *rest = [textwrap.wrap(text, WIDTH) for text in texts]
    return [*first, "", *layers_in_words(told), *(line for text in rest for line in ("", *text))]
