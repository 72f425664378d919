"""The paper's experiments: toy runs of each, what debug=tiny may change, mistakes in a study."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from analysis.reporting import paper
from launch.study import run_study
from tests.support.places import ROOT
from tests.support.warm import warm_python
from train.entry import CONF

PAPER = CONF / "experiment" / "paper"
EXPERIMENTS = sorted(
    (path.parent.name, path.stem) for path in PAPER.glob("*/*.yaml") if path.stem != "common"
)
STUDIES = [name for name, kind in EXPERIMENTS if kind == "study"]
TRAINED = [(name, kind) for name, kind in EXPERIMENTS if kind != "study"]
SFT, GRPO = ("openr1", "sft"), ("gsm8k", "grpo")  # whose heads the scaling study takes

# Everything that debug=tiny may change, by what it is.
MODELS = {"model.path", "model.recipe", "model.seed", "study.models"}
DATA = {
    *("data.source", "data.options", "data.messages_column"),
    *("pairs.source", "study.pairs", "study.tasks"),
}
SIZES = {
    *("data.size", "pairs.size", "tracking.top_n", "tracking.ig_steps", "tracking.resamples"),
    *("train.args.max_steps", "train.args.save_steps", "train.args.logging_steps"),
    *("train.args.per_device_train_batch_size", "train.args.gradient_accumulation_steps"),
    *("train.args.max_length", "train.args.max_completion_length", "study.heads"),
    *(f"study.defaults.evaluate.{name}" for name in ("size", "n", "k", "controls")),
    "study.defaults.evaluate.max_new_tokens",
}
ON_A_CPU = {"train.args.bf16", "study.defaults.evaluate.backend"}
APART = {"run_dir"}


def flat(values: dict, prefix: str = "") -> dict[str, object]:
    """Leaves by dotted key."""
    found: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def tiny(compose, toy, kind, name, *more):
    """The configuration of an experiment under debug=tiny, kept in a directory of the test."""
    words = [f"experiment=paper/{name}", "debug=tiny", "logger=none", "resume=auto"]
    return compose(kind, *words, f"run_dir={toy}/${{name}}", *more)


def trained(compose, toy, name, kind):
    """A run of an experiment at toy scale, made if it is not there; at a rate that moves heads."""
    from train.run import prepare, run

    quick = ["train.args.learning_rate=1e-2", "train.args.disable_tqdm=true"]
    cfg = tiny(compose, toy, kind, name, *quick)
    if not (Path(cfg.run_dir) / "finished.json").exists():
        run(prepare(cfg))
    return Path(cfg.run_dir)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Where the toy runs are kept that tests share."""
    return tmp_path_factory.mktemp("toy")


@pytest.mark.parametrize(("name", "kind"), EXPERIMENTS)
def test_debug_tiny_replaces_models_data_and_sizes_and_nothing_else(compose, name, kind):
    from train.config import plain

    full = flat(plain(compose(kind, f"experiment=paper/{name}")))
    small = flat(plain(compose(kind, f"experiment=paper/{name}", "debug=tiny")))
    changed = {key for key in full.keys() | small.keys() if full.get(key) != small.get(key)}
    # what steps and pairs of a study take from elsewhere is compared where it comes from
    allowed = MODELS | DATA | SIZES | ON_A_CPU | APART
    unexpected = {
        key for key in changed if not any(key == a or key.startswith(f"{a}.") for a in allowed)
    }
    followers = {
        key
        for key in unexpected
        if (found := re.fullmatch(r"study\.steps\.\w+[\w.-]*\.options\.(.*)", key))
        and (found[1] in ("source", "size") or found[1] == "intervention")
    }
    assert unexpected == followers
    assert {"model.recipe", "pairs.source", "tracking.top_n", "run_dir"} <= changed
    assert small["run_dir"] == f"runs-tiny/{small['name']}" != full["run_dir"]


