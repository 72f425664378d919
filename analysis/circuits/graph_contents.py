"""What stands in a graph file (analysis/circuits/graph_files.py), checked entry by entry."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from analysis.circuits.circuit import Circuit, head_importance, head_mask
from analysis.models.graph import Graph, NodeShape, regular_layer
from analysis.models.graph_form import MAX_HEADS, graph_from

MAX_SCORE = torch.finfo(torch.float32).max  # sums of larger ones are infinite
NEURONS = "is a circuit of neurons, and heads and edges can't be read out of it; write one of nodes"


@dataclass(frozen=True)
class GraphFile:
    """What a graph file says.

    circuit: as it is flagged, not pruned; all edges if the file flags none (`flagged` is False).
    scores: of edges, float64 [E], or None. node_scores: of heads, float64 [A], or None.
    node_flags: heads whose node is in, bool [A].
    """

    circuit: Circuit
    scores: torch.Tensor | None
    node_scores: torch.Tensor | None
    node_flags: torch.Tensor
    flagged: bool = True

    @property
    def has_scores(self) -> bool:
        """Whether anything ranks the heads."""
        return self.scores is not None or self.node_scores is not None

    @property
    def heads(self) -> torch.Tensor:
        """Heads of the circuit: bool [A]."""
        if self.node_scores is not None:
            return self.node_flags
        return head_mask(self.circuit.graph, self.circuit.edges)

    @property
    def importance(self) -> torch.Tensor:
        """Share of each head in the circuit, from the scores, 0 outside; NaN without: [A]."""
        if self.node_scores is not None:
            share = self.node_scores.abs() * self.heads
            return share / share.sum().clamp_min(torch.finfo(share.dtype).tiny)
        if self.scores is None:
            return torch.full(self.heads.shape, math.nan, dtype=torch.float64)
        return head_importance(self.circuit.graph, self.scores[None], self.circuit.edges)


def read_content(path: Path) -> GraphFile:
    """Read and check a file; nothing is pruned.

    Raises:
        ValueError: in one line, with the file and the key.
    """
    content = _content(path)
    graph = _graph(content, path)
    read = _from_tensors if path.suffix == ".pt" else _from_json
    return read(content, graph, path)


def _content(path: Path) -> dict[str, Any]:
    def once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise ValueError(f"it holds the key {name!r} twice")
            found[name] = value
        return found

    try:
        if path.suffix == ".pt":
            content = torch.load(path, weights_only=True, map_location="cpu")
        else:
            content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=once)
    except (KeyError, TypeError, ValueError, RuntimeError, EOFError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not an EAP-IG graph file: {reason}") from error
    except OSError:
        raise
    except Exception as error:  # torch names its refusal of pickles in a class of its own
        raise ValueError(f"{path} can't be read without executing it; refused") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not an EAP-IG graph file: it holds no object of keys")
    return content


def _part(content: dict[str, Any], key: str, path: Path, kind: type = dict) -> Any:
    if key not in content:
        raise ValueError(f"{path} is not an EAP-IG graph file: it has no key {key!r}")
    if not isinstance(content[key], kind):
        raise ValueError(f"{path}: {key!r} is no {kind.__name__}")
    return content[key]


def _graph(content: dict[str, Any], path: Path) -> Graph:
    cfg = _part(content, "cfg", path)
    if "layers" in cfg:
        return graph_from(cfg, path)
    sizes = {}
    for key in ("n_layers", "n_heads", *(["n_kv_heads"] if "n_kv_heads" in cfg else [])):
        size = _part(cfg, key, path, int)
        if isinstance(size, bool) or size < 1:
            raise ValueError(f"{path}: {key!r} in cfg is {size}, not 1 or more")
        sizes[key] = size
    if sizes["n_layers"] * sizes["n_heads"] > MAX_HEADS:
        raise ValueError(
            f"{path}: {sizes['n_layers']} layers of {sizes['n_heads']} heads, by its cfg, are more "
            "than any model has"
        )
    kv = "grouped" if "n_kv_heads" in sizes else "ungrouped"
    kv_heads = sizes.get("n_kv_heads", sizes["n_heads"])
    shape, parallel = (sizes["n_layers"], sizes["n_heads"], kv_heads, kv), "parallel_attn_mlp"
    if cfg.get(parallel) not in (None, False, True):
        raise ValueError(f"{path}: {parallel!r} in cfg is {cfg[parallel]!r}; write true or false")
    try:
        return parallel_graph(*shape) if cfg.get(parallel) else Graph(*shape)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def parallel_graph(n_layers: int, n_heads: int, n_kv_heads: int, kv: str) -> Graph:
    """That of `x += attention(norm(x)) + mlp(norm(x))`: an MLP reads what its attention reads.

    Raises:
        ValueError: as `Graph`.
    """
    regular = Graph(n_layers, n_heads, n_kv_heads, kv)
    layer = regular_layer(n_heads, n_kv_heads, kv)
    beside = replace(layer, points=1, nodes=(NodeShape("m", (0,), 1),))
    return replace(regular, layers=(beside,) * n_layers)


def _number(value: object, what: str, path: Path) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{path}: the score of {what} is {value!r}, which is no number")
    if not abs(value) <= MAX_SCORE:  # of integers too, which may be beyond any float
        shown = value if isinstance(value, float) else "a whole number of many digits"
        raise ValueError(
            f"{path}: the score of {what} is {shown}; scores must be finite, and numbers of 32 bits"
        )
    return float(value)


def _flag(entry: object, what: str, path: Path) -> bool:
    if not isinstance(entry, dict) or "in_graph" not in entry:
        raise ValueError(f"{path}: {what} has no key 'in_graph'")
    flag = entry["in_graph"]
    if not isinstance(flag, int) or flag not in (0, 1):
        raise ValueError(f"{path}: 'in_graph' of {what} is {flag!r}; write true or false")
    return bool(flag)


def _from_json(content: dict[str, Any], graph: Graph, path: Path) -> GraphFile:
    node_scores, node_flags = _nodes(_part(content, "nodes", path), graph, path)
    rows = {name: index for index, name in enumerate(graph.source_names)}
    columns = {name: index for index, name in enumerate(graph.destination_names)}
    scores = torch.full(graph.edge_mask.shape, math.nan, dtype=torch.float64)
    inside = torch.zeros_like(graph.edge_mask)
    for name, edge in _part(content, "edges", path).items():
        source, _, destination = name.partition("->")
        if source not in rows or destination not in columns:
            raise ValueError(f"{path}: edge {name!r} is not in {graph}")
        at = rows[source], columns[destination]
        if not graph.edge_mask[at]:
            raise ValueError(f"{path}: edge {name!r} runs against the layers of {graph}")
        inside[at] = _flag(edge, f"edge {name!r}", path)
        score = _number(edge.get("score"), f"edge {name!r}", path)
        scores[at] = math.nan if score is None else score
    flat, edges = scores[graph.edge_mask], inside[graph.edge_mask]
    found = _edge_scores(graph, flat, edges, path)
    return GraphFile(Circuit(graph, edges), found, node_scores, node_flags)


def _edge_scores(
    graph: Graph, scores: torch.Tensor, edges: torch.Tensor, path: Path
) -> torch.Tensor | None:
    """Scores [E] with NaN where there is none; None if no edge has one that is not 0."""
    known = scores.nan_to_num(0.0)
    if not known.any():
        return None
    if (without := edges & scores.isnan()).any():
        name = graph.edge_name(int(without.nonzero()[0]))
        raise ValueError(f"{path}: edge {name!r} is in and has no score, but others have")
    return known


def _nodes(
    nodes: dict[str, Any], graph: Graph, path: Path
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Scores and flags of the heads among the nodes."""
    heads = {name: index for index, name in enumerate(graph.head_names)}
    names = {*graph.source_names, "logits"}
    scores = torch.full((len(heads),), math.nan, dtype=torch.float64)
    flags = torch.zeros(len(heads), dtype=torch.bool)
    for name, node in nodes.items():
        if name not in names:
            raise ValueError(f"{path}: node {name!r} is not in {graph}")
        inside = _flag(node, f"node {name!r}", path)
        if any(node.get(key) is not None for key in ("neurons", "neurons_scores")):
            raise ValueError(f"{path} {NEURONS}")
        score = node.get("score")
        if name == "input" and isinstance(score, float) and math.isnan(score):
            continue
        number = _number(score, f"node {name!r}", path)
        if name in heads:
            flags[heads[name]] = inside
            scores[heads[name]] = math.nan if number is None else number
    return _node_scores(graph, scores, flags, path), flags


