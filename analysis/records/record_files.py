"""What a run knows about its checkpoints, in local files that are the source of truth.

    RUN/heads/step-000040/record.json                numbers, settings and origin of one checkpoint
    RUN/heads/step-000040/heads-<hash>.safetensors   its circuit and resampled heads
    RUN/heads/step-000040/scores-<hash>.safetensors  its per-pair scores [pairs, E]
    RUN/heads/step-000040/experts-<hash>.safetensors with experts: what tokens were given to
    RUN/heads/step-000000/wide-<hash>.safetensors    heads of the base over further pairs too
    RUN/heads/step-000000/logprobs-<hash>.safetensors next-token log-probabilities of the base
    RUN/heads/step-*/same-*, kept-*                  whether heads are the same (same_files.py)
    RUN/evaluations/step-000040.json                 held-out pass@1
    RUN/metrics.jsonl                                what the trainer logged, and when

A record speaks of its checkpoint only, so a trajectory is the same in whatever order its records
were written. Tensor files are named by their content. A file appears under its name only when it
is whole: it is written beside it, flushed to disk and renamed. `record.json` names its tensor files
and is renamed last, so that a crash leaves the old record or the new one, never a mixture. Writing
a step again replaces that step only. Curves and tables need `heads-*`; `scores-*` is the larger.
"""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from dataclasses import asdict, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from analysis.files import OtherSchema, as_form, atomic_write, short_hash, write_json
from analysis.heads.experts import Experts
from analysis.heads.resampling import WIDE, Resampled, Wide
from analysis.heads.same import Kept
from analysis.models.graph import Graph
from analysis.models.graph_form import graph_from
from analysis.prompts.pairs import Pairs
from analysis.records.record import Record, check_comparable
from analysis.records.record_form import (
    BESIDE,
    SCHEMA,
    layers_of,
    read_content,
    shapes_of,
    shapes_of_experts,
)
from analysis.records.same_files import (
    KeptForm,
    kept_content,
    kept_from,
    kept_tensors,
    same_content,
    same_from,
    same_tensors,
    shapes_of_kept,
    shapes_of_same,
)
from analysis.records.stored import Shapes, StoredTensors

log = logging.getLogger(__name__)

_TENSORS = ("circuit", "mean", "evaluation")
_NUMBERS = ("completeness_gap", "metric_clean", "metric_corrupted")  # null: not a number


def record_dir(run: str | Path, step: int) -> Path:
    return Path(run) / "heads" / f"step-{step:06d}"


def write_record(
    run: str | Path,
    record: Record,
    per_pair: torch.Tensor,
    log_probs: torch.Tensor | None = None,
    kept: Kept | None = None,
) -> Path:
    """Write or replace the record of one step and its scores [pairs, E]; the path of its JSON.

    log_probs: of the base, float [N, V] (analysis/tracking/distance.py). kept: of the base, what
    the heads of others are compared with.
    """
    directory = record_dir(run, record.step)
    heads = {name: getattr(record, name) for name in _TENSORS} | vars(record.resampled)
    kinds = {"heads": heads, "scores": {"per_pair": per_pair.float()}}
    if record.experts is not None:
        kinds["experts"] = record.experts.all_tensors
    beside = [name for name in BESIDE if getattr(record, name) is not None]
    for name in beside:
        value = getattr(record, name)
        heads[name] = value.float() if value.is_floating_point() else value.int()
    if record.wide is not None:
        kinds["wide"] = {name: getattr(record.wide, name) for name in WIDE}
    if log_probs is not None:
        kinds["logprobs"] = {"log_probs": log_probs.float()}
    if record.same is not None:
        kinds["same"] = same_tensors(record.same)
    if kept is not None:
        kinds["kept"] = kept_tensors(kept)
    files = {}
    for kind, tensors in kinds.items():
        blob = save({name: value.contiguous() for name, value in tensors.items()})
        files[kind] = f"{kind}-{short_hash(blob)}.safetensors"
        with atomic_write(directory / files[kind]) as draft:
            draft.write_bytes(blob)
    left_out = [*_TENSORS, *BESIDE, "resampled", "digest", "experts", "wide", "same"]
    optional = ("n_distinct", "points", "groups", "gap_metric")
    left_out += [name for name in optional if getattr(record, name) is None]
    values = {f.name: getattr(record, f.name) for f in fields(record) if f.name not in left_out}
    content = {
        **values,
        "graph": record.graph.as_json(),
        "circuit": {
            "edges": record.n_edges,
            "heads": record.graph.names_of(record.in_circuit),
            "faithfulness": asdict(record.faithfulness()),
        },
        "metric_gap": asdict(record.metric_gap()),
        "beside": beside,
        **({} if record.experts is None else {"experts": _about_experts(record)}),
        **({} if (kl := record.kl_from_base()) is None else {"kl_from_base": asdict(kl)}),
        **({} if log_probs is None else {"log_probs": list(log_probs.shape)}),
        **({} if record.wide is None else {"further_pairs": record.wide.further}),
        **({} if record.same is None else {"same": _about_same(record)}),
        **({} if kept is None else {"kept": kept_content(kept)}),
        "tensors": files,
    }
    write_json(directory / "record.json", {"schema": SCHEMA, **content})
    for stale in directory.glob("*.safetensors"):
        if stale.name not in files.values():
            stale.unlink()
    return directory / "record.json"


