"""Circuits as files of the EAP-IG package and of MIB, so that circuits found elsewhere can be read.

JSON (written and read):
    {"cfg": {"n_layers": L, "n_heads": H, "parallel_attn_mlp": false, "d_model": d},
     "nodes": {"a0.h1": {"in_graph": true}, ...},
     "edges": {"a0.h1->a3.h2<q>": {"score": 0.01, "in_graph": true}, ...}}

`.pt` (written and read): a dict of `cfg`, `src_nodes`, `dst_nodes`, and `edges_scores` and
`edges_in_graph` [S, D]; older files of MIB call the scores `edges` and may lack the last. Read with
`weights_only=True`: nothing in the file is executed.

Our grouped graphs use the same format with edges `a0.h1->a3.kv0<k>`, and `n_kv_heads` in `cfg`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from analysis.circuits.circuit import Circuit
from analysis.files import atomic_write, to_json
from analysis.models.graph import Graph


def write_graph(path: str | Path, circuit: Circuit, scores: torch.Tensor, d_model: int) -> None:
    """Write a circuit and the scores [S, D] of all edges, as JSON or, by its name, as `.pt`."""
    path, graph, inside = Path(path), circuit.graph, circuit.matrix
    cfg: dict[str, Any] = {
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "parallel_attn_mlp": False,
        "d_model": d_model,
    }
    if graph.kv == "grouped":
        cfg["n_kv_heads"] = graph.n_kv_heads
    feeds = (inside.any(0).float() @ graph.readers.float()) > 0  # nodes that an edge enters
    names = [*graph.source_names, "logits"]
    nodes = {name: bool(there) for name, there in zip(names, feeds, strict=True)}
    nodes["input"] = bool(inside[0].any())
    with atomic_write(path) as draft:
        if path.suffix == ".pt":
            content = {
                "cfg": cfg,
                "src_nodes": {name: nodes[name] for name in graph.source_names},
                "dst_nodes": graph.destination_names,
                "edges_scores": scores,
                "edges_in_graph": inside,
            }
            torch.save(content, draft)
            return
        rows, columns = graph.edges.T
        values = zip(scores[rows, columns].tolist(), inside[rows, columns].tolist(), strict=True)
        edges = {
            graph.edge_name(edge): {"score": score, "in_graph": there}
            for edge, (score, there) in enumerate(values)
        }
        flags = {name: {"in_graph": there} for name, there in nodes.items()}
        draft.write_text(to_json({"cfg": cfg, "nodes": flags, "edges": edges}), "utf-8")


def read_graph(path: str | Path) -> tuple[Circuit, torch.Tensor]:
    """Read a circuit and the scores [S, D] of all edges, float64, 0 where the file has none.

    Raises:
        ValueError: not a graph file, or one with nodes that its own `cfg` doesn't have; named.
    """
    path = Path(path)
    try:
        if path.suffix == ".pt":
            content = torch.load(path, weights_only=True, map_location="cpu")
        else:
            content = json.loads(path.read_text(encoding="utf-8"))
        cfg = content["cfg"]
        n_layers, n_heads = int(cfg["n_layers"]), int(cfg["n_heads"])
    except (KeyError, TypeError, ValueError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is not an EAP-IG graph file: {error}") from error
    except Exception as error:  # torch names its refusal of pickles in a class of its own
        raise ValueError(f"{path} can't be read without executing it; refused") from error
    if cfg.get("parallel_attn_mlp"):
        raise ValueError(f"{path} is of a model with parallel attention and MLP: not supported")
    grouped = "n_kv_heads" in cfg
    kv = "grouped" if grouped else "ungrouped"
    graph = Graph(n_layers, n_heads, int(cfg["n_kv_heads"]) if grouped else n_heads, kv)
    read = _from_tensors if path.suffix == ".pt" else _from_edges
    scores, inside = read(content, graph, path)
    return Circuit(graph, inside[graph.edge_mask]), scores


def _from_tensors(
    content: dict[str, Any], graph: Graph, path: Path
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = content.get("edges_scores", content.get("edges"))
    if scores is None:
        raise ValueError(f"{path} has neither edges_scores nor edges")
    for what, ours in (("src_nodes", graph.source_names), ("dst_nodes", graph.destination_names)):
        if list(content[what]) != ours:
            raise ValueError(f"{path}: its {what} are not those of {graph}")
    if scores.shape != graph.edge_mask.shape:
        raise ValueError(f"{path}: scores of shape {tuple(scores.shape)} for {graph}")
    inside = content.get("edges_in_graph")
    inside = graph.edge_mask if inside is None else inside.bool() & graph.edge_mask
    return scores.double() * graph.edge_mask, inside


def _from_edges(
    content: dict[str, Any], graph: Graph, path: Path
) -> tuple[torch.Tensor, torch.Tensor]:
    rows = {name: index for index, name in enumerate(graph.source_names)}
    columns = {name: index for index, name in enumerate(graph.destination_names)}
    scores = torch.zeros(graph.edge_mask.shape, dtype=torch.float64)
    inside = torch.zeros_like(graph.edge_mask)
    for name, edge in content["edges"].items():
        source, _, destination = name.partition("->")
        if source not in rows or destination not in columns:
            raise ValueError(f"{path}: edge {name!r} is not in {graph}")
        at = rows[source], columns[destination]
        if not graph.edge_mask[at]:
            raise ValueError(f"{path}: edge {name!r} runs against the layers of {graph}")
        scores[at] = float(edge.get("score") or 0.0)
        inside[at] = bool(edge["in_graph"])
    return scores, inside
