"""Run a study: circuits and evaluations of models that are there already; nothing is trained.

    headlab study experiment=paper/distilled
    headlab study experiment=paper/think resources.dry_run=true      print its commands

A study is a configuration with a part `study`: further models, pair sets, and steps in order, each
a command of analysis (track, think, compare, evaluate) with its options, whose texts may hold

    {model}  {NAME}     the model of the group `model`, and of study.models.NAME
    {pairs}  {NAME}     the pairs file of the group `pairs`, and of study.pairs.NAME, made with the
                        tokenizer and chat template of the model that study.tokenizer names
    {NAME}              the run of study.needs.NAME, which must be there
    {run}  {runs}       the directory of this study, and the one that this lies in
    {task}  {step}      a task: the step is run for each of study.tasks; the step's own name

study.defaults.COMMAND are options of all steps of a command. Steps that measure circuits do it as
the group `tracking` says. All that can be wrong with the configuration is said before the first
step. Each step is printed as a command that can be run by itself. RUN/study.json lists the finished
ones; the same command, given again, goes on with the others, and with every evaluation, which
keeps its answers and says if its heads are others now. A step whose set of heads turns out empty
is left out, which is said.
"""

from __future__ import annotations

import gc
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.mistakes import as_line
from launch.steps import Step, fill, steps_of
from train.entry import start

if TYPE_CHECKING:
    from omegaconf import DictConfig


def models_of(cfg: DictConfig) -> dict[str, DictConfig]:
    """The models by their placeholders."""
    return {"model": cfg.model, **cfg.study.models}


def pairs_of(cfg: DictConfig) -> dict[str, DictConfig]:
    """The pair sets by their placeholders."""
    return {"pairs": cfg.pairs, **cfg.study.pairs}


def planned_places(cfg: DictConfig) -> dict[str, str]:
    """What placeholders stand for, as far as it can be known before a model is built.

    Raises:
        ValueError: a name is used twice.
    """
    run = Path(cfg.run_dir)
    places = {"run": str(run), "runs": str(run.parent)}
    parts = {
        "models": {n: m.path or f"recipe:{m.recipe}" for n, m in models_of(cfg).items()},
        "pairs": {name: str(run / f"{name}.jsonl") for name in pairs_of(cfg)},
        "needs": {n: fill(need.path, places) for n, need in cfg.study.needs.items()},
    }
    for part, named in parts.items():
        for name, place in named.items():
            if name in (*places, "task", "step"):
                raise ValueError(f"study.{part}.{name}: {{{name}}} is taken; use another name")
            places[name] = place
    return places


def check_study(cfg: DictConfig) -> tuple[list[Step], dict[str, str]]:
    """Everything that can be wrong with a study, before anything is built.

    Returns:
        Its steps, and what their placeholders stand for so far.

    Raises:
        ValueError: saying what is wrong and how to mend it.
    """
    from omegaconf import OmegaConf

    from analysis.records.run_file import is_run
    from train.config import check

    if cfg.study is None:
        raise ValueError("there is no study in this configuration; try experiment=paper/distilled")
    if cfg.resources.kind != "local":
        raise ValueError("a study runs in one process on this machine; leave out resources=slurm")
    check(OmegaConf.merge(cfg, {"resume": "auto"}))  # type: ignore[arg-type]
    steps, places = steps_of(cfg), planned_places(cfg)
    for step in steps:
        if unknown := sorted(step.used - set(places)):
            raise ValueError(
                f"study.steps.{step.name}: nothing is named {{{unknown[0]}}}; there are: "
                f"{', '.join(places)}, task, step"
            )
        options = step.parse(places)
        if cfg.resources.preflight:
            step.check(options)
    if cfg.study.tokenizer not in models_of(cfg):
        raise ValueError(
            f"study.tokenizer is {cfg.study.tokenizer!r}, which is no model of the study; choose "
            f"one of: {', '.join(models_of(cfg))}"
        )
    used = set().union(*(step.used for step in steps))
    _check_models(cfg, used)
    for name, need in cfg.study.needs.items():
        if name in used and not is_run(places[name]):
            raise ValueError(f"there is no run {places[name]} yet; first: {need.command}")
    return steps, places


def _check_models(cfg: DictConfig, used: set[str]) -> None:
    from analysis.live.keywords import one_of
    from train.config import RECIPES

    for name, model in models_of(cfg).items():
        key = "model" if name == "model" else f"study.models.{name}"
        if name not in used and name != cfg.study.tokenizer:
            continue
        if (model.path is None) == (model.recipe is None):
            raise ValueError(
                f"give exactly one of {key}.path ({model.path}) and {key}.recipe ({model.recipe})"
            )
        if model.recipe is not None:
            one_of(f"{key}.recipe", model.recipe, RECIPES)
        elif cfg.resources.preflight:
            from train.beforehand import check_model

            try:
                check_model(model.path, None, tracked=True)
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error


