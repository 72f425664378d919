"""Sets of heads: as people name them, as files and runs hold them, and random ones to match.

    L3H2,L5H1        named (a3.h2 as well)
    FILE             the heads of a circuit (graph.json of `headlab attribute`, a file of the EAP-IG
                     package or of MIB; analysis/circuits/graph_files.py), or of a file
                     {"heads": ["L3H2", ...]}, the most important first
    RUN@STEP         the heads in the circuit of a tracked run at a step (a number, or `last`)
    RUN@STEP:SET     SET is in_circuit, emergent, retained, pruned (raw sets, against the base),
                     called_emergent or called_pruned
    ...:N            at most N of them, the most important: RUN@last:emergent:10, graph.json:5

Importance is the head's share of |score| in the circuit (analysis/heads/changes.py), or of |score|
of the nodes where a file has that; heads that have left the circuit are ranked by that in the base.
A file without scores ranks nothing, so FILE:N is refused for it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.interventions.operations import OPERATIONS, Intervention
from analysis.models.graph import Graph, Head
from analysis.models.unlike import unlike_heads

if TYPE_CHECKING:
    from analysis.heads.changes import Change
    from analysis.records.record import Record


def split_intervention(text: str) -> tuple[str, float, str] | None:
    """Operation, factor and HEADS of `zero:HEADS`, `scale:FACTOR:HEADS`, ...; None for `none`.

    Raises:
        ValueError: no such operation, or a factor that is no number.
    """
    if text == "none":
        return None
    operation, _, rest = text.partition(":")
    if operation not in OPERATIONS or not rest:
        raise ValueError(
            f"intervention is {text!r}; write none, zero:HEADS, scale:FACTOR:HEADS, mean:HEADS, "
            "mean_by_position:HEADS or resample:HEADS, with HEADS such as L3H2,L5H1"
        )
    factor = 0.0
    if operation == "scale":
        number, _, rest = rest.partition(":")
        try:
            factor = float(number)
        except ValueError:
            raise ValueError(
                f"{number!r} in {text!r} is no factor; write scale:1.3:HEADS"
            ) from None
        if not abs(factor) < float("inf"):
            raise ValueError(f"the factor in {text!r} must be finite")
    return operation, factor, rest


def parse_intervention(text: str, graph: Graph) -> Intervention | None:
    """The intervention that a text names; None for `none`. HEADS as at the top.

    Raises:
        ValueError: as `split_intervention`, or heads that are not there.
    """
    parts = split_intervention(text)
    if parts is None:
        return None
    operation, factor, heads = parts
    return Intervention(operation, tuple(parse_heads(heads, graph)), factor)


SETS = ("in_circuit", "emergent", "retained", "pruned", "called_emergent", "called_pruned")


class NoHeads(ValueError):
    """A set of heads is empty: a finding, where the set is that of emergent or exclusive heads."""


def parse_heads(text: str, graph: Graph) -> list[Head]:
    """The heads that a text names, in its order or the most important first, none twice.

    Raises:
        NoHeads: the set is empty.
        ValueError: there is no such head, file, run, step or set, or what is named is of a model
            of another shape.
    """
    body, most = _split_count(text)
    if re.match(r"^([Ll]\d+[Hh]\d+|a\d+\.h\d+)(,|$)", body):
        found = [graph.parse_head(part) for part in body.split(",")]
    elif Path(body).is_file():
        found = _of_file(Path(body), graph, most)
    else:
        found = _of_run(body, graph)
    found = list(dict.fromkeys(found))
    if not found:
        raise NoHeads(f"there is no head in {text}, so there is nothing to change")
    return found[:most]


def _split_count(text: str) -> tuple[str, int | None]:
    body, colon, last = text.rpartition(":")
    if not colon or not last.isdecimal():
        return text, None
    if int(last) == 0:
        raise ValueError(f"{text} asks for 0 heads; ask for 1 at least")
    return body, int(last)


def _of_file(path: Path, graph: Graph, most: int | None) -> list[Head]:
    from analysis.circuits.graph_files import read_circuit

    if (named := _listed(path)) is not None:
        return [graph.parse_head(name) for name in named]
    file = read_circuit(path)
    _check_shape(str(path), file.circuit.graph, graph)
    inside = [graph.parse_head(name) for name in graph.names_of(file.heads)]
    if not file.has_scores:
        if most is not None:
            raise ValueError(
                f"{path} says which edges are in and gives no scores, so none of its "
                f"{len(inside)} heads is the most important; name the heads, or leave :{most} out"
            )
        return inside
    importance = file.importance.tolist()
    return sorted(inside, key=lambda head: -importance[graph.head_index[head]])


def _listed(path: Path) -> list[str] | None:
    """The heads of a file {"heads": [...]}; None if it is another one."""
    if path.suffix != ".json":
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or "heads" not in content:
        return None
    heads = content["heads"]
    if not isinstance(heads, list) or not all(isinstance(name, str) for name in heads):
        raise ValueError(f'{path}: its heads must be a list of names: {{"heads": ["L3H2", ...]}}')
    return heads


def _check_shape(what: str, found: Graph, graph: Graph) -> None:
    if (unlike := unlike_heads(found, graph)) is not None:
        raise ValueError(f"{what} is of a model that has {unlike[0]}, and this one has {unlike[1]}")


def _of_run(body: str, graph: Graph) -> list[Head]:
    from analysis.heads.changes import compare
    from analysis.records.record_files import read_records
    from analysis.records.run_file import RunFile
    from analysis.trajectories.trajectory import run_level

    name, colon, which = body.rpartition(":")
    if not colon or "@" in which:
        name, which = body, "in_circuit"
    place, at, step = name.rpartition("@")
    if not at or not Path(place).is_dir():
        raise ValueError(
            f"{body!r} names no heads: write L3H2,L5H1, a circuit's file, or RUN@STEP:SET with the "
            "directory of a tracked run"
        )
    if which not in SETS:
        raise ValueError(f"unknown set of heads {which!r}; choose one of: {', '.join(SETS)}")
    file = RunFile.read(place)
    base, record = _base_and(place, step)
    _check_shape(place, record.graph, graph)
    change = compare(base.heads, record.heads, file.fdr)
    if which.startswith("called_"):  # at the level of the whole run, as its report has them
        change = change.at(run_level(read_records(place), file.fdr))
    return heads_of_set(which, change, base, record)


def heads_of_set(which: str, change: Change, base: Record, record: Record) -> list[Head]:
    """The heads of a SET of a change from a run's base, the most important first.

    Importance is that in the record; for pruned heads, that in the base.
    """
    state = which.removeprefix("called_")
    masks = change.called if which.startswith("called_") else change.masks
    importance = (base if state == "pruned" else record).importance.tolist()
    chosen = masks[state].nonzero().flatten().tolist()
    return [record.graph.heads[index] for index in sorted(chosen, key=lambda i: -importance[i])]


def _base_and(place: str, step: str) -> tuple[Record, Record]:
    """The records of step 0 and of another step of a run, or of the last that can be read.

    Raises:
        ValueError: there are none, or they don't measure the same thing.
    """
    from analysis.records.record import check_comparable
    from analysis.records.record_files import invalid_steps, read_record, record_dir, recorded_steps

    there = [
        n
        for n in recorded_steps(Path(place) / "heads")
        if (record_dir(place, n) / "record.json").exists()
    ]
    steps = sorted(set(there) - set(invalid_steps(Path(place))))
    if not steps or (step != "last" and not (step.isdecimal() and int(step) in steps)):
        known = ", ".join(map(str, steps)) or "none"
        raise ValueError(f"{place} has no record of step {step}; it has: {known}, or write last")
    found = [read_record(place, n) for n in (0, steps[-1] if step == "last" else int(step))]
    base, record = found
    if base is None or record is None:
        raise ValueError(f"{place} has no record of step 0, the base, to compare with; track it")
    check_comparable(base, record)
    return base, record
