"""What can be known in seconds before anything is started or a queue is entered.

All that is wrong is said at once, one line each with its mend.
"""

from __future__ import annotations

import os
import shutil
import socket
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from analysis.prompts.row_files import check_file, file_of
from launch.processes import local_node, visible_gpus
from launch.space import checkpoint_bytes, checkpoints_kept
from train.compat import vllm_for_trl
from train.config import plain


def preflight(cfg: DictConfig) -> list[str]:
    """Check devices, disk, model, data, port, versions and, for a queue, every setting.

    Returns:
        Notes: what could not be checked from here, and what may surprise.

    Raises:
        ValueError: with everything that is wrong, one line each.
    """
    checks: list[Callable[[DictConfig], list[str]]]
    checks = [versions, vllm, devices, port, data, model_and_disk]
    if cfg.resources.kind == "slurm":
        checks += [slurm, settings]
    notes, wrong = [], []
    for check in checks:
        try:
            notes += check(cfg)
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise ValueError("\n  ".join(["the pre-flight check failed:", *wrong]))
    return [*notes, *tracking(cfg), *account(cfg)]


def versions(cfg: DictConfig) -> list[str]:
    """That the installed packages are those that pyproject.toml asks for."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in metadata.requires("headlab") or []]
    except metadata.PackageNotFoundError:
        return ["headlab is not installed as a package; versions of others are not checked"]
    unmet = []
    for need in wanted:
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            found = "missing"
        if found == "missing" or not need.specifier.contains(found, prereleases=True):
            unmet.append(f"{need.name}{need.specifier} ({found})")
    if unmet:
        raise ValueError(f"versions: needed {', '.join(unmet)}; install them with pip")
    return []


def vllm(cfg: DictConfig) -> list[str]:
    """That vLLM is there in a version that TRL supports, if the generation is to use it."""
    if not cfg.train.args.get("use_vllm"):
        return []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if not vllm_for_trl():
            raise ValueError(
                "vllm: train.args.use_vllm needs the package vllm, which is not installed; "
                "pip install 'trl[vllm]', or train.args.use_vllm=false"
            )
    return [str(warning.message) for warning in caught]


def devices(cfg: DictConfig) -> list[str]:
    """That this machine has a GPU for each process; of a queue's nodes nothing is known."""
    r = cfg.resources
    if r.kind == "slurm":
        return ["the GPUs and disks of the job's nodes can't be seen from here"]
    node, visible = local_node(r), visible_gpus() if r.gpus != 0 else 0
    if node.gpus > visible:
        raise ValueError(
            f"devices: resources.gpus is {r.gpus}, and {visible} GPUs are visible; ask for fewer, "
            "or compute on the CPU with resources.gpus=0"
        )
    if 0 < node.gpus < node.processes:
        raise ValueError(
            f"devices: resources.processes is {r.processes}, and {visible} GPUs are visible; ask "
            "for fewer, or compute on the CPU with resources.gpus=0"
        )
    return []


def port(cfg: DictConfig) -> list[str]:
    """That the port at which the processes are to meet is free on this machine."""
    wanted = cfg.resources.port
    if wanted is None or cfg.resources.kind == "slurm":
        return []
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", wanted))
        except (OSError, OverflowError) as error:
            raise ValueError(
                f"port: resources.port {wanted} can't be had ({error}); choose another, or leave "
                "it null for a free one"
            ) from None
    return []


def data(cfg: DictConfig) -> list[str]:
    """That the files of problems are there."""
    for key in ("data", "evaluation", "pairs"):
        file = file_of(cfg[key].source or "")
        if file is not None:
            try:
                check_file(file)
            except ValueError as error:
                raise ValueError(f"data: {key}.source: {error}") from error
    return []


def model_and_disk(cfg: DictConfig) -> list[str]:
    """That the model can be read, and that the run directory has room for its checkpoints."""
    if cfg.model.path is None:  # a recipe is built here
        return disk(cfg, None)
    source = model_source(cfg)
    model(cfg, source)
    return disk(cfg, source)


