"""The runs that `launch.bench.command` times: their models, files and processes.

A side is `bare` (launch/bench/bare_trl.py), that script with the one `line` of HeadTracking, or
headlab with tracking `off`, `inline` or in a `sidecar`. All train the same model on the same rows
with the same arguments of TRL.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.cli import key
from analysis.files import to_json
from analysis.ranges import COUNT
from train.program import program

if TYPE_CHECKING:
    from omegaconf import DictConfig

SIDES = ("bare", "line", "off", "inline", "sidecar")
KINDS = ("sft", "grpo")
LOGGERS = ("none", "wandb")


@dataclass
class Options:
    kind: str = key("sft, grpo or both", "both")
    shape: str | None = key(
        "tiny, shapes of `headlab bench` (random weights) or model directories, with commas; "
        "null: tiny on a CPU, qwen2.5-0.5b,qwen2.5-1.5b on a GPU",
        None,
    )
    sides: str = key("which of bare, line, off, inline, sidecar", ",".join(SIDES))
    repeats: int = key("turns; in each, every side has a process of its own", 3, COUNT)
    steps: int = key("optimizer steps of each run", 24, COUNT)
    save_steps: int = key("steps from one save, tracked or not, to the next", 8, COUNT)
    batch: int = key("rows of a step; for GRPO, completions of one prompt", 8, COUNT)
    tokens: int = key("tokens of a row of SFT, and of a completion of GRPO at most", 64, COUNT)
    pairs: int = key("prompt pairs of tracking", 16, COUNT)
    threads: int = key("threads of torch in each process", 1, COUNT)
    sidecar_device: str = key(
        "where the sidecar computes: cpu, cuda:1, ...; none: on no processor of this machine", "cpu"
    )
    logger: str = key("none, or wandb (offline) on all sides", "none")
    attribution_pairs: int = key("on a GPU: pairs of the timed attribution", 64, COUNT)


def build_model(shape: str, directory: Path) -> Path:
    """A directory with a model: the shape's, if it is one, else random weights written into it.

    Random weights come with the tiny model's tokenizer.

    Raises:
        ValueError: there is no such shape.
    """
    from transformers.utils.logging import disable_progress_bar

    from analysis.commands import bench
    from train.recipes.tiny import build_random, build_tokenizer

    disable_progress_bar()
    if Path(shape).is_dir():
        return Path(shape).resolve()
    if shape == "tiny":
        build_random(directory, seed=0)
        return directory
    model = bench.build(bench.Options(shape=shape))
    tokenizer = build_tokenizer()
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.config.update({**ids, "bos_token_id": None})
    model.generation_config.update(**ids, bos_token_id=None)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def overrides(options: Options, kind: str, side: str, model: Path, run: Path) -> list[str]:
    """What a user would type for a run; rows of sums that fill `tokens` tokens."""
    args = {
        "max_steps": options.steps,
        "save_steps": options.save_steps,
        "logging_steps": 1,
        "per_device_train_batch_size": options.batch,
        "activation_checkpointing": "false",
    }
    if kind == "sft":
        args["max_length"] = options.tokens
    else:
        args |= {"num_generations": options.batch, "max_completion_length": options.tokens}
    if gpu_name():
        args["model_init_kwargs"] = "{dtype:bfloat16}"
    tracking = ["tracking=none"]
    if side in ("line", "inline", "sidecar"):
        where = "sidecar" if side == "sidecar" else "inline"
        tracking = [f"tracking.where={where}", "tracking.on_error=raise"]
    return [
        *("model=hub", f"model.path={model}", f"run_dir={run}", "evaluation=none", *tracking),
        *("data=arithmetic", f"data.options.digits={options.tokens // 9 + 1}"),
        "data.max_lost=1",  # they are cut to fill just these
        *(f"data.size={options.batch * options.steps}", f"pairs.size={options.pairs}"),
        *(f"logger={options.logger}", f"resources.threads={options.threads}"),
        *(["logger.wandb_mode=offline"] if options.logger == "wandb" else []),
        *(f"train.args.{name}={value}" for name, value in args.items()),
    ]


def bare_specification(cfg: DictConfig, rows: Path) -> dict[str, Any]:
    """What launch/bench/bare_trl.py takes, of the same run; writes its rows."""
    from train.config import plain
    from train.data import grpo_dataset, sft_dataset

    dataset = (sft_dataset if cfg.train.kind == "sft" else grpo_dataset)(cfg.data)
    rows.write_text("".join(to_json(row) + "\n" for row in dataset), encoding="utf-8")
    on_cpu = {} if gpu_name() else {"use_cpu": True, "bf16": False}
    own = {"output_dir": str(cfg.run_dir), "run_name": cfg.name, "seed": cfg.seed}
    if cfg.logger.wandb_mode != "disabled":
        own["report_to"] = ["wandb"]
    return {
        "kind": cfg.train.kind,
        "model": cfg.model.path,
        "rows": str(rows),
        "args": {**on_cpu, **own, **plain(cfg.train.args)},
        "rewards": list(cfg.train.rewards),
    }


def line_specification(cfg: DictConfig, pairs: Path) -> dict[str, Any]:
    """What the line of the bare script is told, to track as headlab would; writes its pairs."""
    import io
    from contextlib import redirect_stdout
    from dataclasses import asdict

    from train.plan import assemble, prepare

    plan = prepare(cfg)
    with redirect_stdout(io.StringIO()):  # what a run says of its data
        made = assemble(plan).pairs
    assert made is not None and plan.tracking is not None, "it is a run with tracking"
    made.save(pairs)
    return {"pairs": str(pairs), "on_error": "raise", **asdict(plan.tracking)}


def commands(options: Options, kind: str, side: str, model: Path, run: Path) -> list[list[str]]:
    """The processes of a run, the trainer first; their input is written beside the run."""
    import yaml

    from train.config import plain
    from train.entry import compose

    cfg = compose(kind, overrides(options, kind, side, model, run))
    if side in ("bare", "line"):
        file = run.with_suffix(".json")
        specification = bare_specification(cfg, run.with_suffix(".jsonl"))
        if side == "line":
            pairs = run.with_name("pairs.jsonl")
            specification["tracking"] = line_specification(cfg, pairs)
        file.write_text(to_json(specification), encoding="utf-8")
        return [program("launch.bench.bare_trl", str(file))]
    file = run.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(plain(cfg), sort_keys=False), encoding="utf-8")
    trainer = program("train.run", str(file))
    where = f"device={options.sidecar_device}"
    sidecar = program("sidecar", f"run={run}", where, f"threads={options.threads}")
    beside = side == "sidecar" and options.sidecar_device != "none"
    return [trainer, sidecar] if beside else [trainer]


def execute(started: list[list[str]], threads: int, directory: Path) -> None:
    """Run commands at the same time until all have ended; what they print goes to files.

    Raises:
        ValueError: one ended with a status other than 0; the end of its output is in the message.
    """
    directory.mkdir(parents=True, exist_ok=True)
    wandb = {"WANDB_MODE": "offline", "WANDB_DIR": str(directory)}  # of no effect without it
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), **wandb}
    children: list[subprocess.Popen[bytes]] = []
    try:
        for number, command in enumerate(started):
            with open(directory / f"process-{number}.log", "wb") as output:
                children.append(
                    subprocess.Popen(
                        command, env=environment, stdout=output, stderr=subprocess.STDOUT
                    )
                )
        for number, child in enumerate(children):
            if status := child.wait():
                text = (directory / f"process-{number}.log").read_text("utf-8", "replace")
                raise ValueError(
                    f"{shlex.join(started[number])} ended with status {status}: {text[-2000:]}"
                )
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()


def gpu_name() -> str | None:
    """Name of the GPU, if there is one."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None
