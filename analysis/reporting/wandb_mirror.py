"""The Weights & Biases mirror of what the local files already hold.

A run is offline unless there is an account (WANDB_API_KEY, or an entry in ~/.netrc) or WANDB_MODE
says otherwise. Values are logged with their own step metric and never with `step=`, because W&B
drops rows whose step goes backwards.

W&B works in a process of its own (wandb_worker.py), so that nothing of it can raise or hang in the
run: what is given to it is queued, and each wait has an end. Where its server can't be reached, it
starts offline.
"""

from __future__ import annotations

import json
import logging
import netrc
import os
import queue
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse
from urllib.request import urlopen

from analysis.records.secrets import redact
from analysis.reporting.mirror_protocol import FINISH
from analysis.reporting.pending import Pending

log = logging.getLogger(__name__)

START = 30.0  # seconds that W&B has to start in; FINISH to give its server what is left
ANSWER = 5.0  # that its server has to answer in, before W&B is given these times
BEHIND = 32 * 2**20  # characters of rows that may wait for W&B in memory
WORKER = Path(__file__).with_name("wandb_worker.py")


def server() -> str:
    """The address of W&B's server."""
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")


def has_account() -> bool:
    """Whether W&B credentials are configured on this machine."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(urlparse(server()).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def resolve_mode(mode: str) -> str:
    """`auto` -> online with an account, else offline; WANDB_MODE wins, except over `disabled`."""
    if mode == "disabled":
        return mode
    asked = os.environ.get("WANDB_MODE", mode)
    return ("online" if has_account() else "offline") if asked == "auto" else asked


def silent_server() -> str | None:
    """Why W&B's server does not answer; None if it does, be it that it asks for a key."""
    try:
        with urlopen(server(), timeout=ANSWER):
            return None
    except HTTPError as error:
        return f"HTTP status {error.code}" if error.code >= 500 else None
    except URLError as error:
        # what W&B itself can check with other certificates is left to it
        return None if "CERTIFICATE" in str(error.reason) else str(error.reason)
    except (OSError, ValueError) as error:
        return str(error) or type(error).__name__


