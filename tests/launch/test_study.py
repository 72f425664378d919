"""A study: steps that are left out, mistakes in it, its command line."""

from __future__ import annotations

import json
import os
import re
import subprocess

import pytest

from launch.study import run_study
from tests.support.paper import tiny
from tests.support.places import ROOT
from tests.support.warm import warm_python


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
