"""The schema of every configuration key: its name, its type and its default.

Groups live in conf/, where each key has a comment. A key that is not here is refused by Hydra. The
keys below the open maps (train.overrides.OPEN_MAPS: the arguments of TRL's and PEFT's own classes,
and the options of a generator) are checked by name against what they are handed to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from analysis.ranges import COUNT, NATURAL, PART, PORT, SEED, Range
from analysis.tracking.settings import TrackingConfig

RECIPES = (
    *("tiny_random", "tiny_base", "tiny_lookup", "tiny_moe", "tiny_hybrid", "tiny_neox"),
    *("smollm2", "qwen_coder"),
)


def number(default: float | None, allowed: Range) -> Any:
    """A key that takes the numbers of a range."""
    return field(default=default, metadata={"range": allowed})


@dataclass
class ModelConfig:
    path: str | None = None
    recipe: str | None = None
    seed: int = number(0, SEED)


@dataclass
class DataConfig:
    source: str = "arithmetic"
    options: dict[str, Any] = field(default_factory=dict)
    config: str | None = None
    split: str = "train"
    size: int | None = number(None, COUNT)
    seed: int = number(0, SEED)
    problem_column: str = "problem"
    answer_column: str = "answer"
    solution_column: str | None = "solution"
    messages_column: str | None = None
    answer_pattern: str | None = None
    held_out_every: int = number(5, Range(2))
    max_lost: float = number(0.1, Range(0, 1))
    system_prompt: str | None = None
    suffix: str = ""
    completion: str = "<think>{solution}</think><answer>{answer}</answer>"
    short_completion: str = "<answer>{answer}</answer>"
    worked_share: float = number(1.0, Range(0, 1))


@dataclass
class PairsConfig:
    kind: str = "counterfactual"
    source: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    size: int = number(16, COUNT)
    seed: int = number(1, SEED)
    prefix: str = ""
    cut_solution_after: str | None = None
    clean_start: str = ""
    corrupted_start: str = ""
    prefix_tokens: int = number(16, COUNT)
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
    task_size: int | None = number(None, COUNT)
    think: Any = None
    source: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    size: int = number(100, COUNT)
    seed: int = number(2, SEED)
    samples: int = number(1, COUNT)
    temperature: float = number(0.6, NATURAL)
    top_p: float = number(0.95, PART)
    max_new_tokens: int = number(256, COUNT)
    batch_size: int = number(128, COUNT)


@dataclass
class LoggerConfig:
    to: list[str] = field(default_factory=lambda: ["wandb"])
    wandb_mode: str = "auto"
    wandb_project: str = "headlab"
    workspace: bool | None = None
    max_head_curves: int = number(200, NATURAL)


@dataclass
class AlertsConfig:
    rules: list[str] = field(default_factory=list)
    webhook: str | None = None
    halt: bool = False


@dataclass
class ResourcesConfig:
    kind: str = "local"
    nodes: int = number(1, COUNT)
    # of each node, as are processes and cpus; threads are those of each process
    gpus: int | None = number(None, NATURAL)
    processes: int | None = number(None, COUNT)
    cpus: int | None = number(None, COUNT)
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    sbatch: list[str] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)
    threads: int | None = number(None, COUNT)
    port: int | None = number(None, PORT)
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
    heads: int = number(10, COUNT)
    defaults: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, StepConfig] = field(default_factory=dict)


@dataclass
class Config:
    name: str = "run"
    run_dir: str = "runs/${name}"
    seed: int = number(0, SEED)
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
    alerts: AlertsConfig = field(default_factory=AlertsConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    study: StudyConfig | None = None