class WandbMirror:
    """A W&B run, in a process of its own; no call raises, whether or not W&B works.

    mode: online or offline. files: where W&B keeps this session. starting_step: how many rows the
    W&B run had before this session, of an online one. entity, project: where the run is online.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.mode = ""
        self.files = Path()
        self.starting_step = 0
        self.entity = self.project = ""
        self.reason = "its process ended"  # why it failed, if it did
        self._process = process
        self._messages = Pending(BEHIND)
        self._replies: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        for work in (self._write, self._read):
            threading.Thread(target=work, name="wandb mirror", daemon=True).start()

    @classmethod
    def start(
        cls, directory: Path, name: str, project: str, mode: str, config: Mapping[str, Any]
    ) -> WandbMirror | None:
        """Start (or, for a resumed run, continue) the W&B run of a run directory.

        Offline where it should be online and its server does not answer or refuses it, with a
        warning. None if the mode is `disabled`, or, with a warning, if W&B does not start at all.
        """
        mode = resolve_mode(mode)
        if mode == "disabled":
            return None
        reason = silent_server() if mode == "online" else None
        if reason is None:
            try:
                return cls.begin(directory, name, project, mode, config)
            except ValueError as error:
                reason = str(error)
        if mode == "online":
            log.warning(
                "W&B at %s: %s. It is kept offline; headlab publish run=%s uploads it later",
                server(),
                reason,
                directory,
            )
            with suppress(ValueError):
                return cls.begin(directory, name, project, "offline", config)
        log.warning("W&B is off for this run: %s. The local records are complete.", reason)
        return None

    @classmethod
    def begin(
        cls, directory: Path, name: str, project: str, mode: str, config: Mapping[str, Any]
    ) -> WandbMirror:
        """`start` in just this mode.

        Raises:
            ValueError: W&B does not start; why.
        """
        directory.mkdir(parents=True, exist_ok=True)
        how = {
            "directory": str(directory.absolute()),
            "project": project,
            "name": name,
            "id": run_id(directory, name),
            "mode": mode,
            "config": redact(config),
            "pid": os.getpid(),
            "program": sys.argv[0],
            "patience": START,
        }
        mirror = cls(
            subprocess.Popen(
                [sys.executable, "-P", str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
                env={**os.environ, "WANDB_SILENT": "true"},
            )
        )
        mirror._say(how)
        started = mirror._wait_for("started", START)
        if started is None:
            mirror.end()
            raise ValueError(mirror.reason)
        mirror.mode = "offline" if started["offline"] else "online"
        mirror.files = Path(started["files"]).parent
        mirror.starting_step = started["starting_step"]
        mirror.entity, mirror.project = started.get("entity", ""), started.get("project", "")
        return mirror

    @property
    def is_alive(self) -> bool:
        """Whether W&B takes rows still."""
        return self._process.poll() is None

    def announce(self) -> None:
        """Print where the run is and what to type to watch or upload it."""
        print(f"W&B run: {self.files}")
        print(f"  watch it in a terminal:  wandb leet {shlex.quote(str(self.files))}")
        if self.mode == "offline":
            print(
                f"  upload it later:         wandb sync {shlex.quote(str(self.files))}", flush=True
            )

    def has_room(self, wait: float = 0.0) -> bool:
        """Whether W&B is not far behind with its rows, now or within `wait` seconds."""
        return self._messages.has_room(wait)

    def log(
        self,
        values: Mapping[str, Any],
        pictures: Mapping[str, str] | None = None,
        tables: Mapping[str, tuple[list[str], list[Any]]] | None = None,
    ) -> None:
        """Give W&B a row; pictures are PNG in base64, tables titles and rows."""
        self._say({"row": dict(values), "pictures": pictures or {}, "tables": tables or {}})

    def configure(self, values: Mapping[str, Any]) -> None:
        """Add to what W&B shows as the run's configuration."""
        self._say({"config": redact(values)})

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Set values of the run as a whole."""
        self._say({"summary": dict(values)})

    def alert(self, title: str, text: str) -> None:
        """Raise an alert of W&B."""
        self._say({"alert": [title, text]})

    def finish(self, limit: float = FINISH, exit_code: int = 0) -> bool:
        """Give W&B what is left, in `limit` seconds at most; whether it has taken all there was.

        It ends early where its server does not answer.
        """
        self._say({"finish": exit_code})
        self._messages.put(None)
        until = time.monotonic() + limit
        finished = None
        while finished is None and self.is_alive and (left := until - time.monotonic()) > 0:
            finished = self._wait_for("finished", min(left, ANSWER))
            if finished is None and self.mode == "online" and (silent := silent_server()):
                self.reason = silent
                break
        self.end()
        return finished is not None or self._wait_for("finished", 1.0) is not None

    def end(self) -> None:
        """End the process of W&B, whatever it is doing; W&B's second one follows it."""
        self._process.kill()
        self._process.wait()

    def _wait_for(self, what: str, limit: float) -> Any:
        """What a reply with this name says; None if none comes in time, or W&B has failed."""
        try:
            reply = self._replies.get(timeout=max(limit, 0.0))
        except queue.Empty:
            self.reason = f"it has not {what} in time"
            return None
        if reply is None:
            self._replies.put(None)
            return None
        if "failed" in reply:
            self.reason = reply["failed"]
        return reply.get(what)

    def _say(self, message: Mapping[str, Any]) -> None:
        unknown = str if "row" not in message else None  # a configuration may hold anything
        self._messages.put(json.dumps(message, default=unknown) + "\n")

    def _write(self) -> None:
        lines = self._process.stdin
        assert lines is not None
        with suppress(OSError, ValueError), lines:  # a process that ended takes nothing
            while (message := self._messages.take()) is not None:
                lines.write(message)
                lines.flush()
        self._messages.close()

    def _read(self) -> None:
        lines = self._process.stdout
        assert lines is not None
        with suppress(OSError, ValueError), lines:
            for line in lines:
                self._replies.put(json.loads(line))
        self._replies.put(None)


def has_id(directory: Path) -> bool:
    """Whether a run has an id already."""
    return (directory / "wandb-id").exists()


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
