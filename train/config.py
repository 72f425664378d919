"""The schema of every configuration key, and the checks that need no library and no weights.

Groups live in conf/. A key that is not in the schema is refused by Hydra; the keys below the open
maps (train.overrides.OPEN_MAPS: the arguments of TRL's and PEFT's own classes, and the options of a
generator) are checked by name against what they are handed to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from analysis.prompts.chat import on_off
from analysis.records.secrets import secrets_in
from analysis.tracking.settings import TrackingConfig, free_keys
from train.schedule import Schedule

RECIPES = ("tiny_random", "tiny_base", "smollm2", "qwen_coder")
WHERE = ("inline", "checkpoint", "sidecar")


@dataclass
class ModelConfig:
    path: str | None = None
    recipe: str | None = None
    seed: int = 0


@dataclass
class DataConfig:
    source: str = "arithmetic"
    options: dict[str, Any] = field(default_factory=dict)
    config: str | None = None
    split: str = "train"
    size: int | None = None
    seed: int = 0
    problem_column: str = "problem"
    answer_column: str = "answer"
    solution_column: str | None = "solution"
    messages_column: str | None = None
    answer_pattern: str | None = None
    system_prompt: str | None = None
    suffix: str = ""
    completion: str = "<think>{solution}</think><answer>{answer}</answer>"
    short_completion: str = "<answer>{answer}</answer>"
    worked_share: float = 1.0


@dataclass
class PairsConfig:
    kind: str = "counterfactual"
    source: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    size: int = 16
    seed: int = 1
    prefix: str = ""
    cut_solution_after: str | None = None
    clean_start: str = ""
    corrupted_start: str = ""
    prefix_tokens: int = 16
    path: str | None = None


@dataclass
class TrainConfig:
    kind: str = "sft"
    rewards: list[str] = field(default_factory=list)
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class PeftConfig:
    method: str = "none"
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class DeepspeedConfig:
    config: dict[str, Any] | None = None


@dataclass
class EvaluationConfig:
    enabled: bool = True
    held_out: bool = True
    tasks: list[str] = field(default_factory=list)
    task_size: int | None = None
    think: Any = None
    source: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    size: int = 100
    seed: int = 2
    samples: int = 1
    temperature: float = 0.6
    top_p: float = 0.95
    max_new_tokens: int = 256
    batch_size: int = 128


@dataclass
class LoggerConfig:
    wandb_mode: str = "auto"
    wandb_project: str = "headlab"
    max_head_curves: int = 200


@dataclass
class ResourcesConfig:
    kind: str = "local"
    nodes: int = 1
    gpus: int | None = None  # of each node, as are processes, cpus and threads of each process
    processes: int | None = None
    cpus: int | None = None
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    sbatch: list[str] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)
    threads: int | None = None
    port: int | None = None
    preflight: bool = True
    dry_run: bool = False


@dataclass
class NeedConfig:
    """A run that a study reads, and the command that makes it."""

    path: str = MISSING
    command: str = MISSING


@dataclass
class StepConfig:
    """One command of analysis. An option's text may hold {placeholders} (launch/study.py)."""

    command: str = MISSING
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class StudyConfig:
    """What `headlab study` runs; a training run has none."""

    models: dict[str, ModelConfig] = field(default_factory=dict)
    pairs: dict[str, PairsConfig] = field(default_factory=dict)
    needs: dict[str, NeedConfig] = field(default_factory=dict)
    tokenizer: str = "model"
    tasks: list[str] = field(default_factory=list)
    heads: int = 10
    defaults: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, StepConfig] = field(default_factory=dict)


