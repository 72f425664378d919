"""HeadTracking wherever a `transformers.Trainer` is used otherwise than in the simplest way."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerCallback

from analysis.prompts.pairs import Pairs
from analysis.records.checkpoints import find_model
from analysis.records.record_files import read_record, read_records, read_scores, recorded_steps
from analysis.records.run_file import RunFile
from analysis.records.training_log import read_metrics
from analysis.reporting.alerts import Alarm
from analysis.tracking.tracker import HeadTracker
from headlab import HeadTracking
from tests.support.hung import TRACKING, load, plain_trainer, rows, tokenizer_of, write_pairs
from tests.support.launches import wait_for
from tests.support.runs import assert_same, final_state

pytestmark = pytest.mark.distributed  # each is short, and together they are not


@pytest.fixture
def pairs(tmp_path):
    return write_pairs(tmp_path / "pairs.jsonl")


@pytest.fixture
def trained(tiny_dir, tmp_path, pairs):
    """trained(name, tracking=..., ...): the trainer of a tracked training of two steps."""

    def train(name="r", tracking=None, resume=None, **more):
        more = {"max_steps": 2, "save_steps": 1, **more}
        if "eval_strategy" in more:
            more.setdefault("eval_dataset", rows(tokenizer_of(tiny_dir), 2))
        trainer = plain_trainer(tiny_dir, tmp_path / name, **more)
        trainer.add_callback(tracking or HeadTracking(pairs, **TRACKING))
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return train


@pytest.fixture
def quick(monkeypatch):
    """Tracking that measures nothing but the model's weights, and no report."""

    def track(self, model, step, show_progress=True):
        from analysis.models.provenance import describe
        from analysis.records.record_files import write_invalid

        self.start()
        write_invalid(self.run, step, "not measured", describe(model, self.run))

    monkeypatch.setattr(HeadTracker, "track", track)


BY_LOSS = {"metric_for_best_model": "loss", "greater_is_better": False}


def steps(run):
    return recorded_steps(run / "heads")


def test_two_trainings_in_one_process_have_a_run_each(quick, trained, tmp_path, pairs):
    tracking = HeadTracking(pairs, **TRACKING)
    trained("a", tracking)
    trained("b", tracking, max_steps=3)
    assert (steps(tmp_path / "a"), steps(tmp_path / "b")) == ([0, 1, 2], [0, 1, 2, 3])


def test_a_callback_that_is_there_twice_acts_once(quick, trained, tmp_path, pairs, caplog):
    same, other = HeadTracking(pairs, **TRACKING), HeadTracking(pairs, **TRACKING)
    trained("r", same, callbacks=[same, other])
    assert steps(tmp_path / "r") == [0, 1, 2]
    lines = (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len(read_metrics(tmp_path / "r")) + 1  # the last step and the whole
    assert caplog.text.count("once is enough") == 2
    assert not (tmp_path / "r" / "earlier-1").exists()


def test_two_pair_sets_have_a_directory_each(trained, tmp_path, pairs, monkeypatch):
    """The trainer's logs have the values of the first, and neither run those of the other."""
    monkeypatch.setattr("analysis.live.adopted_run.write_pages", lambda run: None)
    first = HeadTracking(pairs, run_dir=tmp_path / "first", **TRACKING | {"ig_steps": 1})
    trainer = trained("r", callbacks=[first])
    assert steps(tmp_path / "r") == steps(tmp_path / "first") == [0, 1, 2]
    name = "circuit/completeness_gap"
    gaps = [entry[name] for entry in trainer.state.log_history if name in entry]
    records = read_records(tmp_path / "first")
    assert gaps == [record.completeness_gap for record in records]
    for run in (tmp_path / "r", tmp_path / "first"):
        assert not any(name in values for values in read_metrics(run).values())


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"save_strategy": "no"}, [0, 2]),
        ({"save_strategy": "epoch", "max_steps": -1, "num_train_epochs": 1}, [0, 8]),
        ({"save_only_model": True}, [0, 1, 2]),
        ({"gradient_checkpointing": True}, [0, 1, 2]),
        ({"save_total_limit": 1}, [0, 1, 2]),
        ({"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "best"} | BY_LOSS, [0, 1, 2]),
        ({"eval_strategy": "epoch", "eval_on_start": True}, [0, 1, 2]),
    ],
)
def test_what_is_tracked_of_how_a_trainer_saves(quick, trained, tmp_path, more, expected):
    trained(**more)
    assert steps(tmp_path / "r") == expected


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