@pytest.mark.parametrize(("name", "kind"), EXPERIMENTS)
def test_each_begins_with_its_command(name, kind):
    lines = (PAPER / name / f"{kind}.yaml").read_text().splitlines()
    assert lines[:2] == [
        "# @package _global_",
        f"# to execute: headlab {kind} experiment=paper/{name}",
    ]


VARIANTS = [pair for pair in TRAINED if pair[0] not in ("openr1", "gsm8k")]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(*pair, marks=[pytest.mark.slow] if pair in VARIANTS else [])
        for pair in sorted(TRAINED)
    ],
)
def test_training_runs_end_to_end(compose, toy, name, kind):
    from analysis.records.record import read_records
    from analysis.records.training_log import read_metrics

    run = trained(compose, toy, name, kind)
    records = read_records(run)
    assert [record.step for record in records] == [0, 1, 2]
    assert all(record.settings["kv"] == "ungrouped" for record in records)
    assert records[0].settings["quadrature"] == "right"
    assert not records[0].mean.equal(records[2].mean)  # it has learned something
    assert ("reward" if kind == "grpo" else "loss") in read_metrics(run)[2]


def test_a_base_model_learns_where_its_turns_end(compose, toy):
    """As Qwen2.5-Math: its tokenizer and generation config know <|endoftext|> alone."""
    from transformers import AutoTokenizer, GenerationConfig, Qwen3ForCausalLM

    from train.recipes.tiny import END, PAD, build_tokenizer, tiny_config
    from train.run import prepare, run

    base = toy / "base"
    tokenizer = build_tokenizer()
    tokenizer.eos_token = PAD
    Qwen3ForCausalLM(tiny_config(tokenizer)).save_pretrained(base)
    tokenizer.save_pretrained(base)
    wanted = tokenizer.convert_tokens_to_ids(END)
    assert GenerationConfig.from_pretrained(base).eos_token_id != wanted
    cfg = tiny(
        compose,
        toy / "of-base",
        "sft",
        "openr1",
        f"model.path={base}",
        "model.recipe=null",
        "tracking=none",
        "train.args.max_steps=1",
        "train.args.disable_tqdm=true",
    )
    run(prepare(cfg))
    made = Path(cfg.run_dir) / "checkpoint-1"
    assert AutoTokenizer.from_pretrained(made).eos_token == END
    assert wanted in GenerationConfig.from_pretrained(made).eos_token_id


def test_distilled(compose, toy, capsys):
    """The whole study; the same command again does nothing."""
    from analysis.records.record import read_records

    cfg = tiny(compose, toy, "study", "distilled")
    run_study(cfg)
    run = Path(cfg.run_dir)
    steps = [record.step for record in read_records(run / "paper-distilled")]
    assert steps == [0, 1]
    assert (run / "comparison" / "comparison.html").exists()
    assert json.loads((run / "study.json").read_text()).keys() == {"track", "compare"}
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.json")}
    capsys.readouterr()
    run_study(cfg)
    said = capsys.readouterr().out
    assert said.count("finished already") == 2
    after = {path: path.stat().st_mtime_ns for path in run.rglob("*.json")}
    assert {p for p in after if after[p] != before.get(p)} <= {run / "pairs.json", run / "run.json"}
    rows, _ = paper.head_rows(paper.tracked_runs([run]))
    assert rows[1][:2] == ["distilled", "32"]
    assert rows[1][2] != "-"

    with pytest.raises(ValueError, match="pairs.jsonl holds other pairs"):
        run_study(tiny(compose, toy, "study", "distilled", "pairs.size=3"))


