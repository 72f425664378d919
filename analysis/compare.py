"""Compare runs, checkpoints or circuits: heads, edges, layers, and each circuit in each model.

    python -m analysis.compare a=runs/my-sft b=runs/my-grpo out=comparison

Each of a to h is a run (its last record), a record in a run (RUN@40, RUN/checkpoint-40 or
RUN/heads/step-000040), or a graph file of the EAP-IG package or of MIB (.json, .pt), which has no
scores of single pairs and so no intervals. Every pair is compared in order, a -> b, a -> c, b -> c;
analysis/comparison.py has the definitions. OUT gets comparison.json and comparison.html.

Cross-faithfulness: the circuit of one in the model of another, (m(C) - m(empty)) / (m(full) -
m(empty)) with the other edges patched (analysis/patching.py), with a 95 % bootstrap over pairs. The
control is a random circuit of the same size: edges are ranked at random (as analysis.faithfulness
does), and the n edges of largest entry strength under that ranking (analysis/strength.py) are
taken, so that all of them lie on paths from the input to the logits; ties may add a few. A model is
RUN/checkpoint-STEP, or the path that the record names, and must have the weights that were
recorded; model_a=... names another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.cli import key, main

if TYPE_CHECKING:
    import torch

    from analysis.circuits import Circuit
    from analysis.comparison import Cell, Subject
    from analysis.pairs import Pairs
    from analysis.patching import CircuitEvaluation

NAMES = "abcdefgh"
RESAMPLES = 1000  # of cross-faithfulness where no record says how many
_RECORD = re.compile(r"(?:step|checkpoint)-(\d+)$")


@dataclass
class Options:
    a: str = key("run, RUN@STEP, RUN/checkpoint-STEP, RUN/heads/step-STEP, or graph file")
    b: str = key("what a is compared with")
    c: str | None = key("one more to compare", None)
    d: str | None = key("as c", None)
    e: str | None = key("as c", None)
    f: str | None = key("as c", None)
    g: str | None = key("as c", None)
    h: str | None = key("as c", None)
    out: str = key("directory for comparison.json and comparison.html", "comparison")
    q: float = key("false-discovery rate of called heads", 0.05)
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
    batch_size: int = key("pairs in one pass; does not change the result", 8)
    seed: int = key("of the random circuits", 0)
    device: str = key("cpu, cuda, or auto: cuda if there is one", "auto")
    dtype: str = key("of the models: float32, float64 or bfloat16", "float32")


def locate(given: str) -> tuple[Path, int | None]:
    """The run and the step that a text names (None: the last record), or a graph file.

    Raises:
        ValueError: there is nothing of that name.
    """
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
        "or a graph file"
    )


def read_subject(name: str, given: str) -> Subject:
    """Read what a key such as `a` names.

    Raises:
        ValueError: it is missing or can't be read; for a missing step, with the steps there are.
    """
    import torch

    from analysis.circuits import prune
    from analysis.comparison import Subject
    from analysis.graph_files import read_graph
    from analysis.records import read_record, record_dir, recorded_steps

    path, step = locate(given)
    if path.is_file():
        circuit, scores = read_graph(path)
        graph = circuit.graph
        edges, mean = prune(graph, circuit.edges[None])[0], scores[graph.edge_mask].float()
        return Subject(name, path.stem, path, graph, edges, torch.nan_to_num(mean))
    known_steps = recorded_steps(path / "heads")
    steps = [n for n in known_steps if (record_dir(path, n) / "record.json").exists()]
    if not steps:
        raise ValueError(f"{path} has no records; track its checkpoints (python -m analysis.track)")
    if step is not None and step not in steps:
        known = ", ".join(map(str, steps))
        raise ValueError(f"{path} has no record of step {step}; it has those of steps {known}")
    record = read_record(path, steps[-1] if step is None else step)
    assert record is not None
    base = read_record(path, 0) if record.step else record
    return Subject(
        name, f"{_run_name(path)}@{record.step}", path, record.graph, record.circuit, record.mean,
        record, base,
    )  # fmt: skip


def _run_name(run: Path) -> str:
    from analysis.table import read_config

    if not (run / "config.yaml").exists():
        return run.resolve().name
    return str(read_config(run).get("name", run.resolve().name))


def read_subjects(options: Options) -> list[Subject]:
    """Everything that is compared, in order.

    Raises:
        ValueError: as `read_subject`, or two of them do not measure the same thing.
    """
    from itertools import combinations

    from analysis.comparison import check_pair

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
    for pair in combinations(found, 2):
        check_pair(*pair)
    return found


def find_model(options: Options, subject: Subject) -> tuple[str | None, str]:
    """Path of a subject's model, or None; and, where it is None, the reason.

    Raises:
        ValueError: the path that was given does not exist.
    """
    wanted = f"model_{subject.name}"
    given = getattr(options, wanted)
    if given is not None:
        if given.startswith(("/", ".", "~")) and not Path(given).expanduser().is_dir():
            raise ValueError(f"there is no directory {wanted}={given}")
        return str(Path(given).expanduser()) if Path(given).expanduser().is_dir() else given, ""
    if subject.record is None:
        return None, f"{subject.source} does not name its model; give {wanted}=DIR"
    checkpoint = subject.source / f"checkpoint-{subject.record.step}"
    if checkpoint.is_dir():
        return str(checkpoint), ""
    recorded = str(subject.record.origin.get("model", {}).get("path") or "")
    if recorded and Path(recorded).is_dir():
        return recorded, ""
    return None, (
        f"there is neither {checkpoint} nor the recorded model {recorded or '(none)'} here; "
        f"give {wanted}=DIR"
    )


def load_model(options: Options, subject: Subject, path: str) -> tuple[Any, str]:
    """A model, loaded as it was recorded, and how its weights differ from the recorded ones.

    The difference is "" if there is none, or nothing recorded to compare with.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from analysis.measurement import DTYPES, load_part
    from analysis.origin import weight_hashes

    origin = subject.record.origin.get("model", {}) if subject.record is not None else {}
    recorded = origin.get("dtype") if origin.get("dtype") in DTYPES else None
    model = load_part(AutoModelForCausalLM, path, dtype=getattr(torch, recorded or options.dtype))
    differences = []
    if recorded:
        found = weight_hashes(model)
        untrained = subject.record is not None and subject.record.step == 0
        for part in ("weights", "adapter"):
            if part == "adapter" and untrained and found[part] is None:
                continue  # an adapter that was not trained yet does nothing
            if part in origin and origin[part] != found[part]:
                differences.append(f"{part} {found[part]} where {origin[part]} was recorded")
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device=device, dtype=getattr(torch, options.dtype)).eval()
    return model, f"{path} has {' and '.join(differences)}" if differences else ""


