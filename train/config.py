"""The checks of a configuration that need no library and no weights.

Its schema is train/schema.py.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from analysis.cli import expand_home, literal
from analysis.live.keywords import check_tracking, one_of
from analysis.mistakes import one_line
from analysis.prompts.chat import on_off
from analysis.ranges import check_values
from analysis.records.secrets import secrets_in
from analysis.reporting.mirror import NAMES, is_installed
from analysis.tracking.settings import TrackingConfig
from train.alarm import alarm_of
from train.resuming import is_begun
from train.saved import read_settings
from train.schema import RECIPES, Config, ModelConfig, PairsConfig, StudyConfig


@cache
def register() -> None:
    """Make the schema known to Hydra under the name that conf/config.yaml asks for."""
    ConfigStore.instance().store(name="schema", node=Config)


def check_schema(cfg: DictConfig) -> None:
    """That a composed configuration has no other keys (`+sede=1`) and that its references resolve.

    Raises:
        OmegaConfBaseException: as OmegaConf says it.
    """
    plain(cfg)
    values = OmegaConf.to_container(cfg)  # only the names: cfg itself would be taken as it is
    OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(values))


def check_one_line(key: str, text: str | None) -> None:
    """Raise ValueError if a text that names files or comes into a script isn't one line of text."""
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in text or ""):
        raise ValueError(
            f"{key} is {text!r}; it comes into names of files and into scripts, and may hold no "
            "line break and no other control character"
        )


def check_resources(resources: DictConfig) -> None:
    """That the numbers of nodes, GPUs and processes go together.

    Raises:
        ValueError: with the key, the offending value, and the mend.
    """
    r = resources
    one_of("resources.kind", r.kind, ("local", "slurm"))
    for key in ("time", "partition", "account"):
        check_one_line(f"resources.{key}", r[key])
    for word in r.sbatch:
        check_one_line("resources.sbatch", word)
    if r.kind == "local" and r.nodes > 1:
        raise ValueError(
            f"resources.nodes is {r.nodes}, and resources=local is one machine; for several: "
            "resources=slurm"
        )
    if r.kind == "slurm" and r.gpus is None:
        raise ValueError("resources=slurm needs resources.gpus, the GPUs of each node (0: CPU)")
    if r.gpus and r.processes is not None and r.gpus != r.processes:
        raise ValueError(
            f"resources.gpus is {r.gpus} and resources.processes {r.processes}, and each process "
            "uses one GPU; leave resources.processes out"
        )


def tracking_config(cfg: DictConfig) -> TrackingConfig:
    """The keys of `tracking`, checked as far as analysis/tracking/settings.py does."""
    tracking = OmegaConf.to_object(cfg.tracking)
    assert isinstance(tracking, TrackingConfig)
    return tracking


def check_numbers(values: dict[str, Any]) -> None:
    """That every number of a configuration is finite and in its range (train/schema.py).

    Raises:
        ValueError: naming the key.
    """
    check_values(Config, values)
    if (study := values["study"]) is None:
        return
    check_values(StudyConfig, study, "study.")
    for part, schema in (("models", ModelConfig), ("pairs", PairsConfig)):
        for name, described in study[part].items():
            check_values(schema, described, f"study.{part}.{name}.")


