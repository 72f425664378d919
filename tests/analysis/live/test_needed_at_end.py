"""At the end of a run the heads that its last checkpoint calls are taken out."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.commands.needed import Options, act
from analysis.live import needed_at_end
from analysis.live.head_observer import HeadObserver
from analysis.live.needed_at_end import ask_at_end
from analysis.models.loading import load_model
from analysis.prompts.pairs import Pairs
from analysis.records.needed import needed_path, read_needed
from analysis.records.run_file import RunFile
from analysis.tracking.settings import TrackingConfig, TrackingSettings
from analysis.tracking.tracker import HeadTracker
from analysis.trajectories.run import Run
from tests.support.known_circuit import HEADS, build_copier, copier_pairs

SETTINGS = TrackingSettings(top_n=4, fraction=None, resamples=50, ig_steps=2)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[HeadTracker, Any, Any]:
    """A run whose last model has two heads that its base has not; the tracker and both models."""
    place, models = tmp_path_factory.mktemp("learned"), []
    RunFile("r", "track").write(place / "run")
    tracker = HeadTracker(place / "run", copier_pairs(12), SETTINGS)
    for step in (0, 1):
        model = build_copier()
        with torch.no_grad():
            for layer, head in ((0, 1), (2, 2)) if step == 0 else ():
                model.model.layers[layer].self_attn.o_proj.weight[:, 16 * head :][:, :16] = 0
        model.save_pretrained(place / f"model-{step}")
        models.append(load_model(str(place / f"model-{step}"), "float32"))
        tracker.track(models[-1], step, show_progress=False)
    return tracker, models[0], models[1]


def test_what_was_learned_is_called_and_needed(learned: tuple[HeadTracker, Any, Any]) -> None:
    tracker, base, now = learned
    assert ask_at_end(tracker, 1, nullcontext(now), lambda: base)
    found = Run.read(tracker.run).needed[1]
    assert sorted(found.heads) == HEADS and found.called == 2
    assert found.now is not None and found.now.p_value == pytest.approx(0.1)  # of 9 sets
    assert "only 9 different random sets match, so p is 0.1 or more" in found.note
    assert found.now.change.low is not None and found.now.change.low > 1
    assert found.base is not None and abs(found.base.change.value or 0) < 1e-6


def test_a_question_without_heads_leaves_what_was_measured(
    learned: tuple[HeadTracker, Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    tracker, _, now = learned
    assert ask_at_end(tracker, 1, nullcontext(now), None, most=1)
    act(Options(run=str(tracker.run), heads="pruned"))
    assert "no head is pruned" in capsys.readouterr().out
    assert read_needed(tracker.run)[1].now is not None


def test_nothing_is_asked_in_vain(
    learned: tuple[HeadTracker, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker, base, now = learned
    assert not ask_at_end(tracker, 1, nullcontext(now), None, most=0)
    assert not ask_at_end(
        tracker, 0, nullcontext(base), None
    )  # no head emerged at the base, nor is it last
    assert not ask_at_end(tracker, 1, nullcontext(base), None)  # other weights than the record's
    assert not needed_path(tracker.run, 1).exists()  # what was there before is of another model
    assert ask_at_end(tracker, 1, nullcontext(now), None, most=1)
    found = read_needed(tracker.run)[1]
    assert len(found.heads) == 1 and found.called == 2 and found.base is None

    def no_memory() -> Any:
        raise torch.OutOfMemoryError

    assert ask_at_end(tracker, 1, nullcontext(now), no_memory)
    found = read_needed(tracker.run)[1]
    assert "no memory for the base" in found.note and found.now is not None
    assert ask_at_end(tracker, 1, nullcontext(now), lambda: 1 / 0)  # its files are gone
    assert "the base could not be measured" in read_needed(tracker.run)[1].note
    monkeypatch.setattr(needed_at_end, "question", lambda *args, **kwargs: 1 / 0)
    assert not ask_at_end(tracker, 1, nullcontext(now), None)  # it is told, and costs nothing else


def test_the_command_measures_a_checkpoint_and_the_base(
    learned: tuple[HeadTracker, Any, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = learned[0].run
    act(Options(str(run), heads="in_circuit", most=2))
    shown = " ".join(capsys.readouterr().out.split())
    assert "heads (in circuit) at their" in shown and "base" in shown
    found = read_needed(run)[1]
    assert sorted(found.heads) == HEADS and found.now is not None and found.base is not None
    assert found.match is not None and f"{found.match.sets} random sets" in shown
    act(Options(str(run), step="0", heads=",".join(found.heads), controls=0))
    assert read_needed(run)[0].of == "given"
    assert read_needed(run)[0].now.change == found.base.change  # type: ignore[union-attr]
    assert "Are the heads needed?" in (run / "report.html").read_text()
    act(Options(str(run), step="0"))
    assert "no head is called emergent" in capsys.readouterr().out
    one = tmp_path / "one.jsonl"
    Pairs([learned[0].pairs[0]] * 3).save(one)
    act(Options(str(run), step="0", heads="L0H0", controls=0, pairs=str(one)))
    shown = " ".join(capsys.readouterr().out.split())
    assert "ne distinct pair can't tell backups from noise" in shown
    assert read_needed(run)[0].backups is None and "Backups" not in shown
    for options, said in (
        (Options(str(run), step="3"), "no valid record of step 3; it has: 0, 1"),
        (Options(str(run), heads="L9H9"), "L9H9"),
        (Options(str(run), heads="L0H0", pairs=str(tmp_path / "none")), "no pairs file"),
    ):
        with pytest.raises(ValueError, match=said):
            act(options)
    content = json.loads(needed_path(run, 1).read_text()) | {"step": 0}
    needed_path(run, 1).write_text(json.dumps(content))
    assert 1 not in read_needed(run)  # it is of another step


def test_what_a_stop_left_out_at_the_end_is_made_up(learned: tuple[HeadTracker, Any, Any]) -> None:
    """Of a run that is resumed once it has finished; the models are read from its files."""
    run, file = learned[0].run, needed_path(learned[0].run, 1)
    base = {"path": str(run.parent / "model-0"), "dtype": "float32"}
    (run / "base.json").write_text(json.dumps(base))
    (run / "checkpoint-1").symlink_to(run.parent / "model-1")
    file.unlink(missing_ok=True)
    observer = HeadObserver(TrackingConfig(), learned[0])
    observer.make_up(1)
    found = read_needed(run)[1]
    assert observer.asked and sorted(found.heads) == HEADS and found.base is not None
    file.write_text("it is there")
    observer.make_up(1)
    assert file.read_text() == "it is there"