def find_pairs(
    options: Options, subjects: Sequence[Subject], path: str
) -> tuple[Pairs | None, str]:
    """The pairs of cross-faithfulness, and what is to be said of them, such as why there are none.

    `path` is a model whose tokenizer reads pairs that are text.
    """
    from transformers import AutoTokenizer

    from analysis.measurement import load_part
    from analysis.pairs import Pairs, holds_text

    records = [subject for subject in subjects if subject.record is not None]
    if options.pairs is None and not records:
        return None, "graph files name no pairs; give pairs=FILE.jsonl"
    file = Path(options.pairs) if options.pairs else records[0].source / "pairs.jsonl"
    if not file.is_file():
        if options.pairs is not None:
            raise ValueError(f"there is no pairs file {file}")
        return None, f"there is no {file}; give pairs=FILE.jsonl"
    pairs = Pairs.load(file, load_part(AutoTokenizer, path) if holds_text(file) else None)
    wanted = records[0].record.pairs_hash if records and records[0].record else pairs.hash
    if pairs.hash == wanted:
        return pairs, ""
    note = f"{file} has pairs {pairs.hash}, and the circuits were found on {wanted}"
    return (None, note) if options.pairs is None else (pairs, note)


def random_circuit(circuit: Circuit, seed: int) -> Circuit:
    """As many edges as in a circuit (a few more on ties) at random, all on paths; see the top."""
    import torch

    from analysis.circuits import Circuit
    from analysis.resampling import Selection, largest, select
    from analysis.strength import by_destination, edge_strengths

    graph = circuit.graph
    order = torch.randperm(graph.n_edges, generator=torch.Generator().manual_seed(seed))
    ranks = (order + 1).float()
    if not circuit.n_edges:
        return circuit
    strengths = edge_strengths(graph, by_destination(graph, ranks[None]))
    cut = float(largest(strengths, [circuit.n_edges]))
    size = graph.n_edges + 1 - int(cut)  # ranks are 1 .. E, so this many are at least `cut`
    return Circuit(graph, select(graph, ranks, Selection(size)))


def faithfulness(evaluation: CircuitEvaluation, weights: torch.Tensor) -> torch.Tensor:
    """Of the pairs and of each resample of them: [1+R]."""
    circuit, full, empty = (
        weights @ m.double() for m in (evaluation.circuit, evaluation.full, evaluation.empty)
    )
    return (circuit - empty) / (full - empty)


