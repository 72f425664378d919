"""When a run goes on as the same run: what may differ from how it was started, and what may not.

`resume=auto` takes a run up where its last checkpoint left it. What shapes the training must be
what it was: every key of the configuration but those that `may_change` names, the number of
processes, and the contents of the files that the run was made from (train/inputs.py). A start that
took no step is no run yet, and may be started again with any settings.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from analysis.tracking.settings import TrackingConfig, free_keys
from train.arguments import passed_on
from train.inputs import INPUTS, check_inputs
from train.saved import read_settings
from train.schema import Config

WHERE_TOLD = "docs/training.md, 'When a run is stopped', has the list"

# whole parts of the configuration, and single keys
PARTS = ("resume", "run_dir", "debug", "logger", "alerts", "resources")
ARGUMENTS = (  # of train.args: what is logged and saved, and how rows are fetched
    *("disable_tqdm", "log_level", "log_level_replica", "log_on_each_node", "debug"),
    *("logging_steps", "logging_strategy", "logging_first_step", "logging_nan_inf_filter"),
    *("log_completions", "log_unique_prompts", "log_multimodal", "num_completions_to_print"),
    *("include_num_input_tokens_seen", "skip_memory_metrics", "torch_empty_cache_steps"),
    *("save_steps", "save_strategy", "save_total_limit", "save_only_model"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"),
    *("dataloader_prefetch_factor", "dataloader_multiprocessing_context", "dataset_num_proc"),
    *("ddp_timeout", "vllm_server_base_url", "vllm_server_host", "vllm_server_port"),
    *("vllm_server_timeout", "vllm_group_port", "vllm_gpu_memory_utilization"),
)
# made by a start before its first step; the rest of a run comes with the steps
_BEFORE_THE_FIRST = (
    *(INPUTS, "base.json", "pairs.jsonl", "pairs.json", "heads", "evaluations"),
    "base_pairs.jsonl",
    *("evaluations.json", "report.html", "wandb-published.json", "prompting.json"),
    *("mirrors.jsonl", "alerts.jsonl"),
)


def may_change(key: str) -> bool:
    """Whether a key of the configuration, with dots, may differ when a run goes on.

    >>> [may_change(key) for key in ("logger.wandb_mode", "train.args.save_steps", "seed")]
    [True, True, False]
    """
    part, _, rest = key.partition(".")
    if part == "tracking":
        return rest in free_keys(TrackingConfig)
    if key.startswith("train.args."):
        return rest.removeprefix("args.").partition(".")[0] in ARGUMENTS
    return part in PARTS


def flat(values: object, key: str = "") -> dict[str, Any]:
    """The values of nested mappings by their dotted keys; an empty mapping is none.

    >>> flat({"a": {"b": 1, "c": {}}, "d": [2]})
    {'a.b': 1, 'd': [2]}
    """
    if isinstance(values, dict):
        found: dict[str, Any] = {}
        for name, inner in values.items():
            found |= flat(inner, f"{key}.{name}" if key else str(name))
        return found
    return {key: values}


def _what_counts(config: dict[str, Any]) -> dict[str, Any]:
    """What must be equal, by dotted keys; arguments that ask for nothing are not there."""
    train = dict(config.get("train") or {})
    args = passed_on(train.get("args") or {}, str(train.get("kind")))
    if set(args.get("reward_weights") or [1]) == {1}:
        args.pop("reward_weights", None)  # 1 each is what no weights are
    found = flat({**config, "train": {**train, "args": args}})
    return {key: value for key, value in found.items() if not may_change(key)}


def check_same_run(saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to resume a run of which something that shapes the training has changed.

    A key that an earlier version did not know had its default.

    Raises:
        ValueError: naming every key that differs, with both values.
    """
    before, after = _what_counts(saved), _what_counts(now)
    defaults = flat(OmegaConf.to_container(OmegaConf.structured(Config)))
    unset = object()

    def differs(key: str) -> bool:
        there, here = before.get(key, unset), after.get(key, unset)
        missing = there is unset or here is unset
        known = defaults.get(key, None) if missing else None
        return (known if there is unset else there) != (known if here is unset else here)

    changed = [
        f"{key} ({before.get(key)} -> {after.get(key)})"
        for key in sorted({*before, *after})
        if differs(key)
    ]
    if changed:
        raise ValueError(
            f"the run was started with other settings: {'; '.join(changed)}. Restore them, or "
            f"start a run under another name; what may change: {WHERE_TOLD}"
        )


def saved_settings(run: Path) -> dict[str, Any] | None:
    """The configuration that a run was started with, or None if there is none.

    Raises:
        ValueError: its file is not one.
    """
    from analysis.records.run_file import WITNESS

    path = run / WITNESS
    return read_settings(path) if path.exists() else None


def is_begun(run: Path) -> bool:
    """Whether a directory is taken: by a run that took a step, or by one that no training made."""
    from analysis.records.run_file import FILE, WITNESS

    if any(run.glob("checkpoint-*")):
        return True
    if not any((run / name).exists() for name in (WITNESS, FILE)):
        return False
    try:
        kind = (saved_settings(run) or {"train": {}})["train"].get("kind")
    except ValueError:
        return True
    if kind not in ("sft", "grpo"):
        return True
    later = [
        int(found[1]) for path in run.glob("heads/step-*") if (found := _STEP.match(path.name))
    ]
    logged = any((run / name).exists() for name in ("metrics.jsonl", "finished.json"))
    return logged or any(later)


_STEP = re.compile(r"step-(\d+)$")


def is_same(run: Path, cfg: DictConfig, now: dict[str, Any]) -> bool:
    """Whether what a start has left is what this one would leave. now: `cfg`, as it is written."""
    try:
        if (saved := saved_settings(run)) is not None:
            check_same_run(saved, now)
        check_inputs(run, cfg)
    except ValueError:
        return False
    return True


def clear(run: Path) -> None:
    """Take away what a start left that took no step, for another with other settings."""
    from analysis.records.run_file import FILE, WITNESS

    for name in (WITNESS, FILE, *_BEFORE_THE_FIRST):
        path = run / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
