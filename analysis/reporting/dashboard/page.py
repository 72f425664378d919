"""The data of a page about some runs: see form.py."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from markupsafe import Markup

from analysis.files import to_json
from analysis.models.graph import Graph, head_name
from analysis.reporting.dashboard.between import pairs_of
from analysis.reporting.dashboard.form import SCHEMA, PageData, RunData, Shape, Signal
from analysis.reporting.dashboard.judged import judged
from analysis.reporting.dashboard.measured import checkpoint
from analysis.reporting.dashboard.packing import known
from analysis.reporting.dashboard.patterns import shown_patterns
from analysis.reporting.dashboard.terms import TERMS
from analysis.reporting.kinds import LINEAR
from analysis.trajectories.run import Run

MOST_LOGGED = 2000  # points of the signal's curve


def page_data(runs: Sequence[Run], title: str, code: str, findings: Sequence[str] = ()) -> PageData:
    """All that a page about some runs draws. findings: sentences to begin with."""
    found = [run_data(run) for run in runs]
    said = [
        each["judged"]["verdict"]
        if len(found) == 1
        else f"{each['label']}: {each['judged']['verdict']}"
        for each in found
    ]
    return {
        "schema": SCHEMA,
        "title": title,
        "verdict": [*findings, *said],
        "code": code,
        "terms": dict(TERMS),
        "runs": found,
        "between": pairs_of(runs),
    }


def run_data(run: Run) -> RunData:
    """All of one run."""
    points = run.points
    graph = points[0].record.graph if points else None
    tokens, patterns = shown_patterns(run)
    return {
        "name": run.file.name,
        "label": run.label,
        "kind": run.file.kind,
        "state": None,
        "signal": signal(run),
        "graph": None if graph is None else shape(graph),
        "heads": [] if graph is None else [head_name(head) for head in graph.heads],
        "tokens": tokens,
        "ablate": ablation(run),
        "judged": judged(run),
        "checkpoints": [checkpoint(point, patterns.get(point.step)) for point in points],
    }


def shape(graph: Graph) -> Shape:
    """The graph of a model, by names."""
    names = [*graph.source_names, "logits"]
    heads = dict(zip(graph.head_sources.tolist(), range(len(graph.heads)), strict=True))
    readers = graph.destination_names
    return {
        "layers": [graph.heads_in(layer) for layer in range(graph.n_layers)],
        "linear": [head for head, kind in enumerate(graph.head_kinds) if kind == LINEAR],
        "nodes": {
            "name": names,
            "layer": [*graph.source_layers.tolist(), graph.n_layers],
            "head": [heads.get(place, -1) for place in range(len(names))],
        },
        "readers": {
            "name": readers,
            "side": [name.partition("<")[2].partition(">")[0] for name in readers],
            "feeds": [row.nonzero().flatten().tolist() for row in graph.readers],
        },
    }


def signal(run: Run) -> Signal | None:
    """What the training is followed by; None if nothing was logged."""
    if run.signal_name is None or not run.logged:
        return None
    size = -(-len(run.logged) // MOST_LOGGED)
    parts = [run.logged[at : at + size] for at in range(0, len(run.logged), size)]
    return {
        "name": run.signal_name,
        "steps": [part[-1][0] for part in parts],
        "values": known(sum(value for _, value in part) / len(part) for part in parts),
        "of": len(run.logged),
    }


def ablation(run: Run) -> list[str]:
    """The command that takes a head out of a checkpoint; it leaves the run's own result alone."""
    start = f"headlab needed {shlex.quote(f'run={run.path}')} step="
    return [start, "step", " heads=", "head", " out=without-", "head", ".json"]


def as_script(data: object) -> Markup:
    """Data as JSON for a <script>: nothing in it ends the script or opens a comment."""
    text = to_json(data, ensure_ascii=True, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