def cross_faithfulness(
    options: Options, subjects: Sequence[Subject]
) -> tuple[list[Cell], list[str], dict[str, Any]]:
    """The cells, by model and then circuit; what is to be said of them; what they were made with.

    Raises:
        ValueError: a model or pairs that were given by name can't be used.
    """
    from analysis.comparison import Cell

    names = [subject.name for subject in subjects]

    def empty(model: str, reason: str) -> list[Cell]:
        return [Cell(circuit, model, reason) for circuit in names]

    if not options.cross:
        return [cell for name in names for cell in empty(name, "cross=false")], [], {}
    models = {subject.name: find_model(options, subject) for subject in subjects}
    paths = [path for path, _ in models.values() if path is not None]
    pairs, note = find_pairs(options, subjects, paths[0]) if paths else (None, "")
    cells: list[Cell] = []
    notes = [note] if note else []
    for subject in subjects:
        path, reason = models[subject.name]
        if path is None or pairs is None:
            cells += empty(subject.name, reason or note)
            continue
        explicit = getattr(options, f"model_{subject.name}") is not None
        try:
            model, difference = load_model(options, subject, path)
            if difference and not explicit:
                raise ValueError(f"{difference}; give model_{subject.name}={path} to use it so")
        except ValueError as error:
            if explicit:
                raise
            cells += empty(subject.name, str(error))
            continue
        if difference:
            notes.append(f"{difference}; used for {subject.name} as model_{subject.name} asks")
        cells += _column(options, subjects, subject.name, model, pairs)
        del model
    about = {
        "models": {name: path for name, (path, _) in models.items()},
        "pairs_hash": None if pairs is None else pairs.hash,
        "metric": _settings(subjects).get("metric", options.metric),
        "ablation": "patch",
        "dtype": options.dtype,
    }
    return cells, notes, about


def _settings(subjects: Sequence[Subject]) -> dict[str, Any]:
    """Settings of the records, which are all alike; none for graph files."""
    return next((s.record.settings for s in subjects if s.record is not None), {})


def _column(
    options: Options, subjects: Sequence[Subject], name: str, model: Any, pairs: Pairs
) -> list[Cell]:
    """Every circuit in one model."""
    from analysis.circuits import Circuit
    from analysis.comparison import Cell
    from analysis.intervals import estimate
    from analysis.patching import evaluate_circuits
    from analysis.resampling import resample_weights

    settings = _settings(subjects)
    circuits = [Circuit(subject.graph, subject.edges) for subject in subjects]
    control = [random_circuit(circuit, options.seed) for circuit in circuits]
    metric = settings.get("metric", options.metric)
    try:
        found = evaluate_circuits(
            model, pairs, circuits + control, metric, batch_size=options.batch_size
        )
    except ValueError as error:
        raise ValueError(f"in the model of {name}: {error}") from error
    weights = resample_weights(
        len(pairs), settings.get("resamples", RESAMPLES), settings.get("seed", 0)
    ).double()
    values = [faithfulness(evaluation, weights) for evaluation in found]
    own = values[[subject.name for subject in subjects].index(name)]

    return [
        Cell(
            subject.name, name, None, estimate(values[i]), estimate(values[i] - own),
            estimate(values[len(subjects) + i]), control[i].n_edges,
        )
        for i, subject in enumerate(subjects)
    ]  # fmt: skip


def check_options(options: Options) -> None:
    """Raise ValueError for a value that is unknown or out of range."""
    import torch

    from analysis.measurement import DTYPES
    from analysis.metrics import metric_named

    if options.dtype not in DTYPES:
        raise ValueError(f"unknown dtype {options.dtype!r}; known: {', '.join(DTYPES)}")
    if options.device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"unknown device {options.device!r}; known: auto, cpu, cuda")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, but torch finds no GPU; give device=cpu")
    if not 0 < options.q < 1:
        raise ValueError(f"q, a false-discovery rate, must lie in (0, 1), not {options.q}")
    if options.batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, not {options.batch_size}")
    metric_named(options.metric)


def act(options: Options) -> None:
    """Compare, print and write."""
    from itertools import combinations

    from transformers.utils import logging as transformers_logging

    from analysis.comparison import compare_subjects, profile
    from analysis.comparison_page import write_page
    from analysis.comparison_text import Findings, format_findings, to_json
    from analysis.records import read_scores, write_json

    check_options(options)
    transformers_logging.disable_progress_bar()
    subjects = read_subjects(options)
    comparisons = []
    for a, b in combinations(subjects, 2):
        per_pair = None
        if a.record is not None and b.record is not None:
            per_pair = read_scores(a.source, a.record.step), read_scores(b.source, b.record.step)
        comparisons.append(compare_subjects(a, b, options.q, per_pair, show_progress=True))
    cells, notes, made_with = cross_faithfulness(options, subjects)
    findings = Findings(
        subjects, comparisons, {s.name: profile(s) for s in subjects}, cells, notes, made_with,
        options.q, options.seed,
    )  # fmt: skip
    out = Path(options.out)
    write_json(out / "comparison.json", to_json(findings))
    write_page(out / "comparison.html", findings)
    print(format_findings(findings))
    print(f"wrote {out / 'comparison.json'} and {out / 'comparison.html'}")


if __name__ == "__main__":
    main(Options, __doc__ or "", act)
