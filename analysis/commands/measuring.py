"""What the command lines that measure a model on pairs share: options, loading, attribution."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.circuits.share import check_fraction
from analysis.cli import key
from analysis.models.loading import DTYPES, load_config, load_model, load_tokenizer
from analysis.ranges import COUNT, NATURAL, PART, SHARE

if TYPE_CHECKING:
    from analysis.attribution.edge_scores import EdgeScores
    from analysis.attribution.forecast import Forecast
    from analysis.circuits.circuit import Circuit
    from analysis.models.loading import Model
    from analysis.prompts.pairs import Pairs


@dataclass
class ModelOptions:
    path: str = key("directory, hub name (NAME@REVISION) or RUN@STEP; may be an adapter")


@dataclass
class PairsOptions:
    path: str = key("JSONL file of pairs")


@dataclass
class AttributionOptions:
    method: str = key(
        "EAP, EAP-IG-inputs, EAP-IG-activations, EAP-IG-mean (of these two), clean-corrupted, "
        "CEAP, GIM (not with kl) or exact",
        "EAP-IG-inputs",
    )
    metric: str = key("kl, logit_diff or nll", "kl")
    ig_steps: Any = key(
        "points on the path, or auto: 6 midpoints and more where a pair needs them", 5, COUNT
    )
    gap: float = key(
        "of ig_steps=auto: what a pair's path may miss, as a share of the metric's range on it",
        0.05,
        SHARE,
    )
    quadrature: str = key("left, right, midpoint or gauss-legendre", "left")
    kv: str = key("grouped, or ungrouped: a k and a v for every query head", "grouped")
    routing: str = key(
        "of a mixture of experts: free, or frozen, as at the clean prompt in every run; the "
        "completeness gap of both is told",
        "free",
    )
    batch_size: int = key("pairs in one pass; does not change the result", 8, COUNT)
    recompute: Any = key(
        "run each layer twice, which needs less memory and more time and does not change the "
        "result: true, false, or auto, where memory would not be enough",
        "auto",
    )
    dtype: str = key(" or ".join(DTYPES), "float32")
    check_dtype: bool = key(
        "of bfloat16 or float16: score the first pairs in float32 too, and say how the top edges "
        "agree; twice the memory of the weights beside them",
        False,
    )


@dataclass
class CircuitOptions:
    top_n: int | None = key("edges in the circuit; give one of these three", None, COUNT)
    fraction: Any = key(
        "share of all edges, or auto, as in tracking.fraction; default: all edges", None, PART
    )
    threshold: float | None = key("|score| from which on an edge is in", None, NATURAL)
    greedy: bool = key("grow the circuit from the logits up", False)
    signed: bool = key("rank by score instead of |score|", False)

    def __post_init__(self) -> None:
        if self.fraction is not None:
            try:
                check_fraction(self.fraction)
            except ValueError as error:
                raise ValueError(f"circuit.{error}") from error


@dataclass
class Options:
    model: ModelOptions = field(default_factory=ModelOptions)
    pairs: PairsOptions = field(default_factory=PairsOptions)
    out: str = key("directory for the results")
    attribution: AttributionOptions = field(default_factory=AttributionOptions)
    circuit: CircuitOptions = field(default_factory=CircuitOptions)


def load(options: Options) -> tuple[Model, Pairs]:
    """The model, on the GPU if there is one, and the pairs.

    Raises:
        ValueError: either can't be read.
    """
    from analysis.attribution.eap import check_ranked, check_settings
    from analysis.prompts.pairs import Pairs, holds_text
    from analysis.records.checkpoints import find_model

    settings, dtype = settings_of(options), options.attribution.dtype
    if dtype not in DTYPES:
        raise ValueError(f"unknown attribution.dtype {dtype!r}; known: {', '.join(DTYPES)}")
    check_settings(**settings)
    check_ranked(settings["method"], settings["metric"])
    named = find_model(options.model.path)
    file = Path(options.pairs.path)
    if not file.is_file():
        raise ValueError(f"there is no pairs file {file}")
    load_config(named.path, named.base)  # which says soon that it can't be read
    tokenizer = load_tokenizer(named.path, named.base) if holds_text(file) else None
    pairs = Pairs.load(file, tokenizer, settings["metric"])
    return load_model(named.path, dtype, base=named.base), pairs


def measure(options: Options, model: Model, pairs: Pairs) -> EdgeScores:
    """The edge scores that the options ask for."""
    from analysis.attribution.eap import attribute

    return attribute(model, pairs, **settings_of(options))


def planned(options: Options, model: Model, pairs: Pairs) -> Forecast:
    """What `measure`, `checked` and `experts_of` will need.

    Raises:
        ValueError: as `attribute`; of the method exact.
    """
    from analysis.attribution.forecast import (
        check_forecast,
        forecast,
        measured,
        some_of,
        tokens_in,
    )

    settings, size = settings_of(options), options.attribution.batch_size
    found, scores = forecast(model, pairs, **settings)
    tried = some_of(pairs, found.tried)
    device = next(model.parameters()).device
    _, seconds, _, peak = measured(lambda: experts_of(options, model, tried, scores), device)
    times = tokens_in(pairs, size) / tokens_in(tried, size)
    found = replace(found, seconds=found.seconds + seconds * times, peak=max(found.peak, peak))
    if options.attribution.check_dtype:
        seconds, peak = check_forecast(model, found, tried, scores, settings)
        found = replace(
            found,
            seconds=found.seconds + seconds,
            peak=max(found.peak, peak),
            other=max(found.other, peak),
        )
    return found


def settings_of(options: Options) -> dict[str, Any]:
    """What `attribute` is told."""
    settings = asdict(options.attribution)
    del settings["dtype"], settings["check_dtype"]
    return settings


def checked(
    options: Options, model: Model, pairs: Pairs, scores: EdgeScores
) -> dict[str, Any] | None:
    """How the scores agree with those in float32; None where that is not asked, or nothing else."""
    from analysis.attribution.precision import check_dtype

    if not options.attribution.check_dtype:
        return None
    found = check_dtype(model, pairs, scores, **settings_of(options))
    print(f"check_dtype: {found or 'nothing to check'}")
    return None if found is None else asdict(found)


def experts_of(options: Options, model: Model, pairs: Pairs, scores: EdgeScores) -> dict[str, Any]:
    """What is said of a mixture of experts: its layers, and the gap of each routing.

    Nothing of other models, and no gap of methods that are no integral along the embeddings.
    """
    from analysis.attribution.completeness import completeness_gap
    from analysis.attribution.eap import attribute
    from analysis.heads.experts import layers_with_experts
    from analysis.models.routing import ROUTINGS

    own = options.attribution
    layers = list(layers_with_experts(model, pairs))
    if not layers:
        return {}
    if own.method not in ("EAP-IG-inputs", "CEAP"):  # of both the input's scores are the same
        return {"routing": own.routing, "layers": layers}
    [other] = (routing for routing in ROUTINGS if routing != own.routing)
    if own.ig_steps == "auto":
        gap = attribute(model, pairs, **settings_of(options) | {"routing": other}).completeness_gap
    else:
        settings = (own.metric, own.ig_steps, own.quadrature, own.batch_size)
        gap = completeness_gap(model, pairs, *settings, other, own.recompute)
    both = {own.routing: scores.completeness_gap, other: gap}
    found = {routing: both[routing] for routing in ROUTINGS}
    return {"routing": own.routing, "layers": layers, "completeness_gap": found}


def circuit_of(options: Options, scores: EdgeScores) -> Circuit:
    """The circuit that the options ask for; all edges if they name no size."""
    import torch

    from analysis.circuits.circuit import Circuit, select_circuit

    wanted = asdict(options.circuit)
    if all(wanted[name] is None for name in ("top_n", "fraction", "threshold")):
        return Circuit(scores.graph, torch.ones(scores.graph.n_edges, dtype=torch.bool))
    return select_circuit(scores, **wanted)


def summary(
    options: Options, scores: EdgeScores, experts: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What was measured, and how, for the files of a command. experts: of `experts_of`."""
    from analysis.models.hub import commit_of
    from analysis.records.checkpoints import find_model

    commit = commit_of(find_model(options.model.path).path)
    attribution = asdict(options.attribution)
    if attribution["routing"] == "free":  # as in files that are older than the key
        del attribution["routing"]
    if attribution["ig_steps"] != "auto":
        del attribution["gap"]
    return {
        "model": options.model.path,
        **({} if commit is None else {"commit": commit}),
        "pairs": options.pairs.path,
        "attribution": attribution,
        "n_pairs": len(scores.per_pair),
        "n_edges": scores.graph.n_edges,
        "completeness_gap": scores.completeness_gap,
        **({"points": points} if (points := _points(options, scores)) is not None else {}),
        "metric_clean": float(scores.metric_clean.mean()),
        "metric_corrupted": float(scores.metric_corrupted.mean()),
        **({"experts": experts} if experts else {}),
    }