@pytest.mark.parametrize("where", ["inline", "checkpoint"])
def test_a_training_that_ends_early_has_its_last_step(quick, trained, tmp_path, pairs, where):
    tracking = HeadTracking(pairs, where=where, schedule="every:5", **TRACKING)
    saving = {"save_strategy": "steps", "save_steps": 3}
    trained("r", tracking, max_steps=9, callbacks=[StopAt(3)], **saving)
    assert steps(tmp_path / "r") == [0, 3]
    trained("s", tracking, max_steps=9, callbacks=[StopAt(4)], **saving)
    assert steps(tmp_path / "s") == [0, 4]


def test_the_best_model_may_be_the_best_by_its_heads(trained, tmp_path, monkeypatch):
    """Its heads are measured before the trainer compares them and early stopping does."""
    monkeypatch.setattr("analysis.live.adopted_run.write_pages", lambda run: None)
    trainer = trained(
        eval_strategy="steps",
        eval_steps=1,
        save_steps=2,
        max_steps=4,
        load_best_model_at_end=True,
        metric_for_best_model="circuit/metric_corrupted",
        callbacks=[EarlyStoppingCallback(early_stopping_patience=4)],
    )
    run = tmp_path / "r"
    measured = {step: read_record(run, step).metric_corrupted for step in steps(run)}
    name = "eval_circuit/metric_corrupted"
    seen = {entry["step"]: entry[name] for entry in trainer.state.log_history if name in entry}
    assert seen == {step: measured[step] for step in (1, 2, 3, 4)}
    assert trainer.state.best_metric == max(seen.values())
    assert trainer.state.best_global_step == max(seen, key=lambda step: seen[step])
    entered = [entry for entry in trainer.state.log_history if "heads/step" in entry]
    assert [(entry["step"], entry["heads/step"]) for entry in entered] == [
        (1, 0),
        (2, 1),
        (3, 2),
        (4, 3),
        (4, 4),
    ]
    assert not any("heads/step" in values for values in read_metrics(run).values())


def test_choosing_by_heads_needs_them_in_time(trained, tiny_dir, tmp_path, pairs):
    tracking = HeadTracking(pairs, where="checkpoint", **TRACKING)
    with pytest.raises(ValueError, match="metric_for_best_model='heads/emergent' is needed before"):
        trained("r", tracking, metric_for_best_model="heads/emergent", eval_strategy="no")
    assert not (tmp_path / "r" / "run.json").exists()


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_a_failure_costs_a_record_or_the_training(
    quick, trained, tmp_path, pairs, monkeypatch, caplog, on_error
):
    whole = HeadTracker.track

    def fail_at_one(self, model, step, show_progress=True):
        if step == 1:
            raise RuntimeError("attribution broke")
        whole(self, model, step, show_progress)

    monkeypatch.setattr(HeadTracker, "track", fail_at_one)
    tracking = HeadTracking(pairs, on_error=on_error, **TRACKING)
    if on_error == "raise":
        with pytest.raises(RuntimeError, match="attribution broke"):
            trained("r", tracking)
        monkeypatch.setattr(HeadTracker, "track", whole)
        trained("r", tracking)  # the directory is free again
        assert steps(tmp_path / "r") == [0, 1, 2]
    else:
        trained("r", tracking)
        assert steps(tmp_path / "r") == [0, 2]
        assert "head tracking failed at step 1; the checkpoint is safe" in caplog.text


