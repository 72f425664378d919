"""The Weights & Biases mirror of what the local files already hold.

A run is offline unless there is an account (WANDB_API_KEY, or an entry in ~/.netrc) or WANDB_MODE
says otherwise. The mirror may fail: it says so once, and the run goes on. Values are logged with
their own step metric and never with `step=`, because W&B drops rows whose step goes backwards.
"""

from __future__ import annotations

import logging
import netrc
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from analysis.heads import COUNTS, HeadStates
from analysis.records import Record

log = logging.getLogger(__name__)

_SECRET = re.compile(r"(^|_)(token|key|secret|password)$", re.IGNORECASE)


def redact(config: Any) -> Any:
    """A copy of a configuration in which the values of keys that name a secret are masked."""
    if isinstance(config, Mapping):
        return {
            key: "<redacted>" if _SECRET.search(str(key)) and value else redact(value)
            for key, value in config.items()
        }
    if isinstance(config, list | tuple):
        return [redact(value) for value in config]
    return config


def has_account() -> bool:
    """Whether W&B credentials are configured on this machine."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc().authenticators(host or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def resolve_mode(mode: str) -> str:
    """`auto` -> online with an account, else offline; WANDB_MODE has the last word."""
    asked = os.environ.get("WANDB_MODE", mode)
    return ("online" if has_account() else "offline") if asked == "auto" else asked


class WandbMirror:
    """A W&B run that may be missing: every call is safe whether or not W&B works."""

    def __init__(self, run: Any) -> None:
        self._run = run

    @classmethod
    def start(
        cls, directory: Path, name: str, project: str, mode: str, config: Mapping[str, Any]
    ) -> WandbMirror:
        """Start (or, for a resumed run, continue) the W&B run of a run directory."""
        mode = resolve_mode(mode)
        if mode == "disabled":
            return cls(None)
        os.environ.setdefault(
            "WANDB_SILENT", "true"
        )  # else it warns at each save that it is offline
        try:
            import wandb

            directory.mkdir(parents=True, exist_ok=True)
            run = wandb.init(
                dir=directory,
                project=project,
                name=name,
                id=_run_id(directory, name),
                resume="allow",
                mode=mode,  # type: ignore[arg-type]
                config=redact(config),
                settings=wandb.Settings(console="off", silent=True),
            )
            run.define_metric("heads/step", hidden=True)
            for group in ("heads/*", "head/*", "circuit/*", "eval/*"):
                run.define_metric(group, step_metric="heads/step")
        except Exception as error:  # the mirror may fail soft, whatever W&B raises
            log.warning("W&B is off for this run: %s. The local records are complete.", error)
            return cls(None)
        return cls(run)

    @property
    def directory(self) -> Path | None:
        """Where W&B keeps this run, to be given to `wandb sync`."""
        return Path(self._run.dir).parent if self._run is not None else None

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Log values at a checkpoint's step."""
        if self._run is None:
            return
        try:
            self._run.log({"heads/step": step, **values})
        except Exception as error:  # the mirror may fail soft, whatever W&B raises
            log.warning("W&B did not take the values of step %d: %s", step, error)

    def finish(self) -> None:
        if self._run is not None:
            try:
                self._run.finish()
            except Exception as error:  # the mirror may fail soft, whatever W&B raises
                log.warning("W&B did not finish: %s", error)


def _run_id(directory: Path, name: str) -> str:
    """The run's id, made once and kept beside its files so that a resumed run continues it."""
    path = directory / "wandb-id"
    if not path.exists():
        safe = re.sub(r"[^A-Za-z0-9_-]", "-", name)[:80]
        path.write_text(f"{safe}-{os.urandom(4).hex()}", encoding="utf-8")
    return path.read_text(encoding="utf-8")


def head_values(record: Record, states: HeadStates) -> dict[str, float]:
    """What a checkpoint logs: `circuit/*`, `heads/*` with `/lo` and `/hi`, and `head/L00H00`."""
    values: dict[str, float] = {
        "circuit/edges": record.n_edges,
        "circuit/completeness_gap": record.completeness_gap,
        "circuit/metric_corrupted": record.metric_corrupted,
        "circuit/seconds": record.seconds,
    }
    for name in COUNTS:
        count = states.counts[name]
        values |= {f"heads/{name}": count.value, f"heads/{name}/lo": count.low}
        values[f"heads/{name}/hi"] = count.high
        if count.null_mean is not None and count.null_high is not None:
            values[f"heads/{name}/null"] = count.null_mean
            values[f"heads/{name}/null_hi"] = count.null_high
    shown = states.masks["in_circuit"] | states.masks["pruned"]
    for index in shown.nonzero().flatten().tolist():
        layer, head = divmod(index, record.graph.n_heads)
        values[f"head/L{layer:02}H{head:02}"] = float(record.importance[index])
    return values