def _points(options: Options, scores: EdgeScores) -> float | None:
    """How many points a pair took, in the mean, where ig_steps=auto chose them."""
    own = options.attribution
    if own.ig_steps != "auto" or own.method != "EAP-IG-inputs" or scores.points is None:
        return None
    return float(scores.points.double().mean())


def write(
    options: Options,
    scores: EdgeScores,
    d_model: int,
    precision: dict[str, Any] | None,
    experts: dict[str, Any] | None = None,
) -> None:
    """Write edges.safetensors, names.json and graph.json; each appears when it is whole.

    precision: what `checked` gave. experts: what `experts_of` gave.
    """
    from safetensors.torch import save

    from analysis.circuits.graph_files import write_graph
    from analysis.files import atomic_write, write_json

    out = Path(options.out)
    circuit = circuit_of(options, scores)
    with atomic_write(out / "edges.safetensors") as draft:
        draft.write_bytes(save({"mean": scores.mean, "per_pair": scores.per_pair}))
    names = {"sources": scores.source_names, "destinations": scores.destination_names}
    agreement = {} if precision is None else {"precision": precision}
    write_json(out / "names.json", {**names, **summary(options, scores, experts), **agreement})
    write_graph(out / "graph.json", circuit, scores.mean, d_model)
    gaps = (experts or {}).get("completeness_gap", {})
    points = _points(options, scores)
    used = "" if points is None else f" with {points:.1f} points a pair"
    of_both = ", ".join(f"{gap:.2%} with routing={routing}" for routing, gap in gaps.items())
    print(
        f"{scores.graph.n_edges} edges, {len(scores.per_pair)} pairs; completeness gap "
        f"{of_both or f'{scores.completeness_gap:.2%}'}{used}; circuit of {circuit.n_edges} edges "
        f"and {len(circuit.heads)} heads; wrote {out}"
    )
