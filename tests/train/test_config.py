"""Every file in conf/ composes and builds its arguments; mistakes are named before any weight."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.places import ROOT
from tests.support.warm import warm_python
from train.overrides import CONF, expand_overrides

EXPERIMENTS = sorted(
    (path.parent.relative_to(CONF / "experiment").as_posix(), path.stem)
    for path in (CONF / "experiment").rglob("*.yaml")
    if path.stem in ("sft", "grpo")
)
OPTIONS = sorted(
    (path.parent.name, path.stem)
    for path in CONF.glob("*/*.yaml")
    if path.parent.name not in ("experiment", "train")
)
SFT = {"kind": "sft"}
FILL = {"data=file": "data.source=jsonl:x.jsonl", "pairs=file": "pairs.path=x.jsonl"}


def run_cli(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    root = str(ROOT)
    return subprocess.run(
        [warm_python(), "-m", *words],
        capture_output=True,
        text=True,
        cwd=cwd or root,
        env={**os.environ, "PYTHONPATH": root},
    )


def run_code(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize(("experiment", "kind"), EXPERIMENTS)
def test_every_experiment_builds_its_arguments(compose, experiment, kind, tmp_path):
    from train.build import peft_config, tracking_settings, training_args

    cfg = compose(kind, f"experiment={experiment}", "peft=lora", f"run_dir={tmp_path}")
    assert cfg.train.kind == kind
    args = training_args(cfg)
    assert args.learning_rate == cfg.train.args.learning_rate
    assert args.seed == 0
    assert peft_config(cfg).r == 16
    tracking_settings(cfg)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_every_option_of_every_group_composes(compose, group, option, kind):
    from train.config import plain

    choice = f"{group}={option}"
    cfg = compose(kind, choice, *([FILL[choice]] if choice in FILL else []))
    assert plain(cfg)["train"]["kind"] == kind


def test_paper_values(compose):
    sft = compose("sft", "experiment=paper/openr1").train.args
    assert (sft.learning_rate, sft.num_train_epochs, sft.warmup_steps) == (4e-5, 5, 0.03)
    for name, end in (("openr1", "<|im_end|>"), ("openr1_7b", "<|im_end|>"), ("llama32", None)):
        args = compose("sft", f"experiment=paper/{name}").train.args
        assert (args.eos_token, args.max_length) == (end, 4096)
    grpo = compose("grpo", "experiment=paper/openr1")
    assert (grpo.train.args.learning_rate, grpo.train.args.num_generations) == (1e-6, 16)
    assert (grpo.train.args.num_train_epochs, grpo.train.args.warmup_steps) == (3, 0.1)
    assert (grpo.tracking.top_n, grpo.tracking.ig_steps) == (5000, 100)
    assert compose("grpo", "experiment=paper/gsm8k").train.args.learning_rate == 5e-6
    assert compose("grpo", "experiment=paper/openr1_lr2e-5").train.args.learning_rate == 2e-5
    llama = compose("grpo", "experiment=paper/llama32")
    assert (llama.train.args.learning_rate, llama.model.path) == (
        2e-7,
        "meta-llama/Llama-3.2-1B-Instruct",
    )


def test_debug_has_the_last_word(compose):
    cfg = compose("grpo", "experiment=paper/openr1", "debug=fast")
    assert (cfg.train.args.max_steps, cfg.pairs.size, cfg.name) == (2, 4, "paper-openr1-grpo-seed0")


def test_every_key_has_a_comment_with_its_command():
    for path in CONF.glob("*/*.yaml"):
        text = path.read_text()
        name = f"{path.parent.name}={path.stem}"
        assert text.startswith("# "), path
        assert name in text, f"{path} does not show the command {name}"
    for path in (CONF / "experiment").rglob("*.yaml"):
        if path.stem in ("sft", "grpo"):
            assert f"# to execute: headlab {path.stem} " in path.read_text(), path


def test_shorthands():
    assert expand_overrides(["experiment=tiny"], "grpo") == ["train=grpo", "experiment=tiny/grpo"]
    assert expand_overrides(["experiment=tiny,smollm2"], "sft")[1] == (
        "experiment=tiny/sft,smollm2/sft"
    )
    assert expand_overrides(["train=grpo", "experiment=tiny"], None)[1] == "experiment=tiny/grpo"
    assert expand_overrides(["train.args.beta=0.1"], "grpo")[1] == "++train.args.beta=0.1"
    assert expand_overrides(["+train.args.x=1", "seed=3"], "sft")[1:] == [
        "+train.args.x=1",
        "seed=3",
    ]


@pytest.mark.parametrize(
    "module", ["train.sft", "train.grpo", "launch", "launch.demo", "analysis.reporting.report"]
)
def test_help_is_instant_and_imports_nothing_heavy(module):
    code = (
        f"import runpy, sys; sys.argv = ['{module}', '--help']\n"
        "try: runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=False)\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'trl', 'datasets', 'plotly', 'wandb', 'hydra'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = run_code(code)
    assert done.returncode == 0, done.stderr
    if module.startswith("train"):
        assert "  tracking=    faithful, fraction, none, paper\n" in done.stdout
        words = " ".join(done.stdout.split())
        assert re.search(r"experiment= .*paper/gsm8k \(grpo\), .*tiny \(grpo, sft\)", words)
        assert "  debug=       fast, tiny\n" in done.stdout


MISTAKES = [
    (["train.args.learning_rat=1"], "is not an argument of SFTConfig; did you mean learning_rate?"),
    (["model=hub", "model.path=no/such-model"], "model.path 'no/such-model' is neither"),
    (["model=hub"], "give exactly one of model.path"),
    (["data=file", "data.source=jsonl:none.jsonl"], "there is no file 'none.jsonl'"),
    (["data.source=reasoning_gym:nosuch"], "reasoning_gym has no task 'nosuch'"),
    (["data.source=algebra"], "unknown source of problems 'algebra'"),
    (["data.options.terms=0"], "options.terms must be a whole number of at least 1, not 0"),
    (["data.options.digits=1.5"], "options.digits must be a whole number of at least 1, not 1.5"),
    (["train.args.optim=adamw_bnb_8bit"], "train.args.optim=adamw_bnb_8bit with train.args.lr_sch"),
    (["train.args.lr_scheduler_type=cosine_with_min_lr"], "One of min_lr or min_lr_rate should be"),
    (["train.args.save_strategy=best"], "train.args.save_strategy=best can't be served: a run is"),
    (["data.options.term=3"], "arithmetic has no option"),
    (["tracking.method=EAP"], "EAP with kl scores every edge 0"),
    (["tracking.top_n=10"], "exactly one size of the circuit"),
    (["tracking.fdr=1"], "tracking.fdr must lie in (0, 1), not 1.0"),
    (["tracking.hysteresis=0"], "tracking.hysteresis must be at least 1, not 0"),
    (["tracking.where=here"], "tracking.where is 'here'; choose one of: inline, checkpoint"),
    (["tracking.budget=2"], "tracking.budget must lie in (0, 1), not 2.0"),
    (["resume=yes"], "resume is 'yes'; choose one of: never, auto"),
    (["peft=lora", "peft.args.rank=4"], "peft.args.rank is not an argument of LoraConfig"),
    (["pairs=file", "pairs.path=none.jsonl"], "pairs.path is 'none.jsonl', which is not a file"),
    (["data=gsm8k"], "hub:openai/gsm8k"),
]


@pytest.mark.parametrize(("overrides", "message"), MISTAKES, ids=lambda value: str(value)[:40])
def test_mistakes_are_named_before_any_weight_is_loaded(compose, tmp_path, overrides, message):
    from train.run import prepare

    cfg = compose("sft", "experiment=tiny", f"run_dir={tmp_path}/run", *overrides)
    with pytest.raises(ValueError, match=re.escape(message)):
        prepare(cfg)
    assert not (tmp_path / "run").exists()


def test_unknown_reward_is_named(compose, tmp_path):
    from train.run import prepare

    cfg = compose("grpo", "experiment=tiny", f"run_dir={tmp_path}", "train.rewards=[acuracy]")
    with pytest.raises(ValueError, match="choose from: accuracy, format, tag_count"):
        prepare(cfg)


def test_a_missing_column_is_one_line(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"asked": "1+1?", "answer": "2"}\n')
    done = run_cli("train.grpo", "data=file", "data.source=jsonl:rows.jsonl", cwd=tmp_path)
    assert done.returncode == 2
    expected = (
        "rows.jsonl, line 1: no column 'problem' (data.problem_column); it has: asked, answer"
    )
    assert expected in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_used_run_directory_is_refused(compose, tmp_path):
    from train.config import check

    (tmp_path / "config.yaml").write_text("name: x\n")
    with pytest.raises(ValueError, match="already holds a run; continue it with resume=auto"):
        check(compose("sft", "experiment=tiny", f"run_dir={tmp_path}"))


def test_resuming_with_other_settings_is_refused():
    from train.resuming import check_same_run

    with pytest.raises(ValueError, match=r"seed \(0 -> 1\)"):
        check_same_run({"seed": 0, "train": SFT}, {"seed": 1, "train": SFT})
    with pytest.raises(ValueError, match=r"train.kind \(sft -> grpo\)"):
        check_same_run({"seed": 0, "train": SFT}, {"seed": 0, "train": {"kind": "grpo"}})
    for name, value in (("logging_steps", 1), ("save_steps", 2), ("eval_strategy", "no")):
        now = {"seed": 0, "train": {**SFT, "args": {name: value}}}
        check_same_run({"seed": 0, "train": SFT}, now)
    with pytest.raises(ValueError, match=r"train.args.learning_rate \(None -> 1\)\. Restore"):
        now = {"seed": 0, "train": {**SFT, "args": {"learning_rate": 1}}}
        check_same_run({"seed": 0, "train": SFT}, now)


def test_conf_shows_the_command_of_every_tracking_key():
    from analysis.tracking.settings import TrackingConfig

    text = (CONF / "tracking" / "fraction.yaml").read_text()
    shown = re.findall(r"tracking\.(\w+)=", text)
    assert set(shown) == {f.name for f in dataclasses.fields(TrackingConfig)}


@pytest.mark.parametrize("path", sorted(CONF.glob("tracking/*.yaml")), ids=lambda path: path.stem)
def test_conf_holds_only_what_differs_from_the_declared_defaults(path):
    from analysis.tracking.settings import TrackingConfig

    defaults = {f.name: f.default for f in dataclasses.fields(TrackingConfig)}
    for name, value in (yaml.safe_load(path.read_text()) or {}).items():
        assert value != defaults[name], name


def test_a_declaration_of_tracking_imports_no_torch():
    """It is read for the help of commands and for the schema of a configuration."""
    done = run_code(
        "import sys\n"
        "from train.config import Config, OmegaConf\n"
        "OmegaConf.structured(Config)\n"
        "assert 'torch' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


def test_what_may_change_on_resuming_shapes_no_record():
    from analysis.tracking.settings import TrackingConfig, TrackingSettings, free_keys
    from train.resuming import check_same_run

    assert free_keys(TrackingConfig) == {
        *("batch_size", "check_dtype", "patterns", "fdr", "hysteresis", "base_pairs", "needed"),
        *("where", "schedule", "budget", "on_error", "recompute"),
    }
    keys = {f.name for f in dataclasses.fields(TrackingConfig)}
    of_record = TrackingSettings(routing="frozen").of_record()  # the default is not said there
    assert keys - free_keys(TrackingConfig) == {"enabled", *of_record}
    for name in keys:
        runs = [{"train": SFT, "tracking": {name: value}} for value in (1, 2)]
        if name in free_keys(TrackingConfig):
            check_same_run(*runs)
        else:
            with pytest.raises(ValueError, match="started with other settings: tracking"):
                check_same_run(*runs)


@pytest.mark.parametrize(
    ("preset", "wanted"),
    [
        ("fraction", {"fraction": "auto", "top_n": None, "faithful": None, "tau": None}),
        ("paper", {"top_n": 5000, "tau": 0.1, "metric": "logit_diff", "kv": "ungrouped"}),
        ("faithful", {"faithful": 0.8, "fraction": None}),
    ],
)
def test_presets_of_the_circuit(compose, preset, wanted):
    from train.build import tracking_settings

    settings = dataclasses.asdict(tracking_settings(compose("sft", f"tracking={preset}")))
    assert {name: settings[name] for name in wanted} == wanted


def test_attribution_core_needs_torch_and_transformers_alone():
    code = (
        "import sys\n"
        "for name in ('trl', 'peft', 'deepspeed', 'wandb', 'datasets', 'hydra', 'accelerate'):\n"
        "    sys.modules[name] = None\n"
        "from analysis import attribute, select_circuit\n"
        "from analysis.detection.detect import anatomy"
    )
    done = run_code(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("key", ["name", "run_dir"])
@pytest.mark.parametrize("text", ["", " "])
def test_a_run_has_a_name_and_a_directory(compose, key, text):
    from train.config import check

    with pytest.raises(ValueError, match=f"{key} is empty; give the run a {key}"):
        check(compose("sft", f"{key}='{text}'"))
