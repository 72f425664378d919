"""Circuits as files of the EAP-IG package and of MIB, so that circuits found elsewhere can be read.

JSON (written and read):
    {"cfg": {"n_layers": L, "n_heads": H, "parallel_attn_mlp": false, "d_model": d},
     "nodes": {"a0.h1": {"in_graph": true}, ...},
     "edges": {"a0.h1->a3.h2<q>": {"score": 0.01, "in_graph": true}, ...}}

`.pt` (written and read): a dict of `cfg`, `src_nodes`, `dst_nodes`, and `edges_scores` and
`edges_in_graph` [S, D]; older files of MIB call the scores `edges` and may lack the last. Read with
`weights_only=True`: nothing in the file is executed.

Our grouped graphs use the same format with edges `a0.h1->a3.kv0<k>`, and `n_kv_heads` in `cfg`.
`parallel_attn_mlp` says that an MLP reads what its attention reads. Of other models `cfg` holds
what each layer has (analysis/models/graph_form.py), and there are edges into gates `a3.h2<g>`, into
what heads share `a3.*<kv>`, out of and into mixers `x3`.

A file says of each edge whether it is in, or how much it counts, or both:

    edge scores              they rank edges, and heads by the edges out of them
    node scores              of circuits found node by node: `score` of a node (`nodes_scores`)
                             ranks the heads, and the edges have none
    membership only          nothing ranks the heads
    scores only              every edge is flagged out, or none is flagged: no circuit yet

What can't be understood is refused: circuits of neurons, a score that is no finite number (NaN of
the node `input`, which the package writes, is none), keys that are missing, twice, or of a node or
an edge that the file's own shape does not have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from analysis.circuits.circuit import Circuit, prune
from analysis.circuits.graph_contents import GraphFile, parallel_graph, read_content
from analysis.circuits.shared_heads import can_share
from analysis.files import atomic_write, to_json
from analysis.models.graph import Graph


def write_graph(path: str | Path, circuit: Circuit, scores: torch.Tensor, d_model: int) -> None:
    """Write a circuit and the scores [S, D] of all edges, as JSON or, by its name, as `.pt`."""
    path, graph, inside = Path(path), circuit.graph, circuit.matrix
    cfg = _cfg(graph, d_model)
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


def _cfg(graph: Graph, d_model: int) -> dict[str, Any]:
    """The model's shape as the package has it, and what else there is in its layers."""
    shape, parallel = (graph.n_layers, graph.n_heads, graph.n_kv_heads, graph.kv), None
    if graph.layers is not None and graph.n_kv_heads and graph.n_heads % graph.n_kv_heads == 0:
        parallel = parallel_graph(*shape)
    cfg: dict[str, Any] = {
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "parallel_attn_mlp": parallel is not None and can_share(graph, parallel),
        "d_model": d_model,
    }
    if graph.kv == "grouped":
        cfg["n_kv_heads"] = graph.n_kv_heads
    return cfg if graph.layers is None or graph == parallel else {**cfg, **graph.as_json()}


def read_circuit(path: str | Path) -> GraphFile:
    """A circuit that was found elsewhere, pruned.

    Raises:
        ValueError: the file can't be read (see `read_graph`), or it holds no circuit.
    """
    found = read_content(Path(path))
    graph, edges = found.circuit.graph, found.circuit.edges
    if not found.flagged or not edges.any():
        what = "flags every edge out" if found.flagged else "does not say which edges are in"
        raise ValueError(
            f"{path} {what}, so it holds no circuit yet: choose a size (apply_topn of the EAP-IG "
            "package, or headlab.select_circuit) and write it again"
        )
    pruned = prune(graph, edges[None])[0]
    if not pruned.any():
        raise ValueError(f"{path}: no path of its edges leads from the input to the logits")
    circuit = Circuit(graph, pruned)
    return GraphFile(circuit, found.scores, found.node_scores, found.node_flags)


def read_graph(path: str | Path) -> tuple[Circuit, torch.Tensor]:
    """Read a circuit, as it is flagged, and the scores [S, D] of all edges, float64.

    The scores are 0 where the file has none. Without flags all edges are in.

    Raises:
        ValueError: not a graph file, or one that can't be understood (see the top); named.
    """
    found = read_content(Path(path))
    graph = found.circuit.graph
    scores = torch.zeros(graph.edge_mask.shape, dtype=torch.float64)
    if found.scores is not None:
        scores[graph.edge_mask] = found.scores
    return found.circuit, scores