def build(cfg: DictConfig, used: set[str], places: dict[str, str]) -> None:
    """Make the models and pair sets that the steps use, and put their places into `places`.

    Raises:
        ValueError: a pairs file is there and holds other pairs, or the pairs can't be made.
    """
    from omegaconf import OmegaConf

    from analysis.files import atomic_write
    from analysis.models.loading import load_tokenizer
    from analysis.prompts.pairs import Pairs
    from train.build import build_pairs
    from train.config import escaped, plain
    from train.recipes.registry import build_recipe

    for name, model in models_of(cfg).items():
        if model.recipe is not None and name in used | {cfg.study.tokenizer}:
            places[name] = str(build_recipe(model.recipe, model.seed))
    for name, described in pairs_of(cfg).items():
        if name not in used:
            continue
        tokenizer = load_tokenizer(places[cfg.study.tokenizer])
        changed = OmegaConf.merge(cfg, {"pairs": escaped(plain(described))})
        pairs = build_pairs(changed, tokenizer)  # type: ignore[arg-type]
        file = Path(places[name])
        if file.exists() and Pairs.load(file).hash != pairs.hash:
            raise ValueError(
                f"{file} holds other pairs than this configuration makes; restore it, or start a "
                "study under another name"
            )
        with atomic_write(file) as draft:
            pairs.save(draft)
        print(f"{file}: {len(pairs)} pairs, hash {pairs.hash}", flush=True)


def run_steps(run: Path, steps: list[Step], places: dict[str, str]) -> None:
    """Run every step that is not finished, in order, and note each that is.

    An evaluation runs in any case: the same words may mean other heads by now, which it refuses.

    Raises:
        ValueError: naming the step that failed.
    """
    from analysis.files import read_json, write_json
    from analysis.interventions.head_sets import NoHeads

    log = run / "study.json"
    done = read_json(log, dict[str, dict[str, Any]]) if log.exists() else {}
    for number, step in enumerate(steps, start=1):
        line, counted = step.line(places), f"[{number}/{len(steps)}] {step.name}"
        finished = done.get(step.name, {}).get("command") == line
        if finished and step.command != "evaluate":
            print(f"{counted}: finished already", flush=True)
            continue
        print(f"\n{counted}: {line}", flush=True)
        started = time.monotonic()
        try:
            step.module.act(step.parse(places))
        except NoHeads as nothing:
            print(f"{counted}: left out, as {nothing}", flush=True)
            continue
        except Exception as error:
            if (reason := as_line(error)) is None:
                raise
            raise ValueError(f"step {step.name}: {reason}") from error
        done[step.name] = {"command": line, "seconds": round(time.monotonic() - started, 1)}
        write_json(log, done)
        _free()


def _free() -> None:
    """Give memory back to the device: the next step may start an engine of its own."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def run_study(cfg: DictConfig) -> None:
    """Check, build, run all steps.

    Raises:
        ValueError: saying what is wrong and how to mend it.
    """
    from analysis.records.locks import Lock
    from analysis.records.run_file import RunFile
    from analysis.records.secrets import redact
    from launch.__main__ import write
    from train.config import plain

    steps, places = check_study(cfg)
    run = Path(cfg.run_dir)
    if cfg.resources.dry_run:
        print("\n".join(step.line(places) for step in steps))
        return
    if cfg.resources.threads is not None:
        import torch

        torch.set_num_threads(cfg.resources.threads)
    with Lock.take(run / "locks" / "run", f"the study {run}"):
        write(run / "config.yaml", {**redact(plain(cfg)), "train": {"kind": "study"}})
        RunFile(cfg.name, "study").write(run)
        build(cfg, set().union(*(step.used for step in steps)), places)
        run_steps(run, steps, places)
    word = shlex.quote(f"runs={run}")
    print(f"\n{run} is finished; beside the paper: headlab paper {word}")


def action(cfg: DictConfig) -> None:
    """Run a study; a user's mistake is one line and status 2, a step that failed status 1."""
    try:
        run_study(cfg)
    except Exception as error:
        if (reason := as_line(error)) is None:
            raise
        print(f"error: {reason}", file=sys.stderr, flush=True)
        raise SystemExit(1 if reason.startswith("step ") else 2) from None


def main(arguments: list[str]) -> None:
    start("study", action, __doc__ or "", arguments)
