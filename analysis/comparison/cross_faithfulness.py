"""The circuit of one subject in the model of another, beside random circuits of the same size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.comparison.subjects import Options

if TYPE_CHECKING:
    from analysis.circuits.circuit import Circuit
    from analysis.comparison.definitions import Cell, Subject
    from analysis.models.loading import Model
    from analysis.prompts.pairs import Pairs
    from analysis.records.checkpoints import Named

RESAMPLES = 1000  # of cross-faithfulness where no record says how many


def model_of(options: Options, subject: Subject) -> tuple[Named | None, str]:
    """The model of a subject, or None; and, where it is None, the reason.

    Raises:
        ValueError: there is no model of the name that was given.
    """
    from analysis.records.checkpoints import find_model

    key = f"model_{subject.name}"
    given = getattr(options, key)
    if given is not None:
        try:
            return find_model(given), ""
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from error
    if subject.record is None:
        return None, f"{subject.source} does not name its model; give {key}=DIR"
    try:
        return find_model(f"{subject.source}@{subject.record.step}"), ""
    except ValueError as error:
        return None, f"{error}; give {key}=DIR"


def load_as_recorded(options: Options, subject: Subject, named: Named) -> tuple[Model, str]:
    """A subject's model, and how its weights differ from the recorded ones.

    The difference is "" if there is none, or nothing recorded to compare with.
    """
    import torch

    from analysis.models.loading import DTYPES, load_model
    from analysis.models.provenance import weight_hashes

    origin = subject.record.origin.get("model", {}) if subject.record is not None else {}
    recorded = origin.get("dtype") if origin.get("dtype") in DTYPES else None
    model = load_model(named.path, recorded or options.dtype, options.device, named.base)
    differences = []
    if recorded:
        found = weight_hashes(model)
        untrained = subject.record is not None and subject.record.step == 0
        for part in ("weights", "adapter"):
            if part == "adapter" and untrained and found[part] is None:
                continue  # an adapter that was not trained yet does nothing
            if part in origin and origin[part] != found[part]:
                differences.append(f"{part} {found[part]} where {origin[part]} was recorded")
    model = model.to(getattr(torch, options.dtype))
    return model, f"{named.path} has {' and '.join(differences)}" if differences else ""


def find_pairs(
    options: Options, subjects: Sequence[Subject], named: Named
) -> tuple[Pairs | None, str]:
    """The pairs of cross-faithfulness, and what is to be said of them, such as why there are none.

    `named` is a model whose tokenizer reads pairs that are text.
    """
    from analysis.models.loading import load_tokenizer
    from analysis.prompts.pairs import Pairs, holds_text

    records = [subject for subject in subjects if subject.record is not None]
    if options.pairs is None and not records:
        return None, "graph files name no pairs; give pairs=FILE.jsonl"
    file = Path(options.pairs) if options.pairs else records[0].source / "pairs.jsonl"
    if not file.is_file():
        if options.pairs is not None:
            raise ValueError(f"there is no pairs file {file}")
        return None, f"there is no {file}; give pairs=FILE.jsonl"
    tokenizer = load_tokenizer(named.path, named.base) if holds_text(file) else None
    pairs = Pairs.load(file, tokenizer, metric="kl")
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
    # the models and the pairs, which may be missing
    models = {subject.name: model_of(options, subject) for subject in subjects}
    there = [named for named, _ in models.values() if named is not None]
    pairs, note = find_pairs(options, subjects, there[0]) if there else (None, "")
    cells: list[Cell] = []
    notes = [note] if note else []
    # a column for each model; one that can't be had is empty, one asked for by name is an error
    for subject in subjects:
        named, reason = models[subject.name]
        if named is None or pairs is None:
            cells += empty(subject.name, reason or note)
            continue
        explicit = getattr(options, f"model_{subject.name}") is not None
        try:
            model, difference = load_as_recorded(options, subject, named)
            if difference and not explicit:
                mend = f"give model_{subject.name}={named.path} to use it so"
                raise ValueError(f"{difference}; {mend}")
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
        "models": {name: named and named.path for name, (named, _) in models.items()},
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
    options: Options, subjects: Sequence[Subject], name: str, model: Model, pairs: Pairs
) -> list[Cell]:
    """Every circuit in one model."""
    from analysis.circuits.circuit import Circuit
    from analysis.circuits.faithfulness import evaluate_circuits
    from analysis.comparison.definitions import Cell
    from analysis.heads.resampling import resample_weights
    from analysis.intervals import estimate, resamples_of

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
        pairs.groups, settings.get("resamples", RESAMPLES), settings.get("seed", 0)
    )
    weights = resamples_of(weights, pairs.n_distinct).double()
    values = [evaluation.resampled(weights) for evaluation in found]
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