def _node_scores(
    graph: Graph, scores: torch.Tensor, flags: torch.Tensor, path: Path
) -> torch.Tensor | None:
    """Scores [A] with NaN where there is none; None if no head has one that is not 0."""
    known = scores.nan_to_num(0.0)
    if not known.any():
        return None
    if (without := flags & scores.isnan()).any():
        name = graph.names_of(without)[0]
        raise ValueError(f"{path}: node {name!r} is in and has no score, but others have")
    return known


def _from_tensors(content: dict[str, Any], graph: Graph, path: Path) -> GraphFile:
    if content.get("neurons_in_graph") is not None or content.get("neurons_scores") is not None:
        raise ValueError(f"{path} {NEURONS}")
    for what, ours in (("src_nodes", graph.source_names), ("dst_nodes", graph.destination_names)):
        names = _part(content, what, path, object)
        if not isinstance(names, list | tuple | dict) or list(names) != ours:
            raise ValueError(f"{path}: its {what} are not those of {graph}")
    key = "edges_scores" if "edges_scores" in content else "edges"
    if key not in content:
        raise ValueError(f"{path} has neither edges_scores nor edges")
    shape, size = tuple(graph.edge_mask.shape), len(graph.source_names)
    scores = _finite(_tensor(content, key, shape, path)[graph.edge_mask], key, path)
    flags = content.get("edges_in_graph")
    edges = torch.ones(graph.n_edges, dtype=torch.bool)
    if flags is not None:
        inside = _tensor(content, "edges_in_graph", shape, path)[graph.edge_mask]
        edges = _flags(inside, "edges_in_graph", path)
    nodes, node_scores = torch.ones(size, dtype=torch.bool), None
    if content.get("nodes_in_graph") is not None:
        nodes = _flags(_tensor(content, "nodes_in_graph", (size,), path), "nodes_in_graph", path)
    if content.get("nodes_scores") is not None:
        of_nodes = _tensor(content, "nodes_scores", (size,), path)[graph.head_sources]
        of_nodes = _finite(of_nodes, "nodes_scores", path)
        node_scores = of_nodes if of_nodes.any() else None
    return GraphFile(
        Circuit(graph, edges),
        scores if scores.any() else None,
        node_scores,
        nodes[graph.head_sources],
        flags is not None,
    )


def _tensor(content: dict[str, Any], key: str, shape: tuple[int, ...], path: Path) -> torch.Tensor:
    """A tensor of a shape, as float64."""
    found = _part(content, key, path, torch.Tensor)
    if tuple(found.shape) != shape:
        raise ValueError(f"{path}: {key!r} has the shape {tuple(found.shape)}, not {shape}")
    if found.layout != torch.strided or found.is_quantized or found.is_complex():
        raise ValueError(f"{path}: {key!r} has to be a dense tensor of real numbers")
    return found.double()


def _flags(found: torch.Tensor, key: str, path: Path) -> torch.Tensor:
    """Flags as bool."""
    if not ((found == 0) | (found == 1)).all():
        raise ValueError(f"{path}: {key!r} holds other values than 0 and 1")
    return found != 0


def _finite(values: torch.Tensor, key: str, path: Path) -> torch.Tensor:
    if not (values.abs() <= MAX_SCORE).all():
        raise ValueError(
            f"{path}: {key!r} holds a score that is not finite, or no number of 32 bits"
        )
    return values