def model_source(cfg: DictConfig) -> str:
    """The model's directory, or what the hub's cache has of it, without its weights.

    Raises:
        ValueError: it is nowhere.
    """
    from analysis.models.hub import place
    from train.build import model_of

    try:
        return str(place(model_of(cfg)))
    except ValueError as error:
        raise ValueError(f"model: model.path {error}") from error


def model(cfg: DictConfig, source: str) -> None:
    """That a model's configuration, tokenizer and weights, in safetensors, are there."""
    from analysis.models.loading import load_tokenizer
    from train.beforehand import check_model

    check_model(source, plain(cfg.train.args).get("model_init_kwargs"), cfg.tracking.enabled)
    try:
        # without its files transformers gives a tokenizer that knows no text, and no error
        readable = bool(load_tokenizer(source)("0").input_ids)
    except (OSError, ValueError):
        readable = False
    if not readable:
        raise ValueError(f"model: {source} has no tokenizer that can be read; save one there")


def disk(cfg: DictConfig, source: str | None) -> list[str]:
    """That the file system of the run directory has room for the checkpoints."""
    run = Path(cfg.run_dir)
    place = next(path for path in [run, *run.absolute().parents] if path.exists())
    free = shutil.disk_usage(place).free
    each = checkpoint_bytes(cfg, source)
    count = max(1, checkpoints_kept(cfg) - len(list(run.glob("checkpoint-*"))))
    if each * count > free:
        raise ValueError(
            f"disk: {count} checkpoints of about {_size(each)} are to be kept in {run}, and "
            f"{_size(free)} are free there; give another run_dir, keep fewer "
            "(train.args.save_total_limit) or save less often (train.args.save_steps)"
        )
    if not os.access(place, os.W_OK):
        raise ValueError(f"disk: {place} can't be written to; give another run_dir")
    return []


def _size(count: float) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e8 else f"{count / 1e6:.3g} MB"


def slurm(cfg: DictConfig) -> list[str]:
    """That jobs can be submitted from here."""
    if shutil.which("sbatch") is None and not cfg.resources.dry_run:
        raise ValueError(
            "slurm: there is no sbatch on this machine; start from a login node of the cluster, or "
            "print the script with resources.dry_run=true"
        )
    return []


def settings(cfg: DictConfig) -> list[str]:
    """That every setting is accepted: else a misspelt one is found after hours in a queue."""
    import dataclasses

    from trl import GRPOConfig, SFTConfig

    from train.arguments import check_arguments, check_rewards, passed_on
    from train.build import construct, held_out_problems, peft_config, tracking_settings
    from train.rewards import find_rewards

    args = SFTConfig if cfg.train.kind == "sft" else GRPOConfig
    names: list[Any] = [(f.name, Any, None) for f in dataclasses.fields(args)]
    # only the names: whether the values are right may depend on the GPUs of a node
    given = plain(cfg.train.args)
    check_arguments(cfg.train.kind, given, args)
    given = passed_on(given, cfg.train.kind)
    construct(dataclasses.make_dataclass(args.__name__, names), given, "train.args")
    peft_config(cfg)
    tracking_settings(cfg)
    held_out_problems(cfg)
    if cfg.train.kind == "grpo":
        find_rewards(list(cfg.train.rewards))
        check_rewards(list(cfg.train.rewards), given.get("reward_weights"))
    return []


def tracking(cfg: DictConfig) -> list[str]:
    """Whether what tracking needs in memory fits, and about how long it takes."""
    from analysis.models.room import host_memory
    from launch.tracking_needs import tracking_notes

    if not cfg.tracking.enabled or cfg.model.path is None:
        return []
    r = cfg.resources
    on_gpu = r.gpus != 0 if r.kind == "slurm" else local_node(r).gpus > 0
    free = host_memory() if r.kind != "slurm" and not on_gpu else None
    return tracking_notes(cfg, model_source(cfg), on_gpu, free)


def account(cfg: DictConfig) -> list[str]:
    """Whether the run is mirrored online."""
    from analysis.reporting.wandb_mirror import has_account, resolve_mode

    if "wandb" not in cfg.logger.to:
        return []
    if resolve_mode(cfg.logger.wandb_mode) == "online" and not has_account():
        return [
            "there is no W&B account here: log in with `wandb login`, or logger.wandb_mode=auto"
        ]
    return []
