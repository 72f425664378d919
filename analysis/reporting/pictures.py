"""Small pictures of a trajectory as arrays of pixels, for W&B's media panel and for terminals.

The report has the same as interactive charts (analysis/reporting/report.py); a terminal viewer of
an offline run can only show pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from analysis.trajectories.trajectory import Point

WHITE, GREY, INK = (251, 251, 249), (226, 226, 221), (31, 41, 51)
COLOURS = {
    "retained": (214, 47, 47),
    "emergent": (31, 111, 214),
    "pruned": (138, 90, 18),
    "transient": (195, 181, 227),
}
CELL = 16


def head_map_picture(point: Point) -> np.ndarray:
    """Layers (from below) x heads: uint8 [height, width, 3].

    The colour of a cell is the state of its head; a head that is called has a dark frame, and heads
    of no circuit are grey.
    """
    graph = point.record.graph
    picture = np.full((graph.n_layers * CELL, graph.n_heads * CELL, 3), WHITE, np.uint8)
    called = point.change.called["emergent"] | point.change.called["pruned"]
    for index in range(graph.n_layers * graph.n_heads):
        layer, head = divmod(index, graph.n_heads)
        top, left = (graph.n_layers - 1 - layer) * CELL, head * CELL
        cell = picture[top + 1 : top + CELL - 1, left + 1 : left + CELL - 1]
        state = point.state(index)
        cell[:] = GREY if state is None else COLOURS[state]
        if called[index]:
            frame = np.ones(cell.shape[:2], bool)
            frame[2:-2, 2:-2] = False
            cell[frame] = INK
    return picture


def cohort_picture(points: Sequence[Point], height: int = 240) -> np.ndarray:
    """Emergent heads at each checkpoint, stacked by first emergence: uint8 [height, width, 3].

    One column a checkpoint; the oldest cohort is at the bottom and darkest.
    """
    steps = [point.step for point in points]
    most = max(1, *(int(point.masks["emergent"].sum()) for point in points))
    picture = np.full((height, len(points) * CELL, 3), WHITE, np.uint8)
    blue, pale = np.array(COLOURS["emergent"]), np.array((205, 224, 248))
    for column, point in enumerate(points):
        total, sizes = 0, Counter(point.first[point.masks["emergent"]].tolist())
        for rank, step in enumerate(steps):
            if not (size := sizes[step]):
                continue
            share = rank / max(1, len(steps) - 1)
            low, high = (round(n / most * height) for n in (total, total + size))
            columns = slice(column * CELL + 1, (column + 1) * CELL - 1)
            picture[height - high : height - low, columns] = blue + share * (pale - blue)
            total += size
    return picture
