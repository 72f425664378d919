"""What in an anatomy is unlike a Llama's, in a few words each; and the table of known models.

The table (known_models.json, `headlab models`, docs/models.md) is made of tiny models of all types
by `make models-table`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from analysis.reporting.text import WIDTH, text_table

if TYPE_CHECKING:
    from analysis.models.anatomy import Anatomy, Reading
    from analysis.reporting.anatomy_words import Experts

TABLE = Path(__file__).with_name("known_models.json")


class KnownModel(msgspec.Struct):
    """A type of transformers, and what became of a tiny random model of it.

    wrapper: the type holds a text model beside a tower for pictures. outcome: `proved`, `proved by
    rows` (a norm over all heads, or keys that two layers share, tie heads together), `no heads`, or
    `refused`, with the reason.
    """

    type: str
    wrapper: bool
    outcome: str
    reason: str | None = None
    special: tuple[str, ...] = ()


@cache
def known_models() -> list[KnownModel]:
    """The table, as it comes with this version."""
    return msgspec.json.decode(TABLE.read_bytes(), type=list[KnownModel])


def special(parts: Anatomy, experts: Experts) -> list[str]:
    """What is unlike `x += attention(norm(x)); x += mlp(norm(x))` with q, k and v for each head."""
    return list(dict.fromkeys([*_of_heads(parts), *_of_stream(parts), *_of_nodes(parts, experts)]))


def _of_heads(parts: Anatomy) -> Iterator[str]:
    graph = parts.graph
    counts = {shape.n_heads for shape in graph.shapes}
    if counts == {0}:
        yield "no heads"
    elif 0 in counts:
        yield "layers without heads"
    if len(counts - {0}) > 1:
        yield "head counts by layer"
    if "linear" in graph.head_kinds:
        yield "heads of linear attention"
    if any(len(shape.heads) > 1 for shape in graph.shapes):
        yield "several attentions in a layer"
    sides = [side for shape in graph.shapes for side in shape.sides]
    if any("g" in side.letter for side in sides):
        yield "gates"
    if any(side.of == "*" for side in sides):
        yield "shared latents"
    if any(side.of in ("h", "kv", "+") and len(side.letter) > 1 for side in sides):
        yield "rows of several kinds"
    if any(_is_fused(reading) for block in parts.blocks for reading in block.readings):
        yield "fused projection"


def _is_fused(reading: Reading) -> bool:
    return any(len(sides) > 1 for sides in reading.modules.values())


def _of_stream(parts: Anatomy) -> Iterator[str]:
    from analysis.models.maps import Map

    readings = [reading for block in parts.blocks for reading in block.readings]
    before = [reading.norm for reading in readings if reading.norm is not None]
    norms = [norm for norm in before if not isinstance(norm, Map)]
    heads = [heads for _, heads in parts.heads]
    if any(reading.norm is None for reading in readings):
        yield "no norm before the attention"
    if len(norms) < len(before):
        yield "norm without a closed form"
    if any(norm.centred for norm in norms):
        yield "LayerNorm"
    if any(norm.weight is None for norm in norms):
        yield "norms without weights"
    if any(part.after is not None for part in heads):
        yield "norm after the attention"
    if any(part.linear_after is not None for part in heads):
        yield "linear module after the attention"
    if parts.gauge is not None:
        yield "layers multiply the stream"
    scales = [heads.scale for heads in heads]
    scales += [scale for _, _, node in parts.nodes for _, scale in node.writes]
    if parts.gauge is None and any(not isinstance(s, float) or s != 1.0 for s in scales):
        yield "scaled outputs"


def _of_nodes(parts: Anatomy, experts: Experts) -> Iterator[str]:
    shapes = parts.graph.shapes
    if any(
        node.reads == (0,) and node.letter == "m" for s in shapes for node in s.nodes if s.heads
    ):
        yield "parallel MLP"
    if any(node.letter == "x" for shape in shapes for node in shape.nodes):
        yield "mixers of tokens"
    if experts:
        yield "mixture of experts"
    if any(not any(node.letter == "m" for node in shape.nodes) for shape in shapes):
        yield "layers without an MLP"
    if any(sum(node.letter == "m" for node in shape.nodes) > 1 for shape in shapes):
        yield "several MLPs in a layer"
    if any(len(node.taps) > 1 for _, _, node in parts.nodes):
        yield "a node with several inputs"


def known_table() -> list[str]:
    """The table as lines of WIDTH columns."""
    models = known_models()
    refused = [model for model in models if model.outcome == "refused"]
    rows = [["type", "heads and edges", "special"]]
    wide = max(len(model.type) + model.wrapper for model in models)
    room = WIDTH - wide - len(rows[0][1]) - 4
    for model in models:
        if model.outcome != "refused":
            first, *more = _lines(", ".join(model.special), room)
            rows.append([model.type + ("*" if model.wrapper else ""), model.outcome, first])
            rows += [["", "", line] for line in more]
    lines = text_table(rows, "l")
    lines += ["", "* a text model beside a tower for pictures", "", "Refused:"]
    for model in refused:
        head = f"  {model.type:{wide}}  "
        lines += [
            (head if index == 0 else " " * len(head)) + line
            for index, line in enumerate(_lines(model.reason or "", WIDTH - len(head)))
        ]
    proved = len(models) - len(refused)
    lines += [
        "",
        f"{proved} of {len(models)} types, proved on tiny models of each (docs/models.md)",
    ]
    return lines


def _lines(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width) or [""]
