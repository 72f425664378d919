"""`headlab launch bench`: what is timed, what is left out, and that all sides do the same."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from analysis.cli import parse
from analysis.records.training_log import append_metrics
from launch.bench.command import chosen, main, shares, table
from launch.bench.pace import WARM_UP, Pace, difference, intervals, read_pace
from launch.bench.runs import (
    KINDS,
    SIDES,
    Options,
    bare_specification,
    build_model,
    commands,
    execute,
    overrides,
)
from train.config import load_resolved
from train.entry import compose
from train.program import program
from train.run import prepare, run

SHORT = Options(steps=2, save_steps=2, batch=2, tokens=16, pairs=2)


def pace_of(seconds: dict[int, float], training: float = 10.0, tracked: tuple = ()) -> Pace:
    """A run whose step N took `seconds[N]`, each with ten tokens and a loss of 1/N."""
    clock, lines = 1000.0, {}
    for step, taken in sorted(seconds.items()):
        clock += taken
        lines[step] = {"time": clock, "num_tokens": 10.0 * step, "loss": 1 / step}
    return Pace(lines, training, list(tracked))


def test_the_step_after_a_save_and_the_first_ones_are_left_out():
    times = {step: float(step**2) for step in range(1, 11)}  # step N + 1 takes 2 N + 1 seconds
    left = [step for step in range(1, 10) if step >= WARM_UP and step not in (4, 8)]
    assert intervals(times, saved=(4, 8)) == [2 * step + 1 for step in left]
    del times[6]  # not logged: neither the step to it nor the one from it is known
    assert intervals(times, saved=(4, 8)) == [2 * step + 1 for step in left if step not in (5, 6)]


def test_throughput_is_that_between_saves():
    seconds = dict.fromkeys(range(1, 13), 0.5)
    slow = seconds | {
        1: 60.0,
        2: 9.0,
        5: 30.0,
        9: 30.0,
    }  # start; first steps after saves at 4 and 8
    assert pace_of(slow).steps_per_second(save_steps=4) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="no step lies between saves"):
        pace_of(dict.fromkeys(range(1, WARM_UP + 1), 0.5)).steps_per_second(4)


def test_pace_is_read_from_what_a_run_leaves(tmp_path):
    append_metrics(tmp_path, 1, {"loss": 3.0, "num_tokens": 8})
    append_metrics(tmp_path, 2, {"loss": 2.0, "num_tokens": 16})
    with open(tmp_path / "metrics.jsonl", "a") as lines:
        lines.write('{"step": 3, "ti')  # killed, and resumed from step 1
    with pytest.raises(ValueError, match="did not finish"):
        read_pace(tmp_path)
    before = time.time()
    append_metrics(tmp_path, 2, {"loss": 2.5, "num_tokens": 16})
    append_metrics(tmp_path, 2, {"train_runtime": 12.5, "train_loss": 2.7})
    for step, record in ((0, {"seconds": 1.5}), (2, {"seconds": 2.5}), (4, {"invalid": "NaN"})):
        path = tmp_path / "heads" / f"step-{step:06d}" / "record.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(record))
    pace = read_pace(tmp_path)
    assert {step: line["loss"] for step, line in pace.lines.items()} == {1: 3.0, 2: 2.5}
    assert before <= pace.lines[2]["time"] <= time.time()
    assert (pace.training, pace.tracked) == (12.5, [1.5, 2.5])


def test_runs_of_different_work_are_not_compared():
    one, other = (pace_of(dict.fromkeys(range(1, 4), 1.0)) for _ in range(2))
    assert difference(one, other, exact=True) is None
    other.lines[2]["loss"] += 1e-9
    assert difference(one, other, exact=False) is None
    assert difference(one, other, exact=True) == "loss of step 2 is 0.5 and 0.500000001"
    other.lines[3]["num_tokens"] = 31.0
    assert difference(one, other, exact=False) == "num_tokens of step 3 is 30.0 and 31.0"
    del other.lines[3]
    assert difference(one, other, exact=False) == "num_tokens of step 3 is 30.0 and None"


def test_the_table_tells_ratios_and_shares():
    steps = range(1, 9)
    turns = []
    for machine in (1.0, 2.0, 4.0):  # the machine slows down from turn to turn
        turns.append(
            {
                "bare": pace_of(dict.fromkeys(steps, 0.5 * machine), 40 * machine),
                "off": pace_of(dict.fromkeys(steps, 0.5 * machine), 40 * machine),
                "inline": pace_of(
                    dict.fromkeys(steps, 0.625 * machine), 50 * machine, (2 * machine, 3 * machine)
                ),
                "sidecar": pace_of(dict.fromkeys(steps, 0.5 * machine), 50 * machine, (7, 7)),
            }
        )
    lines = table(turns, save_steps=4)
    cells = {line.split()[0]: line.split()[1:] for line in lines}
    assert cells["bare"] == ["1", "[0.5-2]", "1", "80", "[40-160]", "-"]
    assert cells["off"][2:4] == ["1.000", "[1.000-1.000]"]
    assert cells["inline"] == [
        *("0.8", "[0.4-1.6]", "0.800", "[0.800-0.800]", "100", "[50-200]", "2", "x", "5"),
    ]
    assert shares(turns) == [
        "tracking's share of the run, inline: 10 [10-10] %, by wall clock 20 [20-20] %",
        "tracking's share of the run, sidecar: by wall clock 20 [20-20] %",
    ]
    assert max(len(line) for line in lines + shares(turns)) < 80


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("kind=dpo", "kind has dpo; choose from sft, grpo, both"),
        ("sides=bare,of", "sides has of; choose from bare, line, off"),
        ("sides=off,inline", "add bare"),
        ("logger=tensorboard", "logger has tensorboard"),
        ("repeats=0", "repeats must be at least 1"),
        ("steps=5", "leave no step between saves"),
        ("save_steps=1", "leave no step between saves"),
        ("reapeats=3", "did you mean repeats"),
    ],
)
def test_a_mistake_is_answered_before_anything_runs(argument, message):
    with pytest.raises(ValueError, match=message):
        chosen(parse(Options, [argument]))


def test_kinds_sides_and_shapes_are_chosen():
    assert chosen(Options(shape="tiny,smollm2-135m")) == (
        list(KINDS),
        list(SIDES),
        ["tiny", "smollm2-135m"],
    )
    assert chosen(Options(kind="sft", sides="bare,off", shape="tiny"))[:2] == (
        ["sft"],
        ["bare", "off"],
    )


@pytest.mark.parametrize("kind", KINDS)
def test_bare_and_headlab_get_the_same_arguments_and_rows(kind, tiny_dir, tmp_path):
    from trl import GRPOConfig, SFTConfig

    options = Options(steps=6, save_steps=3, batch=4, tokens=32)
    (bare,) = commands(options, kind, "bare", tiny_dir, tmp_path / "run")
    specification = json.loads(Path(bare[-1]).read_text())
    (headlab,) = commands(options, kind, "off", tiny_dir, tmp_path / "run")
    plan = prepare(load_resolved(Path(headlab[-1])))
    bare_args = (SFTConfig if kind == "sft" else GRPOConfig)(**specification["args"])
    theirs, ours = bare_args.to_dict(), plan.args.to_dict()
    assert ours.pop("model_init_kwargs") in (None, {"use_safetensors": True})  # of loading alone
    assert theirs.pop("model_init_kwargs") is None
    assert theirs == ours
    assert plan.args.logging_steps == 1
    assert (plan.args.max_steps, plan.args.save_steps) == (6, 3)
    rows = [json.loads(row) for row in Path(specification["rows"]).read_text().splitlines()]
    assert rows == plan.dataset.to_list()
    assert [reward.__name__ for reward in plan.rewards] == specification["rewards"]
    assert plan.tracking is None


@pytest.mark.parametrize("side", ["inline", "sidecar"])
def test_tracking_sides_differ_from_off_in_tracking_alone(side, tmp_path):
    off, tracked = (
        OmegaConf.to_container(
            compose("sft", overrides(SHORT, "sft", s, tmp_path / "model", tmp_path / "run")),
            resolve=True,
        )
        for s in ("off", side)
    )
    assert off.pop("tracking")["enabled"] is False
    tracking = tracked.pop("tracking")
    assert (tracking["enabled"], tracking["where"]) == (True, side)
    assert off == tracked
    asked = commands(SHORT, "sft", side, tmp_path / "model", tmp_path / "run")
    words = len(program())
    assert [command[: words + 1] for command in asked[1:]] == [program("sidecar")][: len(asked) - 1]
    assert len(asked) == (2 if side == "sidecar" else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_bare_and_headlab_have_equal_losses(kind, tiny_dir, tmp_path):
    """The comparison is of the same work: the same tokens and, to the last bit, the same losses."""
    from launch.bench.bare_trl import train

    bare, headlab = tmp_path / "bare", tmp_path / "headlab"
    cfg = compose(kind, overrides(SHORT, kind, "bare", tiny_dir, bare))
    train(bare_specification(cfg, tmp_path / "rows.jsonl"))
    run(prepare(compose(kind, overrides(SHORT, kind, "off", tiny_dir, headlab))))
    paces = [read_pace(path) for path in (bare, headlab)]
    assert [list(pace.lines) for pace in paces] == [[1, 2], [1, 2]]
    assert difference(*paces, exact=True) is None
    assert all(pace.training > 0 for pace in paces)


def test_rows_fill_the_asked_tokens(tiny_dir, tmp_path):
    from transformers import AutoTokenizer

    from train.data import sft_dataset

    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    for tokens in (16, 64, 256):
        options = Options(tokens=tokens, steps=8)
        cfg = compose("sft", overrides(options, "sft", "off", tiny_dir, tmp_path / "run"))
        for row in sft_dataset(cfg.data):
            messages = row["prompt"] + row["completion"]
            prompt = tokenizer.apply_chat_template(row["prompt"], return_dict=False)
            whole = tokenizer.apply_chat_template(messages, return_dict=False)
            assert len(prompt) < tokens <= len(whole)


def test_a_shape_becomes_a_model_directory(tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from analysis.commands import bench

    small = {"hidden_size": 12, "intermediate_size": 16, "num_attention_heads": 3}
    shape = {**bench.SHAPES["smollm2-135m"], **small, "num_hidden_layers": 1, "vocab_size": 300}
    monkeypatch.setitem(bench.SHAPES, "small", shape | {"num_key_value_heads": 3})
    directory = build_model("small", tmp_path / "model")
    config = AutoModelForCausalLM.from_pretrained(directory).config
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert (config.hidden_size, config.eos_token_id) == (12, tokenizer.eos_token_id)
    assert build_model(str(directory), tmp_path / "unused") == directory
    with pytest.raises(ValueError, match="no shape and no directory 'bert'"):
        build_model("bert", tmp_path / "unused")


def test_a_failed_process_ends_the_others_and_shows_its_last_words(tmp_path):
    fails = [sys.executable, "-c", "print('about to'); raise SystemExit('out of luck')"]
    waits = [sys.executable, "-c", "import time; time.sleep(600)"]
    started = time.monotonic()
    with pytest.raises(ValueError, match="ended with status 1: about to\nout of luck"):
        execute([fails, waits], 1, tmp_path)
    assert time.monotonic() - started < 300  # it did not wait for the other


@pytest.mark.slow
def test_the_command_prints_a_table(capsys):
    arguments = ["shape=tiny", "sides=bare,line,off,inline", "kind=sft", "repeats=1", "pairs=2"]
    main([*arguments, "steps=8", "save_steps=4", "batch=2", "tokens=16"])
    printed = capsys.readouterr().out
    assert (
        "sft, tiny, 2 x 16: equal tokens and losses in every step (256 tokens in a run)" in printed
    )
    assert "tracking's share of the run, line: " in printed
    assert "tracking's share of the run, inline: " in printed