def test_what_shows_a_run_may_fail(quick, trained, tmp_path, monkeypatch, caplog):
    def fail(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr("analysis.live.adopted_run.append_metrics", fail)
    monkeypatch.setattr("analysis.live.adopted_run.write_pages", fail)
    trained()
    assert steps(tmp_path / "r") == [0, 1, 2]
    assert "the report of" in caplog.text


def test_a_directory_that_is_used_again_keeps_what_was_there(trained, tmp_path, pairs, monkeypatch):
    """Another training's records are put aside whole; the base's is kept where it is the same."""
    monkeypatch.setattr("analysis.live.adopted_run.write_pages", lambda run: None)
    run, base = tmp_path / "r", tmp_path / "r" / "heads" / "step-000000" / "record.json"
    trained()
    kept, of_second = base.read_bytes(), read_scores(run, 2)
    trained(max_steps=1, learning_rate=1e-2)
    aside = run / "earlier-1"
    assert (steps(run), steps(aside)) == ([0, 1], [0, 1, 2])
    assert base.read_bytes() == kept
    assert torch.equal(read_scores(aside, 2), of_second)
    assert set(read_metrics(aside)) == {1, 2} and set(read_metrics(run)) == {1}
    assert RunFile.read(aside).name == "r"
    # other settings: the base's record is of no use
    trained(tracking=HeadTracking(pairs, **TRACKING | {"ig_steps": 1}), max_steps=1)
    assert (steps(run), steps(run / "earlier-2")) == ([0, 1], [0, 1])
    assert {record.settings["ig_steps"] for record in read_records(run)} == {1}


def test_a_training_that_took_no_step_leaves_nothing_behind(quick, trained, tmp_path, pairs):
    def fail(*arguments, **more):
        raise KeyboardInterrupt

    tracking = HeadTracking(pairs, **TRACKING)
    tracking.observe = fail
    with pytest.raises(KeyboardInterrupt):
        trained("r", tracking)
    assert (tmp_path / "r" / "pairs.jsonl").exists()
    lines = pairs.read_text().splitlines()
    pairs.write_text(lines[0])
    trained("r", HeadTracking(pairs, **TRACKING))
    assert len(Pairs.load(tmp_path / "r" / "pairs.jsonl")) == 1
    assert not (tmp_path / "r" / "earlier-1").exists()


def test_a_resumed_training_goes_on_with_its_run(trained, tiny_dir, tmp_path, pairs, monkeypatch):
    """Weights, records and logs are those of one that was not stopped."""
    monkeypatch.setattr("analysis.live.adopted_run.write_pages", lambda run: None)
    whole = trained("whole", max_steps=4, save_steps=2)
    run = tmp_path / "r"
    trained(max_steps=4, save_steps=2)
    trained(max_steps=4, save_steps=2, resume=str(run / "checkpoint-2"))
    assert_same(final_state(run), final_state(tmp_path / "whole"))
    assert (steps(run), steps(run / "earlier-1")) == ([0, 2, 4], [0, 2, 4])
    for step in (0, 2, 4):
        assert torch.equal(read_scores(run, step), read_scores(tmp_path / "whole", step))
    assert set(read_metrics(run)) == {1, 2, 3, 4}
    assert whole.state.global_step == 4
    with pytest.raises(ValueError, match=r"other settings; give HeadTracking ig_steps=2"):
        trained(
            tracking=HeadTracking(pairs, **TRACKING | {"ig_steps": 1}),
            max_steps=5,
            resume=str(run / "checkpoint-4"),
        )


def test_a_training_that_is_tracked_from_its_middle_has_a_base(
    trained, tiny_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr("analysis.live.adopted_run.write_pages", lambda run: None)
    bare = plain_trainer(tiny_dir, tmp_path / "r", max_steps=2, save_steps=1)
    bare.train()
    trained(resume=str(tmp_path / "r" / "checkpoint-1"))
    records = read_records(tmp_path / "r")
    assert [record.step for record in records] == [0, 1, 2]
    assert len({record.origin["model"]["weights"] for record in records}) == 3


class AskAt(TrainerCallback):
    """Asks for a step to be tracked, before the tracking hears that the step has ended."""

    def __init__(self, step, ask):
        self.step, self.ask = step, ask

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.ask()


def test_without_a_tokenizer_the_one_of_the_model_is_taken(quick, trained, tmp_path):
    trained(processing_class=None)
    assert (tmp_path / "r" / "tokenizer").is_dir()


@pytest.mark.parametrize("by", ["signal", "file"])
def test_a_step_is_tracked_when_somebody_asks(quick, trained, tmp_path, by):
    before = signal.getsignal(signal.SIGUSR1)
    file = tmp_path / "r" / "track-now"
    ask = {"signal": lambda: os.kill(os.getpid(), signal.SIGUSR1), "file": file.touch}[by]
    trained(save_steps=5, max_steps=4, callbacks=[AskAt(3, ask)])
    assert steps(tmp_path / "r") == [0, 3, 4]
    assert not file.exists()
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_signal_that_somebody_else_waits_for_is_left_to_them(quick, trained, tmp_path):
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    try:
        ask = AskAt(1, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        trained(save_steps=5, callbacks=[ask])
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == [1]
    assert steps(tmp_path / "r") == [0, 2]


def test_a_compiled_model_is_tracked_like_a_plain_one(trained, tiny_dir, tmp_path, monkeypatch):
    """Compiled by the trainer, whole by the user, and in place, part by part."""
    monkeypatch.setattr("analysis.live.adopted_run.write_pages", lambda run: None)
    trained("plain", max_steps=1)
    whole = torch.compile(load(tiny_dir), backend="eager")
    parts = load(tiny_dir)
    parts.model.compile(backend="eager")
    for layer in parts.model.layers:
        layer.self_attn.o_proj.compile(backend="eager")
    kinds = {
        "trainer": {"torch_compile": True, "torch_compile_backend": "eager"},
        "whole": {"model": whole, "remove_unused_columns": False},
        "parts": {"model": parts},
    }
    for name, more in kinds.items():
        trained(name, max_steps=1, **more)
        for step in (0, 1):
            found, expected = (read_scores(tmp_path / n, step) for n in (name, "plain"))
            assert (found - expected).abs().max() <= 1e-5 * expected.abs().max(), (name, step)


def test_an_adapter_is_tracked_attached_and_its_checkpoints_load(
    trained, tiny_dir, tmp_path, monkeypatch
):
    from peft import LoraConfig, get_peft_model

    monkeypatch.setattr("analysis.live.adopted_run.write_pages", lambda run: None)
    adapted = get_peft_model(load(tiny_dir), LoraConfig(r=2, target_modules=["q_proj", "o_proj"]))
    trained(model=adapted, gradient_checkpointing=True)
    run = tmp_path / "r"
    origins = [record.origin["model"] for record in read_records(run)]
    assert len({found["weights"] for found in origins}) == 1
    assert len({found["adapter"] for found in origins}) == 3
    from analysis.models.loading import load_model
    from analysis.models.provenance import weight_hashes

    named = find_model(f"{run}@2")
    model = load_model(named.path, named.dtype, base=named.base)
    assert weight_hashes(model).items() <= origins[2].items()


def test_checkpoints_may_be_tracked_as_copies(trained, tmp_path, pairs, monkeypatch):
    monkeypatch.setattr("analysis.live.adopted_run.write_pages", lambda run: None)
    trained("inline")
    trained("copies", HeadTracking(pairs, where="checkpoint", **TRACKING))
    assert steps(tmp_path / "copies") == [0, 1, 2]
    for step in (0, 1, 2):
        found, expected = (read_scores(tmp_path / n, step) for n in ("copies", "inline"))
        assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_a_process_beside_it_finds_all_that_it_needs(trained, tmp_path, pairs, capsys):
    """It saves what the schedule asks for, and `headlab track watch=` needs no other word."""
    from analysis.commands import run as command
    from launch.sidecar import Training

    trained("inline", max_steps=3, save_steps=1)
    tracking = HeadTracking(pairs, where="sidecar", schedule=[1], **TRACKING)
    trained("r", tracking, max_steps=3, save_steps=3)
    run = tmp_path / "r"
    assert steps(run) == []
    assert f"headlab track watch={run} run={run}" in capsys.readouterr().out
    with pytest.raises(ValueError, match=f"another trainer .*; headlab track watch={run}"):
        Training.find(run)
    words = [f"watch={run}", f"run={run}", "wait=false", "settle=0", "logger=none", "last=3"]
    command("track", [*words, "device=cpu", "tracking.resamples=10", "tracking.ig_steps=2"])
    assert steps(run) == [0, 1, 3]
    for step in (0, 1, 3):
        found, expected = (read_scores(tmp_path / n, step) for n in ("r", "inline"))
        assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("named", [True, False])
def test_a_model_that_is_not_that_of_its_files_has_none(
    quick, trained, tiny_dir, tmp_path, pairs, caplog, named
):
    """One that a configuration made names the files that this came from."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(tiny_dir)
    config.name_or_path = str(tiny_dir) if named else ""
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with pytest.raises(ValueError, match="and this model is not as in any"):
        trained("r", HeadTracking(pairs, where="checkpoint", **TRACKING), model=fresh)
    trained("r", model=fresh)
    assert not (tmp_path / "r" / "base.json").exists()
    assert ("the model is not that of the files" in caplog.text) == named


def test_a_training_by_another_process_is_not_mixed_with(quick, trained, tmp_path, monkeypatch):
    from analysis.records.locks import Held, Lock

    lock = Lock.take(tmp_path / "r" / "locks" / "run", "the run")
    with lock, pytest.raises(Held, match="in use by process"):
        trained()
    assert not (tmp_path / "r" / "run.json").exists()


def test_the_open_run_of_the_trainer_gets_the_rows(trained, tmp_path, monkeypatch, caplog):
    """No W&B run of ours beside it."""
    import wandb

    from analysis.reporting.wandb_files import rows as rows_of

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    trained(report_to="wandb", run_name="theirs", max_steps=2)
    wandb.finish()
    assert not [record.getMessage() for record in caplog.records if "misses" in record.msg]
    [session] = (tmp_path / "wandb").glob("offline-run-*")
    expected = ["heads/0", "heads/1", "heads/2"]  # W&B's file is whole a little after its end
    wait_for(lambda: [row.name for row in rows_of(session)] == expected, 30)
    assert not (tmp_path / "r" / "wandb").exists()


@pytest.mark.parametrize("saved", [True, False])
def test_an_alert_ends_the_training_with_a_checkpoint(
    trained, tmp_path, pairs, monkeypatch, caplog, saved
):
    monkeypatch.setattr("analysis.live.adopted_run.write_pages", lambda run: None)
    tracking = HeadTracking(pairs, schedule=[2], alerts=["edges>1"], halt=True, **TRACKING)
    monkeypatch.setattr(Alarm, "look", lambda self, run, publisher: run.points[-1].step == 2)
    trainer = trained("r", tracking, max_steps=6, save_steps=2 if saved else 50)
    assert trainer.state.global_step == 2
    assert (tmp_path / "r" / "checkpoint-2").is_dir()
    assert steps(tmp_path / "r") == [0, 2]
    assert "an alert ends the training at step 2" in caplog.text
