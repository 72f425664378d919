"""What is compared: runs, records in runs, and graph files, found by the texts that name them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.cli import key
from analysis.ranges import COUNT, NATURAL, SEED, SHARE

if TYPE_CHECKING:
    from analysis.circuits.graph_contents import GraphFile
    from analysis.comparison.definitions import Subject

NAMES = "abcdefgh"

_RECORD = re.compile(r"(?:step|checkpoint)-(\d+)$")


@dataclass
class Options:
    a: str | None = key(
        "run, RUN@STEP, RUN/checkpoint-STEP, RUN/heads/step-STEP, hub:ORG/NAME, or graph file",
        None,
    )
    b: str | None = key("what a is compared with", None)
    c: str | None = key("one more to compare", None)
    d: str | None = key("as c", None)
    e: str | None = key("as c", None)
    f: str | None = key("as c", None)
    g: str | None = key("as c", None)
    h: str | None = key("as c", None)
    match: str | None = key(
        "where runs are compared: at equal kl (from the base), score (held out) or step; default: "
        "at the steps that are named, or their last",
        None,
        among=("kl", "score", "step"),
    )
    seeds: Any = key("runs of one training with other seeds: RUN1,RUN2,RUN3 or a glob", None)
    against: Any = key("as seeds, of another training that they are compared with", None)
    at: float | None = key(
        "seeds with match: the value; default: the largest that all have", None, NATURAL
    )
    out: str = key("directory for comparison.json and comparison.html", "comparison")
    q: float = key("false-discovery rate of called heads", 0.05, SHARE)
    cross: bool = key("run each circuit in each model", True)
    model_a: str | None = key("model of a (directory, adapter or hub name), if not as above", None)
    model_b: str | None = key("as model_a", None)
    model_c: str | None = key("as model_a", None)
    model_d: str | None = key("as model_a", None)
    model_e: str | None = key("as model_a", None)
    model_f: str | None = key("as model_a", None)
    model_g: str | None = key("as model_a", None)
    model_h: str | None = key("as model_a", None)
    pairs: str | None = key("JSONL file of pairs for cross; default: those of the runs", None)
    metric: str = key("of cross where no record names one: kl, logit_diff or nll", "kl")
    batch_size: int = key("pairs in one pass; does not change the result", 8, COUNT)
    seed: int = key("of the random circuits", 0, SEED)
    device: str = key("cpu, cuda, or auto: cuda if there is one", "auto")
    dtype: str = key("of the models: float32, float64 or bfloat16", "float32")

    def __post_init__(self) -> None:
        circuits = [name for name in NAMES if getattr(self, name) is not None]
        if self.seeds is None:
            if self.against is not None or self.at is not None:
                raise ValueError("against and at are for seeds=RUN1,RUN2,RUN3")
            if missing := [f"{name}=..." for name in "ab" if getattr(self, name) is None]:
                raise ValueError(f"missing: {', '.join(missing)} (or seeds=RUN1,RUN2,RUN3)")
            if self.match is not None and circuits != ["a", "b"]:
                raise ValueError("match compares two runs; give a and b only")
        elif circuits:
            raise ValueError(f"give seeds or {', '.join(circuits)}, and not both")
        elif self.at is not None and self.match not in ("kl", "score", "step"):
            raise ValueError("at is a value of what is matched; give match=kl, score or step too")


def locate(given: str) -> tuple[Path, int | None]:
    """The run and the step that a text names (None: the last record), or a graph file.

    Raises:
        ValueError: there is nothing of that name.
    """
    from analysis.reporting.hub import fetched, is_on_hub

    if is_on_hub(given):
        name, at, step = given.partition("@")
        return locate(f"{fetched(name)}{at}{step}")
    path = Path(given).expanduser()
    if path.name == "record.json":
        path = path.parent
    if path.is_file():
        if path.suffix not in (".json", ".pt"):
            raise ValueError(f"{given} is no graph file; its name must end in .json or .pt")
        return path, None
    if (path / "heads").is_dir():
        return path, None
    found = _RECORD.search(path.name)
    run = path.parent.parent if path.parent.name == "heads" else path.parent
    if found and (run / "heads").is_dir():
        return run, int(found[1])
    name, at, step = str(path).rpartition("@")
    if at and Path(name).is_dir():
        if not step.isdecimal():
            raise ValueError(f"{given} must end in @ and a step, such as {name}@40")
        return Path(name), int(step)
    if path.is_dir():
        raise ValueError(f"{given} is not a run with tracked heads: it holds no directory heads")
    raise ValueError(
        f"there is no {given}; give a run, RUN@STEP, RUN/checkpoint-STEP, RUN/heads/step-STEP, "
        "hub:ORG/NAME, or a graph file"
    )


def read_subject(name: str, given: str) -> Subject:
    """Read what a key such as `a` names.

    Raises:
        ValueError: it is missing or can't be read; for a missing step, with the steps there are.
    """
    from analysis.circuits.graph_files import read_circuit
    from analysis.comparison.definitions import Subject
    from analysis.records.record_files import (
        invalid_steps,
        read_record,
        record_dir,
        recorded_steps,
    )

    path, step = locate(given)
    if path.is_file():
        return _of_file(name, path, read_circuit(path))
    known_steps, invalid = recorded_steps(path / "heads"), invalid_steps(path)
    if step in invalid:
        raise ValueError(f"the record of step {step} of {path} is invalid: {invalid[step]}")
    there = [n for n in known_steps if (record_dir(path, n) / "record.json").exists()]
    steps = [n for n in there if n not in invalid]
    if not steps:
        raise ValueError(f"{path} has no records; track its checkpoints (headlab track)")
    if step is not None and step not in steps:
        known = ", ".join(map(str, steps))
        raise ValueError(f"{path} has no record of step {step}; it has those of steps {known}")
    record = read_record(path, steps[-1] if step is None else step)
    assert record is not None, "it is there, and valid"
    base = read_record(path, 0) if record.step else record
    return Subject(
        name,
        f"{_run_name(path)}@{record.step}",
        path,
        record.graph,
        record.circuit,
        record.mean,
        record,
        base,
    )


def _of_file(name: str, path: Path, file: GraphFile, shared: bool = False) -> Subject:
    import torch

    from analysis.comparison.definitions import Subject

    edges = file.circuit.edges
    unknown = torch.full(edges.shape, math.nan)
    mean = unknown if file.scores is None else file.scores.float()
    return Subject(name, path.stem, path, file.circuit.graph, edges, mean, file=file, shared=shared)


def on_one_graph(subjects: list[Subject]) -> list[Subject]:
    """The same with files that know no shared heads brought to the graph of the others.

    That is the graph of the records, or without any the one that shares most.
    """
    from analysis.circuits.shared_heads import can_share, share

    files = [subject for subject in subjects if subject.file is not None]
    records = [subject for subject in subjects if subject.file is None]
    graph = (records or sorted(files, key=lambda file: file.graph.n_destinations))[0].graph
    found = []
    for subject in subjects:
        own, file = subject.graph, subject.file
        if file is not None and own != graph and can_share(own, graph):
            moved = own.n_destinations != graph.n_destinations
            subject = _of_file(subject.name, subject.source, share(file, graph), moved)
        found.append(subject)
    return found


def _run_name(run: Path) -> str:
    from analysis.records.run_file import RunFile, is_run

    return RunFile.read(run).name if is_run(run) else run.resolve().name


def read_given(options: Options) -> list[Subject]:
    """Everything that is compared, in order.

    Raises:
        ValueError: as `read_subject`.
    """
    given = {name: getattr(options, name) for name in NAMES if getattr(options, name) is not None}
    for name in NAMES:
        if getattr(options, f"model_{name}") is not None and name not in given:
            raise ValueError(f"model_{name} is given, but no {name}")
    found = []
    for name, text in given.items():
        try:
            found.append(read_subject(name, text))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return found


def checked(subjects: list[Subject]) -> list[Subject]:
    """The subjects on one graph.

    Raises:
        ValueError: two of them do not measure the same thing.
    """
    from itertools import combinations

    from analysis.comparison.definitions import check_pair

    found = on_one_graph(subjects)
    for pair in combinations(found, 2):
        check_pair(*pair)
    return found


def read_subjects(options: Options) -> list[Subject]:
    """Everything that is compared, in order, on one graph.

    Raises:
        ValueError: as `read_subject`, or two of them do not measure the same thing.
    """
    return checked(read_given(options))


def run_named(name: str, given: str) -> Path:
    """The directory of a whole run that a key names, for what is compared over its checkpoints.

    Raises:
        ValueError: it names a single checkpoint or a graph file, or nothing.
    """
    try:
        path, step = locate(given)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if path.is_file() or step is not None:
        raise ValueError(f"{name}={given} is one circuit; give a whole run, RUN, without a step")
    return path


def runs_named(name: str, given: object) -> list[Path]:
    """The directories of the runs that a list names: RUN1,RUN2, [RUN1,RUN2] or a glob.

    Raises:
        ValueError: there is none, or as `run_named`.
    """
    entries = given if isinstance(given, list) else str(given).split(",")
    found = []
    for entry in (str(entry).strip() for entry in entries):
        places = _matching(entry) if set("*?[") & set(entry) else [entry]
        if not places:
            raise ValueError(f"{name}: no run with tracked heads matches {entry}")
        found += [run_named(name, place) for place in places]
    return found


def _matching(pattern: str) -> list[str]:
    """The directories with tracked heads that match a glob."""
    path = Path(pattern).expanduser()
    found = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    return sorted(str(place) for place in found if (place / "heads").is_dir())


def check_options(options: Options) -> None:
    """Raise ValueError for a value that is unknown or out of range."""
    import torch

    from analysis.attribution.metrics import metric_named
    from analysis.models.loading import DTYPES

    if options.dtype not in DTYPES:
        raise ValueError(f"unknown dtype {options.dtype!r}; known: {', '.join(DTYPES)}")
    if options.device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"unknown device {options.device!r}; known: auto, cpu, cuda")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, but torch finds no GPU; give device=cpu")
    metric_named(options.metric)