def test_think(compose, toy, capsys):
    from analysis.cli import main
    from analysis.commands import evaluate

    cfg = tiny(compose, toy, "study", "think")
    run_study(cfg)
    run = Path(cfg.run_dir)
    results = paper.read_results([run])
    assert {label for label, _ in results} == {
        *("think/on", "think/off", "think/off heads zeroed", "think/off heads x0.5")
    }
    assert [results[f"think/{mode}", "arithmetic"]["think"] for mode in ("on", "off")] == [
        "on",
        "off",
    ]
    off_only = json.loads((run / "think" / "heads" / "think-off-only.json").read_text())["heads"]
    assert results["think/off heads zeroed", "arithmetic"]["heads"] == off_only[:2]
    # one file for each mode, off for three steps; 3 problems, 2 answers each
    kept = [file.read_text().splitlines() for file in (run / "unchanged").glob("*.jsonl")]
    assert [len(answers) for answers in kept] == [6, 6]

    # the command that is printed for a step is the step
    printed = re.search(r"\] off-arithmetic: (headlab .*)", capsys.readouterr().out)[1]
    program, command, *words = shlex.split(printed)
    assert (program, command) == ("headlab", "evaluate")
    scores = run / "off-arithmetic" / "scores.json"
    whole = scores.read_text()
    scores.unlink()
    main(evaluate.Options, "", evaluate.act, words)
    assert scores.read_text() == whole


@pytest.mark.parametrize(
    "name", ["ablation_1_5b", pytest.param("ablation_7b", marks=pytest.mark.slow)]
)
def test_ablation(compose, toy, name):
    """Heads of the right sets, controls, and the same heads in the base."""
    from analysis.trajectories.run import Run

    cfg = tiny(compose, toy, "study", name)
    run_study(cfg)
    run = Path(cfg.run_dir)
    results = paper.read_results([run])
    size = "1.5B" if name == "ablation_1_5b" else "7B"
    found = {label.split("/")[2]: r for (label, _), r in results.items() if f"Qwen-{size}" in label}
    assert found.keys() == {"reasoning", "base", "TriviaQA"}
    rows, _ = paper.head_rows(paper.tracked_runs([run]))
    assert [row[0] for row in rows[-2:]] == [f"{cfg.name}/track", f"{cfg.name}/track-trivia"]
    base, post = Run.read(run / "track").points
    trivia = Run.read(run / "track-trivia").points[1]
    inside = {
        "reasoning": post.names(post.masks["emergent"]),
        "base": base.names(base.masks["in_circuit"]),
        "TriviaQA": trivia.names(trivia.masks["in_circuit"]),
    }
    for row, result in found.items():
        assert len(result["heads"]) == 2
        assert set(result["heads"]) <= set(inside[row])
        assert {"none", "intervention", "random-2", "base+intervention"} <= set(
            result["conditions"]
        )


def test_scaling_goes_on_after_a_step_that_failed(compose, toy, monkeypatch, capsys):
    """It says which runs it needs, takes their heads, and asks the finished evaluations again."""
    from analysis.commands import evaluate

    cfg = tiny(compose, toy / "lonely", "study", "scaling")
    with pytest.raises(ValueError, match=r"no run .*; first: headlab sft experiment=pap"):
        run_study(cfg)
    assert not (toy / "lonely").exists()

    for pair in (SFT, GRPO):
        trained(compose, toy, *pair)
    cfg = tiny(compose, toy, "study", "scaling")
    whole, calls = evaluate.act, []

    def fail_at_second(options):
        calls.append(options.label)
        if len(calls) == 2:
            raise ValueError("the power went")
        whole(options)

    monkeypatch.setattr(evaluate, "act", fail_at_second)
    with pytest.raises(ValueError, match="step sft-x1.3-arithmetic: the power went"):
        run_study(cfg)
    [answers] = Path(cfg.run_dir).glob("sft-zeroed-arithmetic/completions/intervention.jsonl")
    before = answers.stat().st_mtime_ns
    run_study(cfg)
    assert calls[2:] == [
        *("scaling/SFT heads zeroed", "scaling/SFT heads x1.3"),
        *("scaling/GRPO-GSM8K heads x0.5", "scaling/GRPO-GSM8K heads x1.3"),
    ]
    assert answers.stat().st_mtime_ns == before  # none is drawn again
    results = paper.read_results([Path(cfg.run_dir)])
    assert len(results) == 4
    heads = [
        results[f"scaling/{row}", "arithmetic"]["heads"]
        for row in (
            "SFT heads zeroed",
            "SFT heads x1.3",
            "GRPO-GSM8K heads x0.5",
            "GRPO-GSM8K heads x1.3",
        )
    ]
    assert heads[0] == heads[1]
    assert heads[2] == heads[3]