def _about_experts(record: Record) -> dict[str, object]:
    """Their layers, and how the runs of the attribution chose: `routing` of the settings."""
    assert record.experts is not None
    return {"routing": record.settings.get("routing", "free"), **record.experts.about}


def _about_same(record: Record) -> dict[str, object]:
    assert record.same is not None
    return same_content(record.same, record.graph.names_of(record.same.changed))


def write_invalid(run: Path, step: int, reason: str, origin: dict[str, Any]) -> None:
    """Write or replace the record of a step whose model can't be measured; it has no circuit."""
    directory = record_dir(run, step)
    content = {"schema": SCHEMA, "step": step, "invalid": reason, "origin": origin, "tensors": {}}
    write_json(directory / "record.json", content)
    for stale in directory.glob("*.safetensors"):
        stale.unlink()


def _tensors(
    run: str | Path, step: int, content: dict[str, Any], kind: str, shapes: Shapes
) -> StoredTensors:
    """A file of tensors, checked whole."""
    name = content["tensors"][kind]
    if Path(name).name != name:
        raise ValueError(f"{record_dir(run, step)}: record.json names {name!r}, outside of it")
    found = StoredTensors(record_dir(run, step) / name)
    found.check(shapes)
    return found


def _content(run: str | Path, step: int) -> dict[str, Any] | None:
    return read_content(record_dir(run, step) / "record.json", step)


def is_recorded(run: Path, step: int) -> bool:
    """Whether a step has a record, valid or not, with all its files; a damaged one is none.

    Raises:
        ValueError: the record is of another schema.
    """
    directory = record_dir(run, step)
    try:
        content = _content(run, step)
    except OtherSchema:
        raise
    except ValueError:
        return False
    return content is not None and all(
        (directory / name).is_file() for name in content["tensors"].values()
    )


class StoredRecord(Record):
    """A record whose tensors stay in their file until they are asked for, and are not kept.

    What is small is kept: the importance of the heads, and the metric of each pair.
    """

    @classmethod
    def open(cls, values: dict[str, Any], tensors: StoredTensors) -> StoredRecord:
        record = object.__new__(cls)
        vars(record).update(values, _stored=tensors, evaluation=tensors["evaluation"].clone())
        return record

    def __getattr__(self, name: str) -> Any:  # of what `open` has left out
        if name in _TENSORS:
            return self._stored[name]
        if name == "resampled":
            return Resampled(**{f.name: self._stored[f.name] for f in fields(Resampled)})
        raise AttributeError(name)

    @cached_property
    def importance(self) -> torch.Tensor:
        return self._stored["importance"][0].clone()

    @cached_property
    def n_edges(self) -> int:
        return int(self.circuit.sum())


def read_record(run: str | Path, step: int) -> Record | None:
    """The record of a step, or None if there is none, or an invalid one.

    Its tensors are checked against their hash now, and read when they are asked for.

    Raises:
        ValueError: the record is damaged or of another schema, or its tensors are missing or
            damaged.
    """
    content = _content(run, step)
    return None if content is None or "invalid" in content else _open(run, content)


@lru_cache(maxsize=4)
def _one(graph: Graph) -> Graph:
    """One for all records of a run: its edges are large."""
    return graph


def _open(run: str | Path, content: dict[str, Any]) -> Record:
    step = content["step"]
    path = record_dir(run, step) / "record.json"
    graph = _one(graph_from(content["graph"], path))
    beside = content.get("beside", [])
    shapes = shapes_of(graph, content["n_pairs"], beside)
    stored = _tensors(run, step, content, "heads", shapes)
    left_out = {*_TENSORS, *BESIDE, "graph", "resampled", "digest", "experts", "wide", "same"}
    wanted = {f.name for f in fields(Record)} - left_out
    values: dict[str, Any] = {name: content.get(name) for name in wanted}
    values |= {name: math.nan for name in _NUMBERS if values[name] is None}
    values |= {"graph": graph, "digest": content["tensors"]["heads"], "experts": None}
    values |= {name: stored[name].clone() if name in beside else None for name in BESIDE}
    if "experts" in content:
        values["experts"] = _experts(run, step, content, path)
        values["digest"] += " " + content["tensors"]["experts"]
    values["wide"] = None
    if "further_pairs" in content:
        shapes = {name: form for name, form in shapes.items() if name in WIDE}
        tables = _tensors(run, step, content, "wide", shapes)
        values["wide"] = Wide(content["further_pairs"], *(tables[name] for name in WIDE))
        values["digest"] += " " + content["tensors"]["wide"]
    values["same"] = None
    if content.get("same") is not None:
        tables = _tensors(run, step, content, "same", shapes_of_same(graph.n_heads_total))
        values["same"] = same_from(content["same"], tables, path)
    if "n_distinct" not in content:
        values["n_distinct"] = _distinct_in_file(run)
    return StoredRecord.open(values, stored)


