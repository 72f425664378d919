"""The schema of every configuration key: its name, its type and its default.

Groups live in conf/, where each key has a comment. A key that is not here is refused by Hydra. The
keys below the open maps (train.overrides.OPEN_MAPS: the arguments of TRL's and PEFT's own classes,
and the options of a generator) are checked by name against what they are handed to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from analysis.tracking.settings import TrackingConfig


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
