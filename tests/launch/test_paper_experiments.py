"""Toy runs of each of the paper's experiments."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from analysis.reporting import paper
from launch.study import run_study
from tests.support.paper import EXPERIMENTS, tiny

TRAINED = [(name, kind) for name, kind in EXPERIMENTS if kind != "study"]
SFT, GRPO = ("openr1", "sft"), ("gsm8k", "grpo")  # whose heads the scaling study takes


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


VARIANTS = [pair for pair in TRAINED if pair not in (SFT, GRPO)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(*pair, marks=[pytest.mark.slow] if pair in VARIANTS else [])
        for pair in sorted(TRAINED)
    ],
)
def test_training_runs_end_to_end(compose, toy, name, kind):
    from analysis.records.record_files import read_records
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


@pytest.mark.distributed
def test_distilled(compose, toy, capsys):
    """The whole study; the same command again does nothing."""
    from analysis.records.record_files import read_records

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


@pytest.mark.distributed
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


@pytest.mark.distributed
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


@pytest.mark.distributed
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
    from analysis.records.record_files import read_records

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