@dataclass
class Config:
    name: str = "run"
    run_dir: str = "runs/${name}"
    seed: int = 0
    resume: str = "never"
    debug: str | None = None
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    peft: PeftConfig = field(default_factory=PeftConfig)
    deepspeed: DeepspeedConfig = field(default_factory=DeepspeedConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    study: StudyConfig | None = None


def register() -> None:
    """Make the schema known to Hydra under the name that conf/config.yaml asks for."""
    ConfigStore.instance().store(name="schema", node=Config)


def check_schema(cfg: DictConfig) -> None:
    """That a composed configuration has no other keys (`+sede=1`) and that its references resolve.

    Raises:
        OmegaConfBaseException: as OmegaConf says it.
    """
    plain(cfg)
    values = OmegaConf.to_container(cfg)  # the names alone: cfg itself would be taken as it is
    OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(values))


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError, naming the key and the choices, unless the value is one of them."""
    if value not in allowed:
        raise ValueError(f"{key} is {value!r}; choose one of: {', '.join(allowed)}")


def check_resources(resources: DictConfig) -> None:
    """That the numbers of nodes, GPUs and processes go together.

    Raises:
        ValueError: with the key, the offending value, and the mend.
    """
    r = resources
    one_of("resources.kind", r.kind, ("local", "slurm"))
    lowest = {"nodes": 1, "gpus": 0, "processes": 1, "cpus": 1, "threads": 1, "port": 1}
    for key, low in lowest.items():
        if r[key] is not None and r[key] < low:
            raise ValueError(f"resources.{key} must be at least {low}, not {r[key]}")
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


def check_tracking(tracking: TrackingConfig) -> None:
    """When and where a trainer tracks.

    Raises:
        ValueError: with the key, the offending value, and the mend.
    """
    one_of("tracking.on_error", tracking.on_error, ("raise", "warn"))
    one_of("tracking.where", tracking.where, WHERE)
    Schedule.parse(tracking.schedule)
    budget = tracking.budget
    if budget is not None and not 0 < budget < 1:
        raise ValueError(f"tracking.budget is a share of time in (0, 1), not {budget}")
    if budget is not None and tracking.where == "sidecar":
        raise ValueError(
            "tracking.budget is for tracking in the trainer; a sidecar takes none of its time"
        )


def check(cfg: DictConfig) -> None:
    """The checks that need no heavy import.

    Raises:
        ValueError: with the key, the offending value, and the mend.
    """
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
    one_of("logger.wandb_mode", cfg.logger.wandb_mode, ("auto", "online", "offline", "disabled"))
    if (cfg.model.path is None) == (cfg.model.recipe is None):
        raise ValueError(
            f"give exactly one of model.path ({cfg.model.path}) and model.recipe "
            f"({cfg.model.recipe}); for a model of yours: model=hub model.path=DIR_OR_HUB_NAME"
        )
    if cfg.model.recipe is not None:
        one_of("model.recipe", cfg.model.recipe, RECIPES)
    on_off("evaluation.think", cfg.evaluation.think)
    if cfg.logger.max_head_curves < 0:
        raise ValueError(
            f"logger.max_head_curves must be 0 or more, not {cfg.logger.max_head_curves}"
        )
    check_resources(cfg.resources)
    if not 0 <= cfg.data.worked_share <= 1:
        raise ValueError(f"data.worked_share must lie in [0, 1], not {cfg.data.worked_share}")
    if cfg.pairs.kind == "file" and not Path(cfg.pairs.path or "").is_file():
        raise ValueError(
            f"pairs.path is {cfg.pairs.path!r}, which is not a file; name a JSONL file"
        )
    run = Path(cfg.run_dir)
    if cfg.resume == "never" and any((run / name).exists() for name in ("config.yaml", "run.json")):
        raise ValueError(
            f"{run} already holds a run; continue it with resume=auto, "
            f"start another with name=..., or remove the directory"
        )


def load_resolved(path: Path) -> DictConfig:
    """A configuration that was composed and written before, checked against the schema."""
    cfg = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path))
    assert isinstance(cfg, DictConfig)
    return cfg


def plain(cfg: DictConfig) -> dict[str, Any]:
    """A configuration, or a part of it, as plain Python values, interpolations resolved."""
    values = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


_MAY_CHANGE = ("resume", "run_dir", "logger", "resources", "debug", "train")


def _what_counts(config: dict[str, Any]) -> dict[str, Any]:
    """A run's configuration without the parts of tracking that change no record."""
    tracking = config.get("tracking") or {}
    free = free_keys(TrackingConfig)
    kept = {key: value for key, value in tracking.items() if key not in free}
    return {**config, "tracking": kept}


def check_same_run(saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to resume a run whose trainer, model, data, pairs, tracking or seed has changed.

    Raises:
        ValueError: naming every key that differs, with both values.
    """
    saved, now = _what_counts(saved), _what_counts(now)
    changed = [
        f"{key} ({saved.get(key)} -> {now.get(key)})"
        for key in sorted(set(saved) | set(now))
        if key not in _MAY_CHANGE and saved.get(key) != now.get(key)
    ]
    if (before := saved["train"]["kind"]) != (after := now["train"]["kind"]):
        changed.append(f"train.kind ({before} -> {after})")
    if changed:
        raise ValueError(
            f"the run was started with other settings: {'; '.join(changed)}. Restore them, or "
            "start a run under another name"
        )
