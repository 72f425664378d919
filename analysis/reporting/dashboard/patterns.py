"""The attention patterns that a page holds: of as many checkpoints as its size allows."""

from __future__ import annotations

import logging

import numpy as np

from analysis.heads.kept_patterns import KeptPatterns, patterns_path, read_patterns
from analysis.reporting.dashboard.form import Patterns
from analysis.reporting.dashboard.packing import packed
from analysis.trajectories.run import Run
from analysis.trajectories.trajectory import Point

log = logging.getLogger(__name__)

ROOM = 1_500_000  # bytes of patterns in a page, before base64 makes four of three


def shown_patterns(run: Run, room: int = ROOM) -> tuple[list[list[str]], dict[int, Patterns]]:
    """The tokens of the prompts, and the patterns by step.

    The prompts are those of the last checkpoint that has patterns. Where all of them would take
    more than the room, checkpoints are left out between the first and the last, which stay; and
    where these two are too large, prompts.
    """
    points = [p for p in run.points if patterns_path(run.path, p.step).exists()]
    last = next((found for p in reversed(points) if (found := _read(run, p)) is not None), None)
    if last is None:
        return [], {}
    sizes = np.cumsum([table.numel() for table in last.weights])
    few = min(2, len(points))
    prompts = max(1, int((few * sizes <= room).sum()))
    many = max(few, min(len(points), room // int(sizes[prompts - 1])))
    places = np.unique(np.linspace(0, len(points) - 1, many).round().astype(int)).tolist()
    tokens = [prompt.tokens for prompt in last.prompts[:prompts]]
    shown: dict[int, Patterns] = {}
    for point in (points[place] for place in places):
        kept = _read(run, point)
        if kept is not None and [each.tokens for each in kept.prompts[:prompts]] == tokens:
            shown[point.step] = _patterns(kept, prompts)
    return tokens, shown


def _patterns(kept: KeptPatterns, prompts: int) -> Patterns:
    unseen = (~kept.seen).nonzero().flatten().tolist()
    return {"weights": [packed(table, "u8") for table in kept.weights[:prompts]], "unseen": unseen}


def _read(run: Run, point: Point) -> KeptPatterns | None:
    """None, with a warning, if they can't be read or are of other pairs or heads."""
    try:
        kept = read_patterns(run.path, point.step)
    except ValueError as error:
        log.warning("left out: %s", error)
        return None
    if kept is not None and (
        kept.pairs_hash != point.record.pairs_hash or len(kept.seen) != len(point.first)
    ):
        log.warning("left out: %s is of other pairs or heads", patterns_path(run.path, point.step))
        return None
    return kept
