"""The loop that tracks checkpoints as they come, over a source and a tracker that take notes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from analysis.live.watching import Found, Gone, Stop, Watched, follow


class Notes:
    """A source of the steps in `there`, and a tracker. harm: by step, what loading it does."""

    def __init__(self, run: Path, there: list[int]) -> None:
        self.run, self.there = run, there
        self.done: list[int] = []
        self.harm: dict[int, Callable[[], None]] = {}

    def pending(self) -> list[Found]:
        return [Found(step, f"step_{step}") for step in self.there if step not in self.done]

    @contextmanager
    def loaded(self, found: Found, device: str) -> Iterator[int]:
        self.harm.get(found.step, lambda: None)()
        yield found.step

    def is_over(self, wait: bool) -> bool:
        return not wait or len(self.done) >= 3

    def left_out(self) -> list[str]:
        return ["step_9 is not whole"]

    def is_tracked(self, step: int) -> bool:
        return step in self.done

    def track(self, model: int, step: int) -> None:
        assert model == step
        self.done.append(step)


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Notes:
    monkeypatch.setattr("analysis.live.watching.Watched.show", lambda self: None)
    return Notes(tmp_path, [0, 2, 4])


def go(notes: Notes, **how: Any) -> None:
    follow(Watched(notes.run, notes, notes), "cpu", 0.01, **how)  # type: ignore[arg-type]


def test_the_earliest_is_taken_whatever_comes_meanwhile(
    notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    notes.harm[2] = lambda: notes.there.insert(2, 3)
    go(notes, wait=False)
    assert notes.done == [0, 2, 3, 4]
    assert "step_9 is not whole" in caplog.text


def test_one_that_goes_is_passed_over_and_one_that_fails_is_said_at_the_end(
    notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    def go_away() -> None:
        notes.there.remove(2)
        raise Gone

    def fail() -> None:
        raise ValueError("of another shape")

    notes.harm = {2: go_away, 4: fail}
    with pytest.raises(ValueError, match=r"1 checkpoints could not be tracked: \[4\]"):
        go(notes, wait=False)
    assert notes.done == [0]
    assert "step_2 was removed or replaced while it was read; step 2 is passed over" in caplog.text
    assert "step 4 can't be tracked: of another shape" in caplog.text


def test_a_step_that_another_process_has_is_waited_for(notes: Notes) -> None:
    from analysis.records.locks import Lock

    with Lock.take(notes.run / "locks" / "step-000002", "step 2"):
        go(notes, wait=False)
    assert notes.done == [0, 4]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_current_checkpoint(
    notes: Notes, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    notes.harm[2] = lambda: os.kill(os.getpid(), number)
    with Stop().on_signals() as stop:
        go(notes, stop=stop)
        assert signal.getsignal(number) == before  # a second one ends the process as ever
    assert notes.done == [0, 2]
    assert "ending after the current checkpoint" in capsys.readouterr().out