def _experts(run: str | Path, step: int, content: dict[str, Any], path: Path) -> Experts:
    layers = layers_of(content, path)
    shapes = shapes_of_experts(layers, content["n_pairs"], content["experts"]["tokens"])
    stored = _tensors(run, step, content, "experts", shapes)
    found = Experts(layers, stored)
    if not found.about.items() <= content["experts"].items() or stored["experts"].tolist() != [
        about.experts for about in layers.values()
    ]:
        raise ValueError(f"{path} says otherwise of its experts than their file; track it again")
    return found


def _distinct_in_file(run: str | Path) -> int | None:
    """How many clusters a run's pairs are, for records of versions that did not say it."""
    path = Path(run) / "pairs.jsonl"
    if not path.exists():
        return None
    try:
        return Pairs.load(path).n_distinct
    except (ValueError, OSError) as error:
        log.warning("%s can't be read, so all its pairs are taken as different: %s", path, error)
        return None


def read_scores(run: str | Path, step: int) -> torch.Tensor:
    """The per-pair scores of a recorded step: float [pairs, E].

    Raises:
        ValueError: there is no such record, or it can't be read.
    """
    content = _content(run, step)
    if content is None or "invalid" in content:
        raise ValueError(f"{run} has no valid record of step {step}")
    graph = _one(graph_from(content["graph"], record_dir(run, step) / "record.json"))
    shape = (torch.float32, (content["n_pairs"], graph.n_edges))
    return _tensors(run, step, content, "scores", {"per_pair": shape})["per_pair"]


def read_log_probs(run: str | Path) -> torch.Tensor | None:
    """Log-probabilities of the base, beside the record of step 0: float [N, V]; None without any.

    Raises:
        ValueError: they can't be read.
    """
    content = _content(run, 0)
    if content is None or "log_probs" not in content:
        return None
    shape = (torch.float32, tuple(content["log_probs"]))
    return _tensors(run, 0, content, "logprobs", {"log_probs": shape})["log_probs"]


def read_kept(run: str | Path) -> Kept | None:
    """What the record of step 0 keeps of the base to compare heads with; None without any.

    Raises:
        ValueError: it can't be read.
    """
    content = _content(run, 0)
    if content is None or content.get("kept") is None:
        return None
    path = record_dir(run, 0) / "record.json"
    form, graph = as_form(content["kept"], KeptForm, path), graph_from(content["graph"], path)
    shapes = shapes_of_kept(form, content["n_pairs"], graph.n_heads_total)
    return kept_from(form, _tensors(run, 0, content, "kept", shapes))


def recorded_steps(directory: Path) -> list[int]:
    """Steps N with `step-N` in a directory, in order; drafts of a crashed write are passed over."""
    names = {path.stem.removeprefix("step-") for path in directory.glob("step-*")}
    return sorted(int(name) for name in names if name.isdecimal())


def read_records(run: str | Path) -> list[Record]:
    """Every record of a run, by step; they must all be comparable.

    A record that can't be read is left out, with a warning that names it.

    Raises:
        ValueError: two records were measured on different pairs or with different settings.
    """
    return read_steps(run)[0]


def invalid_steps(run: Path) -> dict[int, str]:
    """Steps whose record is invalid, with the reason; damaged records are passed over."""
    found = {}
    for step in recorded_steps(run / "heads"):
        with suppress(ValueError):
            content = _content(run, step)
            if content is not None and "invalid" in content:
                found[step] = content["invalid"]
    return found


def read_steps(run: str | Path) -> tuple[list[Record], dict[int, str]]:
    """`read_records` and `invalid_steps` of a run, from one reading."""
    records: list[Record] = []
    invalid: dict[int, str] = {}
    for step in recorded_steps(Path(run) / "heads"):
        try:
            content = _content(run, step)
            if content is None:
                continue
            if "invalid" in content:
                invalid[step] = content["invalid"]
            else:
                records.append(_open(run, content))
        except ValueError as error:
            log.warning("left out: %s", error)
    for record in records[1:]:
        check_comparable(records[0], record)
    return records, invalid