def test_heads_of_runs_are_counted_as_the_paper_counts(compose, toy):
    """Unions over checkpoints, against the sets of the records themselves."""
    from analysis.records.record import read_records

    run = trained(compose, toy, *SFT)
    rows, notes = paper.head_rows(paper.tracked_runs([run]))
    by_name = {row[0]: row for row in rows}
    inside = [
        {i for i, there in enumerate(record.in_circuit.tolist()) if there}
        for record in read_records(run)
    ]
    union, emergent = inside[1] | inside[2], (inside[1] | inside[2]) - inside[0]
    assert by_name["SFT"][1:4] == ["34", str(len(union)), str(len(emergent))]
    assert by_name["SFT"][4].startswith(f"{len(inside[2])} [")
    assert by_name["base"][1:4] == ["56", str(len(inside[0])), "-"]
    assert by_name["base"][4].startswith(f"{len(inside[0])} [")
    assert by_name["GRPO GSM8K"] == ["GRPO GSM8K", "20", "-", "-", "-", "-", "-", "-"]
    assert f"SFT: {run}" in notes


def test_each_rate_of_grpo_has_its_row(compose, tmp_path):
    """The paper's one count stands beside both."""
    from analysis.records.run_file import RunFile
    from analysis.tracking.settings import TrackingSettings
    from analysis.tracking.tracker import HeadTracker
    from tests.support.models import random_pairs, tiny_model

    tracker = HeadTracker(tmp_path, random_pairs(3), TrackingSettings(ig_steps=1, resamples=5))
    for step in (0, 1):
        tracker.track(tiny_model("qwen2", seed=step), step, show_progress=False)
    name = compose("grpo", "experiment=paper/openr1_lr2e-5").name
    RunFile(name, "grpo", "reward").write(tmp_path)
    rows, _ = paper.head_rows(paper.tracked_runs([tmp_path]))
    by_name = {row[0]: row for row in rows}
    assert by_name["GRPO OpenR1, lr 1e-6"][1:3] == ["19", "-"]
    assert by_name["GRPO OpenR1, lr 2e-5"][1] == "19"
    assert by_name["GRPO OpenR1, lr 2e-5"][2] != "-"
    assert "does not say for which" in "\n".join(paper.HEAD_NOTES)


def test_a_step_on_an_empty_set_of_heads_is_left_out(tmp_path, capsys):
    """No head is exclusive: a finding, and the steps after it run."""
    from types import SimpleNamespace

    from analysis.interventions.head_sets import parse_heads
    from launch.study import run_steps

    (tmp_path / "none.json").write_text('{"heads": []}')
    ran = []

    def step(name, command, act):
        return SimpleNamespace(
            name=name,
            command=command,
            module=SimpleNamespace(act=act),
            line=lambda places: name,
            parse=lambda places: None,
        )

    steps = [
        step("empty", "evaluate", lambda options: parse_heads(f"{tmp_path}/none.json:5", None)),
        step("after", "track", lambda options: ran.append("after")),
    ]
    run_steps(tmp_path, steps, {})
    assert ran == ["after"]
    assert "[1/2] empty: left out, as there is no head in" in capsys.readouterr().out
    assert list(json.loads((tmp_path / "study.json").read_text())) == ["after"]