def check(cfg: DictConfig) -> None:
    """The checks that need no heavy import.

    Raises:
        ValueError: with the key, the offending value, and the mend.
    """
    check_numbers(plain(cfg))
    for key in ("name", "run_dir"):
        check_one_line(key, cfg[key])
        if not cfg[key].strip():  # runs/ itself would become the run's directory
            raise ValueError(f"{key} is empty; give the run a {key}, such as {key}=my-run")
    # words that choose among a few
    one_of("train.kind", cfg.train.kind, ("sft", "grpo"))
    one_of("resume", cfg.resume, ("never", "auto"))
    one_of("pairs.kind", cfg.pairs.kind, ("counterfactual", "answer_style", "file"))
    one_of("peft.method", cfg.peft.method, ("none", "lora"))
    check_tracking(tracking_config(cfg))
    if secrets := secrets_in(plain(cfg)):
        raise ValueError(
            f"{', '.join(secrets)} would write a secret into the run's files; leave it out and "
            "set it in the environment (HF_TOKEN, WANDB_API_KEY)"
        )
    for name in cfg.logger.to:
        one_of("logger.to", name, NAMES)
        if not is_installed(name):
            extra = f"pip install 'headlab[{name}]'"
            raise ValueError(f"logger.to: {name} is not installed; {extra}")
    if cfg.logger.workspace and not is_installed("wandb_workspaces"):
        raise ValueError("logger.workspace: install it with pip install 'headlab[views]'")
    alarm_of(cfg, Path(cfg.run_dir))
    one_of("logger.wandb_mode", cfg.logger.wandb_mode, ("auto", "online", "offline", "disabled"))
    # a model, from one place
    if (cfg.model.path is None) == (cfg.model.recipe is None):
        raise ValueError(
            f"give exactly one of model.path ({cfg.model.path}) and model.recipe "
            f"({cfg.model.recipe}); for a model of yours: model=hub model.path=DIR_OR_HUB_NAME"
        )
    if cfg.model.recipe is not None:
        one_of("model.recipe", cfg.model.recipe, RECIPES)
    # numbers in their ranges, files that are there
    on_off("evaluation.think", cfg.evaluation.think)
    check_resources(cfg.resources)
    if cfg.pairs.kind == "file" and not Path(cfg.pairs.path or "").is_file():
        raise ValueError(
            f"pairs.path is {cfg.pairs.path!r}, which is not a file; name a JSONL file"
        )
    # a directory that is free, unless the run is to go on
    run = Path(cfg.run_dir)
    if cfg.resume == "never" and is_begun(run):
        raise ValueError(
            f"{run} already holds a run; continue it with resume=auto, "
            f"start another with name=..., or remove the directory"
        )


def load_resolved(path: str | Path) -> DictConfig:
    """A configuration that was composed and written before, checked against the schema.

    Nothing in it is a reference any more: `${` is text.

    Raises:
        ValueError: the file is not such a configuration.
    """
    values = read_settings(Path(path), _parsed)
    try:
        cfg = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(values))
        assert isinstance(cfg, DictConfig)
        plain(cfg)
    except (OmegaConfBaseException, ValueError) as error:
        key = getattr(error, "full_key", None)
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path}: {key}: {said}" if key and key not in said else f"{path}: {said}"
        ) from None
    return cfg


def _parsed(text: str) -> Any:
    """The values of YAML or JSON, with its `${` as text, escaped for OmegaConf."""
    hidden = literal(text, hide=True)
    return escaped(literal(OmegaConf.to_container(OmegaConf.create(hidden))))


def escaped(value: Any) -> Any:
    """A value as OmegaConf takes it for itself: with its `${` escaped."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    if isinstance(value, list):
        return [escaped(inner) for inner in value]
    if isinstance(value, dict):
        return {name: escaped(inner) for name, inner in value.items()}
    return value


# the keys that may name a file or a directory of this machine
PLACES = ("run_dir", "model.path", "data.source", "evaluation.source", "pairs.source", "pairs.path")
LISTS_OF_PLACES = ("evaluation.tasks", "study.tasks")


def settle(cfg: DictConfig) -> None:
    """Write out what a composed configuration says of this machine: ~, and a file of DeepSpeed's.

    The one place for it: whatever comes later sees whole paths, and DeepSpeed's settings in
    deepspeed.config, where they are kept with the run.

    Raises:
        ValueError: train.args.deepspeed names no such file, or deepspeed is chosen as well.
    """
    places = [*PLACES, *LISTS_OF_PLACES]
    for part, keys in {
        "models": ("path",),
        "pairs": ("source", "path"),
        "needs": ("path",),
    }.items():
        names = (OmegaConf.select(cfg, f"study.{part}") or {}) if cfg.get("study") else {}
        places += [f"study.{part}.{name}.{key}" for name in names for key in keys]
    for key in places:
        found = OmegaConf.select(cfg, key)
        value = list(found) if isinstance(found, ListConfig) else found
        if value is not None and (whole := expand_home(value)) != value:
            OmegaConf.update(cfg, key, escaped(whole))
    file = cfg.train.args.get("deepspeed")
    if not isinstance(file, str):
        return
    if cfg.deepspeed.config is not None:
        raise ValueError(f"train.args.deepspeed={file} and deepspeed=... are given; leave out one")
    try:
        content = _parsed(Path(expand_home(file)).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"train.args.deepspeed={file} can't be read: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"train.args.deepspeed={file} holds no settings of DeepSpeed")
    with open_dict(cfg):
        del cfg.train.args["deepspeed"]
        cfg.deepspeed.config = content


def plain(cfg: DictConfig) -> dict[str, Any]:
    """A configuration, or a part of it, as plain Python values, interpolations resolved."""
    values = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}
