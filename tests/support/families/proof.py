"""prove("qwen3_moe"): everything that an anatomy is good for, on a tiny model, against other ways.

    edges      EAP scores and finite differences of patched edges (tests/support/families/oracle.py)
    rows       the same where a destination is changed by its rows
    outside    the clean stream with other tokens, which nothing may read, against the clean logits
    padded     the scores of a pair that is padded in its batch, against its own
    ungrouped  a grouped score and the sum over the heads that share it
    circuits   all edges clean and none, against the clean and the corrupted prompt
    zeroed     heads zeroed live, against zeros in their columns of the output projection
    baked      the same written into the weights
    adapted    with LoRA on the linear modules: found, proved and its edges as above

Each gives the largest error, over the largest score or metric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from analysis.attribution.eap import attribute
from analysis.attribution.metrics import metric_named
from analysis.circuits.circuit import Circuit
from analysis.circuits.faithfulness import evaluate_circuits
from analysis.detection.detect import anatomy
from analysis.interventions.baking import bake
from analysis.interventions.operations import Intervention, intervened
from analysis.models.anatomy import Anatomy, Unsupported
from analysis.models.compat import Conv1D
from analysis.models.graph import Graph
from analysis.models.hooks import Hooks
from analysis.prompts.pairs import Pair, Pairs, collate
from tests.support.families.build import build
from tests.support.families.float64 import Float64
from tests.support.families.oracle import Oracle

TOLERANCE = 2e-4  # of differences with kinks near; what is exact is far below
METRIC = "logit_diff"


@dataclass
class Proof:
    """What was found out about a family: why it is refused, or the errors."""

    kind: str
    refused: str | None = None
    heads: list[int] = field(default_factory=list)  # of each layer
    errors: dict[str, float] = field(default_factory=dict)
    not_offered: dict[str, str] = field(default_factory=dict)  # what is refused, and why

    @property
    def outcome(self) -> str:
        """`proved`, `proved by rows`, `no heads`, `refused: ...` or `WRONG: ...`."""
        if self.refused is not None:
            return f"refused: {self.refused}"
        wrong = {name: error for name, error in self.errors.items() if not error < TOLERANCE}
        tied = wrong.pop("interface", None) is not None
        if wrong:
            return "WRONG: " + ", ".join(f"{name} {error:.1e}" for name, error in wrong.items())
        if not any(self.heads):
            return "no heads"
        return "proved by rows" if tied else "proved"


def prove(kind: str, every: bool) -> Proof:
    """Prove a family. every: each of its edges, not those of one destination of each kind."""
    proof, model, pairs = Proof(kind), build(kind), some_pairs()
    with Float64():
        try:
            parts = anatomy(model)
            scores = _scores(model, pairs)
        except Unsupported as error:
            proof.refused = str(error)
            return proof
        graph = parts.graph
        proof.heads = [graph.heads_in(layer) for layer in range(graph.n_layers)]
        proof.errors |= _edges(parts, pairs, scores, every)
        proof.errors["outside"] = _outside(parts, pairs)
        proof.errors["padded"] = _off(_scores(model, Pairs(pairs[1:])), scores[1:])
        checks: dict[str, Callable[[], float]] = {
            "ungrouped": partial(_ungrouped, model, parts.graph, pairs, scores),
            "circuits": partial(_circuits, model, parts, pairs),
            "adapted": partial(_adapted, deepcopy(model), pairs),
        }
        if any(proof.heads):
            checks["zeroed"] = partial(_zeroed, model, parts, pairs)
            checks["baked"] = partial(_baked, model, parts, pairs)
        for name, check in checks.items():
            try:
                proof.errors[name] = check()
            except ValueError as error:
                proof.not_offered[name] = str(error)
    return proof


def some_pairs() -> Pairs:
    """Two pairs of different lengths."""
    generator = torch.Generator().manual_seed(3)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 100, (n,), generator=generator).tolist())

    return Pairs([Pair(tokens(n), tokens(n), 10 + n, 20 + n) for n in (8, 6)])


def _scores(model: Any, pairs: Pairs, kv: str = "grouped") -> torch.Tensor:
    """The gradient at the clean point: [B, S, D]."""
    return attribute(model, pairs, "EAP", METRIC, kv=kv).per_pair


def _edges(
    parts: Anatomy, pairs: Pairs, scores: torch.Tensor, every: bool, by_rows: bool = False
) -> dict[str, float]:
    """The largest error of each way to change a destination; by_rows: of the last way only."""
    oracle = Oracle(parts, collate(list(pairs)), metric_named(METRIC))
    worst: dict[str, float] = {}
    for destination in range(parts.graph.n_destinations) if every else _one_of_each(parts.graph):
        sources = parts.graph.edge_mask[:, destination].nonzero().flatten().tolist()
        ways = oracle.ways(destination)
        for way in ways[-1:] if by_rows else ways:
            error = oracle.error(destination, sources, way, scores)
            worst[way] = max(worst.get(way, 0.0), error)
            if not every and error < TOLERANCE:
                break
    return worst


def _one_of_each(graph: Graph) -> Iterable[int]:
    """The last destination of each kind: in layers that are alike, of each side and each node."""
    found: dict[Any, int] = {}
    for layer, shape in enumerate(graph.shapes):
        column = graph.columns(layer).start
        for number, side in enumerate(shape.sides):
            column += len(side.feeds)
            found[shape, number] = column - 1
        for number in range(len(shape.nodes)):
            found[shape, "node", number] = graph.node_column(layer, number)
    return [*found.values(), graph.n_destinations - 1]


def _outside(parts: Anatomy, pairs: Pairs) -> float:
    clean, other = (torch.tensor([ids]) for ids in (pairs[0].clean_ids, pairs[0].corrupted_ids))
    stream: list[torch.Tensor] = []
    with Hooks() as hooks, torch.no_grad():
        hooks.input(parts.layers[0], lambda x: stream[0] if stream else stream.append(x.clone()))
        logits = [parts.causal_lm(input_ids=ids, use_cache=False)[0] for ids in (clean, other)]
    return _off(logits[1], logits[0])


def _ungrouped(model: Any, graph: Graph, pairs: Pairs, scores: torch.Tensor) -> float:
    single = _scores(model, pairs, "ungrouped")
    apart = anatomy(model, "ungrouped").graph
    where = {name: index for index, name in enumerate(apart.destination_names)}
    total = torch.zeros_like(scores)
    for layer, shape in enumerate(graph.shapes):
        column = graph.columns(layer).start
        for side in shape.sides:
            for feeds in side.feeds:
                name = graph.destination_names[column]
                own = [f"a{layer}.h{head}<{side.letter}>" for head in feeds]
                members = [where[one] for one in ([name] if name in where else own)]
                total[..., column] = single[..., members].sum(-1)
                column += 1
        for node in range(len(shape.nodes)):
            total[..., column + node] = single[..., apart.node_column(layer, node)]
    total[..., -1] = single[..., -1]
    return _off(total, scores)


def _circuits(model: Any, parts: Anatomy, pairs: Pairs) -> float:
    batch, graph = collate(list(pairs)), parts.graph
    oracle = Oracle(parts, batch, metric_named(METRIC))
    ends = [
        oracle.logits(ids)[batch.rows, batch.positions] for ids in (batch.clean, batch.corrupted)
    ]
    wanted = [metric_named(METRIC)(end, ends[0], batch) for end in ends]
    circuits = [Circuit(graph, torch.full((graph.n_edges,), every)) for every in (True, False)]
    found = [each.circuit for each in evaluate_circuits(model, pairs, circuits, METRIC)]
    return _off(torch.stack(found), torch.stack(wanted))


def _some_heads(graph: Graph) -> tuple[tuple[int, int], ...]:
    """The first and the last head of the first layer with heads, and the last of the last one."""
    layers = [layer for layer in range(graph.n_layers) if graph.heads_in(layer)]
    last = graph.heads_in(layers[0]) - 1, graph.heads_in(layers[-1]) - 1
    return tuple(sorted({(layers[0], 0), (layers[0], last[0]), (layers[-1], last[1])}))


def _zeroed(model: Any, parts: Anatomy, pairs: Pairs) -> float:
    heads = _some_heads(parts.graph)
    with intervened(model, Intervention("zero", heads)):
        live = _logits(model, pairs)
    return _off(live, _logits(_by_hand(model, parts, heads), pairs))


def _baked(model: Any, parts: Anatomy, pairs: Pairs) -> float:
    heads = _some_heads(parts.graph)
    baked = bake(deepcopy(model), Intervention("zero", heads))
    return _off(_logits(baked, pairs), _logits(_by_hand(model, parts, heads), pairs))


@torch.no_grad()
def _by_hand(model: Any, parts: Anatomy, heads: Iterable[tuple[int, int]]) -> Any:
    """A copy of the model in which the heads' columns of the output projections are zero."""
    names = {module: name for name, module in model.named_modules()}
    copy = deepcopy(model)
    for layer, head in heads:
        part = next(p for p in parts.blocks[layer].heads if p.first <= head < p.first + p.n_heads)
        module = copy.get_submodule(names[part.o_proj])
        weight = module.weight.T if isinstance(module, Conv1D) else module.weight
        weight.unflatten(1, (part.n_heads, -1))[:, head - part.first] = 0
    return copy


def _adapted(model: Any, pairs: Pairs) -> float:
    """The model is used up."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=_linears(model), init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapted = get_peft_model(model, config).to(torch.float64).eval()
    scores = _scores(adapted, pairs)
    return max(_edges(anatomy(adapted), pairs, scores, False, by_rows=True).values())


# PEFT leaves their mixers' output projections to fused kernels
_READ_BY_KERNELS = {"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"}


def _linears(model: Any) -> list[str]:
    """The linear modules that PEFT can adapt: no router, which returns several things, no head."""
    kernels = model.config.model_type in _READ_BY_KERNELS
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
        and not type(module).__name__.endswith("Router")
        and module is not model.get_output_embeddings()
        and not (kernels and name.endswith("out_proj"))
    ]


@torch.no_grad()
def _logits(model: Any, pairs: Pairs) -> torch.Tensor:
    output = model(input_ids=torch.tensor([pairs[0].clean_ids]), use_cache=False)
    return output.logits if hasattr(output, "logits") else output[0]


def _off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())
