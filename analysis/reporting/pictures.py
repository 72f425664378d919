"""Small pictures of a trajectory as arrays of pixels, for W&B's media panel and for terminals.

The report has the same as interactive charts (analysis/reporting/report.py); a terminal viewer of
an offline run can only show pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.reporting.kinds import LINEAR
from analysis.trajectories.trajectory import Point

WHITE, GREY, INK = (251, 251, 249), (226, 226, 221), (31, 41, 51)
COLOURS = {
    "retained": (214, 47, 47),
    "emergent": (31, 111, 214),
    "pruned": (138, 90, 18),
    "transient": (195, 181, 227),
}
CELL = 16
CORNER = 6  # of a cell


def head_map_picture(point: Point) -> np.ndarray:
    """Layers (from below) x heads: uint8 [height, width, 3].

    The colour of a cell is the state of its head; a head that is called has a dark frame, and heads
    of no circuit are grey. Where a layer has no such head there is nothing. A head of linear
    attention has a white corner.
    """
    graph = point.record.graph
    shape = (graph.n_layers, graph.n_heads)
    layers, heads = np.array(graph.heads, int).reshape(-1, 2).T
    colours = np.full((*shape, 3), WHITE, np.uint8)
    colours[layers, heads] = [GREY if state is None else COLOURS[state] for state in point.states]
    called = (point.change.called["emergent"] | point.change.called["pruned"]).numpy()
    frame = colours.copy()
    frame[layers[called], heads[called]] = INK
    # [layers, CELL, heads, CELL, 3]: each cell in its colour, around it its frame, then the gap
    cells = np.full((shape[0], CELL, shape[1], CELL, 3), WHITE, np.uint8)
    cells[:, 1:-1, :, 1:-1] = frame[:, None, :, None]
    cells[:, 3:-3, :, 3:-3] = colours[:, None, :, None]
    linear = np.array(graph.head_kinds) == LINEAR
    cells[layers[linear], -CORNER:, heads[linear], -CORNER:] = WHITE
    return cells[::-1].reshape(shape[0] * CELL, shape[1] * CELL, 3)


def cohort_picture(points: Sequence[Point], height: int = 240) -> np.ndarray:
    """Emergent heads at each checkpoint, stacked by first emergence: uint8 [height, width, 3].

    One column a checkpoint; the oldest cohort is at the bottom and darkest.
    """
    ranks = {point.step: rank for rank, point in enumerate(points)}
    most = max(1, *(sum(point.cohorts.values()) for point in points))
    blue, pale = np.array(COLOURS["emergent"]), np.array((205, 224, 248))
    shares = np.arange(len(points))[:, None] / max(1, len(points) - 1)
    colours = np.concatenate([blue + shares * (pale - blue), [WHITE]]).astype(np.uint8)
    cohorts = np.full((height, len(points)), len(points))  # that of each pixel; the last: none
    for column, point in enumerate(points):
        ends = np.rint(np.cumsum([0, *point.cohorts.values()]) / most * height).astype(int)
        stack = np.repeat([ranks[step] for step in point.cohorts], np.diff(ends))
        cohorts[height - len(stack) :, column] = stack[::-1]
    picture = np.full((height, len(points), CELL, 3), WHITE, np.uint8)
    picture[:, :, 1:-1] = colours[cohorts][:, :, None]
    return picture.reshape(height, len(points) * CELL, 3)