STUDY_MISTAKES = [
    (["study.steps.compare.command=comapre"], "study.steps.compare.command is 'comapre'"),
    (["study.steps.compare.options.ouut=x"], "study.steps.compare: unknown key 'ouut'; did you"),
    (["study.steps.track.options.base='{bse}'"], "study.steps.track: nothing is named {bse}"),
    (["study.models.post.recipe=tiny_randon"], "study.models.post.recipe is 'tiny_randon'"),
    (["study.models.post.path=x"], "exactly one of study.models.post.path (x)"),
    (["study.models.post={path: no/such-model, recipe: null}"], "'no/such-model' is neither"),
    (["study.tokenizer=pots"], "study.tokenizer is 'pots'"),
    (["study.steps.track.options.run='{task}'", "study.tasks=[]"], "is over tasks; name some"),
    (["resources=slurm", "resources.gpus=8"], "leave out resources=slurm"),
    (["study.defaults.evluate={n: 1}"], "study.defaults is 'evluate'"),
]
EVALUATE_MISTAKES = [
    ("backend=hff", "backend is 'hff'"),
    ("k=[1,9]", "k=9 needs as many samples"),
    ("task=aime23", "aime23"),
    ("intervention='zer:L0H0'", "zer"),
    ("intervention='scale:much:L0H0'", "much"),
    ("temperature=-1", "temperature"),
]


@pytest.mark.parametrize(("overrides", "message"), STUDY_MISTAKES, ids=lambda v: str(v)[:40])
def test_mistakes_in_a_study_are_said_before_anything_is_made(
    compose, tmp_path, overrides, message
):
    cfg = tiny(compose, tmp_path / "runs", "study", "distilled", *overrides)
    with pytest.raises(ValueError, match=re.escape(message)):
        run_study(cfg)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("override", "message"), EVALUATE_MISTAKES)
def test_mistakes_in_an_evaluation_are_said_before_anything_is_made(
    compose, tmp_path, override, message
):
    change = f"++study.steps.off.options.{override}"
    cfg = tiny(compose, tmp_path / "runs", "study", "think", change)
    with pytest.raises(ValueError, match=f"study.steps.off.*{re.escape(message)}"):
        run_study(cfg)
    assert not (tmp_path / "runs").exists()


def test_a_name_that_is_taken_is_refused(compose, tmp_path):
    from omegaconf import OmegaConf, open_dict

    cfg = tiny(compose, tmp_path / "runs", "study", "distilled")
    with open_dict(cfg):
        cfg = OmegaConf.merge(cfg, {"study": {"models": {"run": {"path": "x"}}}})
    with pytest.raises(ValueError, match=r"study.models.run: \{run\} is taken"):
        run_study(cfg)


def test_vllm_is_missed_before_the_first_step(compose, tmp_path, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    more = "study.defaults.evaluate.backend=vllm"
    with pytest.raises(ValueError, match="backend=vllm needs the package vllm"):
        run_study(tiny(compose, tmp_path / "runs", "study", "think", more))


def test_the_command_line_of_a_study(tmp_path):
    """Dry run: one command a line, nothing written; a mistake is one line."""
    words = [warm_python(), "-m", "launch", "study", "experiment=paper/think"]

    def start(*more):
        return subprocess.run(
            [*words, *more],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    dry = start("resources.dry_run=true", "resources.preflight=false", "study.heads=7")
    lines = dry.stdout.splitlines()
    assert len(lines) == 1 + 4 * 5
    assert lines[0].startswith("headlab think model=Qwen/Qwen3-8B")
    assert "tracking.top_n=5000" in lines[0]
    assert "heads/think-off-only.json:7" in lines[-1]
    assert "max_new_tokens=32768 backend=vllm" in lines[-1]
    assert not list(tmp_path.iterdir())
    wrong = start("debug=tiny", "study.steps.think.options.sise=3")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1].startswith("error: study.steps.think: unknown key 'sise'")
    assert not list(tmp_path.iterdir())
