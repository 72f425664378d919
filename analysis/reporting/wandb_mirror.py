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
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse

from analysis.records.secrets import redact

log = logging.getLogger(__name__)


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
    """`auto` -> online with an account, else offline; WANDB_MODE wins, except over `disabled`."""
    if mode == "disabled":
        return mode
    asked = os.environ.get("WANDB_MODE", mode)
    return ("online" if has_account() else "offline") if asked == "auto" else asked


class WandbRun(Protocol):
    """What is used of a run of W&B."""

    @property
    def dir(self) -> str: ...
    @property
    def offline(self) -> bool: ...
    def log(self, data: dict[str, Any]) -> object: ...
    def finish(self) -> object: ...


class WandbMirror:
    """A W&B run: every call is safe whether or not W&B works."""

    def __init__(self, run: WandbRun) -> None:
        self._run = run

    @classmethod
    def start(
        cls, directory: Path, name: str, project: str, mode: str, config: Mapping[str, Any]
    ) -> WandbMirror | None:
        """Start (or, for a resumed run, continue) the W&B run of a run directory.

        None if the mode is `disabled`, or, with a warning, if W&B does not start.
        """
        mode = resolve_mode(mode)
        if mode == "disabled":
            return None
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
                id=run_id(directory, name),
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
            return None
        return cls(run)

    @property
    def directory(self) -> Path:
        """Where W&B keeps this run, to be given to `wandb sync`."""
        return Path(self._run.dir).parent

    @property
    def mode(self) -> str:
        """`online` or `offline`."""
        return "offline" if self._run.offline else "online"

    def announce(self) -> None:
        """Print where the run is and what to type to watch or upload it."""
        print(f"W&B run: {self.directory}")
        print(f"  watch it in a terminal:  wandb leet {self.directory}")
        if self.mode == "offline":
            print(f"  upload it later:         wandb sync {self.directory}", flush=True)

    def log(self, step: int, values: Mapping[str, Any]) -> bool:
        """Log values at a checkpoint's step; whether W&B took them."""
        try:
            self._run.log({"heads/step": step, **values})
        except Exception as error:  # the mirror may fail soft, whatever W&B raises
            log.warning("W&B did not take the values of step %d: %s", step, error)
            return False
        return True

    def finish(self) -> None:
        """Give W&B what is left in its buffers."""
        try:
            self._run.finish()
        except Exception as error:  # the mirror may fail soft, whatever W&B raises
            log.warning("W&B did not finish: %s", error)


def run_id(directory: Path, name: str) -> str:
    """The run's id, made once and kept beside its files so that a resumed run continues it.

    Whichever of several processes is first makes it; all get the same.
    """
    path = directory / "wandb-id"
    if not path.exists():
        safe = re.sub(r"[^A-Za-z0-9_-]", "-", name)[:80]
        draft = directory / f".wandb-id-{os.urandom(4).hex()}"
        draft.write_text(f"{safe}-{os.urandom(4).hex()}", encoding="utf-8")
        with suppress(FileExistsError):  # another process was faster
            os.link(draft, path)
        draft.unlink()
    return path.read_text(encoding="utf-8")
