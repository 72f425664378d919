"""The circuit of one subject in the model of another, beside random circuits of the same size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.comparison.subjects import Options

if TYPE_CHECKING:
    import torch

    from analysis.circuits.circuit import Circuit
    from analysis.circuits.faithfulness import CircuitEvaluation
    from analysis.comparison.definitions import Cell, Subject
    from analysis.prompts.pairs import Pairs

RESAMPLES = 1000  # of cross-faithfulness where no record says how many


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

    from analysis.models.loading import DTYPES, load_part
    from analysis.models.provenance import weight_hashes

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

    from analysis.models.loading import load_part
    from analysis.prompts.pairs import Pairs, holds_text

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

    from analysis.circuits.circuit import Circuit
    from analysis.heads.resampling import Selection, largest, select
    from analysis.heads.widest_paths import by_destination, edge_strengths

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
    from analysis.comparison.definitions import Cell

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
    from analysis.circuits.circuit import Circuit
    from analysis.circuits.faithfulness import evaluate_circuits
    from analysis.comparison.definitions import Cell
    from analysis.heads.resampling import resample_weights
    from analysis.intervals import estimate

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
            subject.name,
            name,
            None,
            estimate(values[i]),
            estimate(values[i] - own),
            estimate(values[len(subjects) + i]),
            control[i].n_edges,
        )
        for i, subject in enumerate(subjects)
    ]
