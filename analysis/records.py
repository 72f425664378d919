"""What a run knows about its checkpoints, in local files that are the source of truth.

    RUN/heads/step-000040/record.json                numbers and settings of one checkpoint
    RUN/heads/step-000040/scores-<hash>.safetensors  its tensors, named by their content
    RUN/evaluations/step-000040.json                 held-out pass@1
    RUN/metrics.jsonl                                what the trainer logged

A file appears under its name only when it is whole: it is written beside it, flushed to disk and
renamed. `record.json` names its tensor file and is renamed last, so that a crash leaves the old
record or the new one, never a mixture. Writing a step again replaces that step alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from analysis.circuits import head_mask
from analysis.graph import Graph

SCHEMA = 1


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a path to write to; rename it to `path` on success, remove it on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield draft
        with open(draft, "rb") as written:
            os.fsync(written.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    with atomic_write(path) as draft:
        draft.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Record:
    """The heads of one checkpoint.

    per_pair: scores float [pairs, E];  circuit: bool [E];  importance: float [L * H];
    bootstrap: heads of resampled circuits, bool [resamples, L * H]
    settings: everything that must be equal for two records to be comparable.
    """

    step: int
    graph: Graph
    pairs_hash: str
    settings: dict[str, Any]
    model: dict[str, Any]
    completeness_gap: float
    metric_clean: float
    metric_corrupted: float
    seconds: float
    per_pair: torch.Tensor
    circuit: torch.Tensor
    importance: torch.Tensor
    bootstrap: torch.Tensor

    @property
    def heads(self) -> torch.Tensor:
        """Heads in the circuit: bool [L * H]."""
        return head_mask(self.graph, self.circuit)

    @property
    def n_edges(self) -> int:
        return int(self.circuit.sum())


_TENSORS = ("per_pair", "circuit", "importance", "bootstrap")


def record_dir(run: Path, step: int) -> Path:
    return run / "heads" / f"step-{step:06d}"


def write_record(run: Path, record: Record) -> Path:
    """Write or replace the record of one step; the path of its JSON file."""
    directory = record_dir(run, record.step)
    blob = save({name: getattr(record, name).contiguous() for name in _TENSORS})
    tensors = f"scores-{hashlib.sha256(blob).hexdigest()[:16]}.safetensors"
    with atomic_write(directory / tensors) as draft:
        draft.write_bytes(blob)
    values = {f.name: getattr(record, f.name) for f in fields(record) if f.name not in _TENSORS}
    summary = {"edges": record.n_edges, "heads": record.graph.names_of(record.heads)}
    content = {**values, "graph": asdict(record.graph), "circuit": summary, "tensors": tensors}
    write_json(directory / "record.json", {"schema": SCHEMA, **content})
    for stale in directory.glob("scores-*.safetensors"):
        if stale.name != tensors:
            stale.unlink()
    return directory / "record.json"


def read_record(run: Path, step: int) -> Record | None:
    """The record of a step, or None if there is none.

    Raises:
        ValueError: the record was written by a newer schema, or its tensors are missing or damaged.
    """
    path = record_dir(run, step) / "record.json"
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["schema"] > SCHEMA:
        raise ValueError(f"{path} has schema {content['schema']}; this version reads {SCHEMA}")
    tensors = path.parent / content["tensors"]
    if not tensors.exists():
        raise ValueError(f"{path} names {tensors.name}, which is missing; track this step again")
    loaded: dict[str, Any] = load_file(tensors)
    wanted = {f.name for f in fields(Record)} - set(_TENSORS)
    values = {name: content[name] for name in wanted}
    return Record(**{**values, "graph": Graph(**content["graph"])}, **loaded)


def recorded_steps(directory: Path) -> list[int]:
    """Steps N with `step-N` in a directory, in order; drafts of a crashed write are passed over."""
    names = [path.stem for path in directory.glob("step-*")]
    return sorted(int(name.removeprefix("step-")) for name in names)


def read_records(run: Path) -> list[Record]:
    """Every record of a run, by step; they must all be comparable.

    Raises:
        ValueError: two records were measured on different pairs or with different settings.
    """
    found = [read_record(run, step) for step in recorded_steps(run / "heads")]
    records = [record for record in found if record is not None]
    for record in records[1:]:
        check_comparable(records[0], record)
    return records


def check_comparable(a: Record, b: Record) -> None:
    """Raise ValueError, naming the difference, unless two records measure the same thing."""
    for what in ("pairs_hash", "settings", "graph"):
        if getattr(a, what) != getattr(b, what):
            raise ValueError(
                f"the records of steps {a.step} and {b.step} differ in {what} "
                f"({getattr(a, what)} and {getattr(b, what)}), so their heads can't be compared"
            )


def write_evaluation(run: Path, step: int, score: dict[str, Any]) -> None:
    """Write or replace the held-out score of one step."""
    path = run / "evaluations" / f"step-{step:06d}.json"
    write_json(path, {"schema": SCHEMA, "step": step, **score})


def read_evaluations(run: Path) -> dict[int, dict[str, Any]]:
    """Held-out scores by step."""
    directory = run / "evaluations"
    paths = {step: directory / f"step-{step:06d}.json" for step in recorded_steps(directory)}
    return {step: json.loads(path.read_text(encoding="utf-8")) for step, path in paths.items()}


def append_metrics(run: Path, step: int, values: dict[str, Any]) -> None:
    """Add one line to `metrics.jsonl`; a line that a crash cut short is closed first."""
    run.mkdir(parents=True, exist_ok=True)
    with open(run / "metrics.jsonl", "a+b") as lines:
        if lines.tell() > 0:
            lines.seek(-1, os.SEEK_END)
            if lines.read(1) != b"\n":
                lines.write(b"\n")
        lines.write((json.dumps({"step": step, **values}) + "\n").encode())


def read_metrics(run: Path) -> dict[int, dict[str, Any]]:
    """Logged values by step; later lines win (a resumed run), one cut by a crash is passed over."""
    merged: dict[int, dict[str, Any]] = {}
    path = run / "metrics.jsonl"
    if not path.exists():
        return merged
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            merged.setdefault(row.pop("step"), {}).update(row)
    return merged
