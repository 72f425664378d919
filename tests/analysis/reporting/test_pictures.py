"""The pictures of loggers: the states of heads as colours, and cohorts as heights."""

from __future__ import annotations

from pathlib import Path

from analysis.reporting.pictures import (
    CELL,
    COLOURS,
    GREY,
    INK,
    WHITE,
    cohort_picture,
    head_map_picture,
)
from analysis.trajectories.run import Run
from tests.support.planted_runs import BASE, FINAL, make_run, plant

MIDDLE = CELL // 2


def test_the_map_shows_states_and_frames_what_is_called(tmp_path: Path) -> None:
    point = Run.read(make_run(tmp_path / "r", FINAL)).points[-1]
    picture, graph = head_map_picture(point), point.record.graph
    called = point.change.called["emergent"] | point.change.called["pruned"]
    assert picture.shape == (graph.n_layers * CELL, graph.n_heads * CELL, 3)
    assert called.any() and not called.all()
    for index, state in enumerate(point.states):
        assert state == point.state(index)
        layer, head = divmod(index, graph.n_heads)
        top, left = (graph.n_layers - 1 - layer) * CELL, head * CELL
        cell = picture[top : top + CELL, left : left + CELL]
        colour = GREY if state is None else COLOURS[state]
        assert tuple(cell[MIDDLE, MIDDLE]) == tuple(cell[3, -4]) == colour
        frame = INK if called[index] else colour
        assert tuple(cell[1, 1]) == tuple(cell[2, MIDDLE]) == tuple(cell[-2, -3]) == frame
        assert tuple(cell[0, MIDDLE]) == tuple(cell[MIDDLE, -1]) == WHITE


def test_cohorts_are_stacked_the_oldest_below(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", FINAL)
    plant(run, 30, [*BASE, "a0.h2"])
    points = Run.read(run).points
    assert [point.cohorts for point in points] == [{}, {10: 1}, {10: 1, 20: 1}, {20: 1}]
    picture = cohort_picture(points, 40)
    assert picture.shape == (40, 4 * CELL, 3)
    rows = [list(map(tuple, picture[:, n * CELL + 1])) for n in range(4)]
    old, new = rows[1][-1], rows[2][0]
    assert len({old, new, WHITE}) == 3
    assert rows[0] == [WHITE] * 40
    assert rows[1] == [WHITE] * 20 + [old] * 20
    assert rows[2] == [new] * 20 + [old] * 20
    assert rows[3] == [WHITE] * 20 + [new] * 20
    assert {tuple(pixel) for pixel in picture[:, CELL]} == {WHITE}
