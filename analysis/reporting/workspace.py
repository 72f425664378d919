"""The curated view of a project in W&B: made once, and never overwritten once a person changed it.

Run as a process of its own (wandb_view.py), which W&B may hang or break; it loads nothing of the
project. It hears one JSON object: entity, project, title, signal, curves, tasks, and `digest`, that
of the view that this run has saved, or null. It says {"did": made, updated or left, "digest": ...}.

The view's name is made of the project's, so that all runs of a project mean the same view.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import BarPlot, LinePlot
    from wandb_workspaces.workspaces import Section, Workspace

STEP = "heads/step"
ENDS = ("", "/lo", "/hi")


def _line(title: str, keys: Sequence[str], x: str = STEP) -> LinePlot:
    from wandb_workspaces.reports.v2 import LinePlot

    return LinePlot(title=title, x=x, y=list(keys))


def _with_ends(title: str, key: str, *more: str) -> LinePlot:
    """A value, both ends of its interval, and what else belongs on its panel."""
    return _line(title, [*(f"{key}{end}" for end in ENDS), *more])


def _bars(title: str, *keys: str, of_base: bool = True) -> BarPlot:
    """The last values: what taking heads out did in a checkpoint, and in the base."""
    from wandb_workspaces.reports.v2 import BarPlot

    places = ("needed", "needed/base") if of_base else ("needed",)
    return BarPlot(title=title, metrics=[f"{place}/{key}" for place in places for key in keys])


def sections(signal: str | None, curves: Sequence[str], tasks: Sequence[str]) -> list[Section]:
    """What the view shows, from above.

    signal: what the training is followed by, as train/loss. curves: of heads, as head/L05H03.
    tasks: what checkpoints were evaluated on.
    """
    from wandb_workspaces.reports.v2 import MediaBrowser, WeavePanelSummaryTable
    from wandb_workspaces.workspaces import Section

    heads = [
        _with_ends(name, f"heads/{name}", f"heads/{name}/called") for name in ("emergent", "pruned")
    ]
    heads.append(_with_ends("retained", "heads/retained"))
    more = ("heads/changed/called", "heads/changed/retained")
    heads.append(_with_ends("changed", "heads/changed", *more))
    if signal is not None:
        heads.append(_line(signal, [signal], "train/global_step"))
    circuit = [
        _with_ends("faithfulness", "circuit/faithfulness"),
        _with_ends("heads in the circuit", "circuit/heads"),
        _with_ends("KL from the base", "circuit/kl_from_base"),
        _with_ends("metric gap", "circuit/metric_gap"),
        _with_ends("excess turnover", "heads/excess_turnover"),
        _with_ends("Jaccard with the base", "heads/jaccard"),
        _line("edges", ["circuit/edges"]),
        _line("completeness gap", ["circuit/completeness_gap"]),
    ]
    media: list[Any] = [
        MediaBrowser(title=title, media_keys=[key], mode="gallery", gallery_axis="step")
        for title, key in (("heads, by layer", "heads/map"), ("cohorts", "heads/cohorts"))
    ]
    media.append(WeavePanelSummaryTable(table_name="heads/map_table"))
    needed = [
        _bars("change of the metric without the heads", "change", "random"),
        _bars("share of the pairs that are right", "right", "right_without", "right_random"),
        _bars("p, by rank among random sets", "p"),
        _bars("heads that were taken out", "heads", of_base=False),
    ]
    scores = [_with_ends(f"pass@1, {task}", f"eval/{task}/pass@1") for task in tasks]
    found: dict[str, list[Any]] = {
        "Heads": heads,
        "Circuit": circuit,
        "Head curves": [_line(key.rpartition("/")[2], [key]) for key in curves],
        "Are they needed?": needed,
        "Map": media,
        "Evaluation": scores,
    }
    return [Section(name=name, panels=panels, is_open=True) for name, panels in found.items()]


def build(how: Mapping[str, Any]) -> Workspace:
    """The view that is asked for, under the name of its project."""
    from wandb_workspaces.workspaces import Workspace, WorkspaceSettings

    view = Workspace(
        entity=how["entity"],
        project=how["project"],
        name=how["title"],
        sections=sections(how["signal"], how["curves"], how["tasks"]),
        settings=WorkspaceSettings(x_axis=STEP),
        auto_generate_panels=False,
    )
    view._internal_name = f"nw-{name_of(how['project'])}-v"
    return view


def name_of(project: str) -> str:
    """The name of a project's view in the address of its page (`?nw=NAME`)."""
    return f"headlab{hashlib.sha256(project.encode()).hexdigest()[:8]}"


def digest_of(spec: str) -> str:
    """A hash of a view's specification, however it is written down."""
    content = json.dumps(json.loads(spec), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def spec_of(view: Workspace) -> str:
    """The specification of a view, as it is saved."""
    return view._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)


def save(how: Mapping[str, Any]) -> dict[str, Any]:
    """Make the view; or, of one that is there, save it again if nobody but this run has touched it.

    Raises:
        ValueError: there is no such project.
    """
    from wandb_workspaces.workspaces import internal

    there = None
    try:
        there = internal.get_view_dict(how["entity"], how["project"], name_of(how["project"]))
    except ValueError as error:
        if not str(error).startswith("Workspace"):
            raise
    if there is not None and how.get("digest") != digest_of(there["spec"]):
        return {"did": "left", "digest": None}
    view = build(how)
    if there is not None:
        view._internal_id = there["id"]
    model = view._to_model()
    internal.upsert_view2(model)
    spec = model.spec.model_dump_json(by_alias=True, exclude_none=True)
    return {"did": "made" if there is None else "updated", "digest": digest_of(spec)}


def main() -> None:
    """Save what standard input asks for."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what W&B prints is no reply
    try:
        reply = save(json.load(sys.stdin))
    except Exception as error:
        reason = str(error).strip() or type(error).__name__
        reply = {"failed": reason.splitlines()[0]}
    replies.write(json.dumps(reply) + "\n")
    replies.flush()
    os._exit("failed" in reply)


if __name__ == "__main__":
    main()
