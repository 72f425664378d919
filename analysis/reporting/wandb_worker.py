"""The process in which W&B works for a run. wandb_mirror.py starts it and may end it at any time.

W&B keeps threads, a second process and functions that Python calls at its exit, and any of them
may hang or raise when its server or its second process is gone. Here that can harm nobody.

It speaks JSON, a line a message. It hears how to start, then any number of
{"row": VALUES, "pictures": {KEY: PNG in base64}, "tables": {KEY: [TITLES, ROWS]}}, {"config": ...},
{"summary": ...} and {"alert": [TITLE, TEXT]}, then {"finish": EXIT CODE}. It says
{"started": ...}, {"finished": true}, or {"failed": REASON} and ends.
"""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from wandb import Run, Table

TITLE = 60  # characters of an alert's title; W&B refuses 64
ORPHANED = 30.0  # seconds to finish in once the process that started this one has gone
FLUSH = 1.0  # seconds between two flushes of its file; 15 otherwise, as between two uploads
AXES = ("heads/step", "train/global_step")  # what a row is shown over: the one that is in it
HIDDEN = ("heads/step", "headlab/row")


def start(how: dict[str, Any]) -> Run:
    """The W&B run; `how` is what `WandbMirror.start` sends."""
    import wandb

    # what its server has is in its file as well, also if it is killed between two flushes
    often: dict[str, Any] = {"x_transaction_log_flush_interval": FLUSH}
    known = getattr(wandb.Settings, "model_fields", {})
    settings = wandb.Settings(
        **{name: value for name, value in often.items() if name in known},
        console="off",
        silent=True,
        init_timeout=how["patience"],
        x_stats_pid=how["pid"],
        program=how["program"],
    )
    return wandb.init(
        dir=how["directory"],
        project=how["project"],
        name=how["name"],
        id=how["id"],
        resume="allow",
        mode=how["mode"],
        config=how["config"],
        settings=settings,
    )


def define(run: Run, message: dict[str, Any], defined: set[str]) -> None:
    """Say over which step the values of a row are shown, once each, by name.

    A pattern such as `eval/*` would take in values of the trainer's as well, or lose to a pattern
    of its own: transformers shows `*` over its step.
    """
    row, media = message["row"], ("pictures", "tables")
    axis = next((name for name in AXES if name in row), None)
    names = [*row, *(name for kind in media for name in message.get(kind) or ())]
    for name in names:
        if name in defined:
            continue
        defined.add(name)
        if name in HIDDEN:
            run.define_metric(name, hidden=True)
        elif name not in AXES and axis is not None:
            run.define_metric(name, step_metric=axis)


def table(titles: list[str], rows: list[list[Any]]) -> Table:
    """A table of W&B's, which works out the types of columns anew with each row, at length.

    So it is made of the first row of each kind only; from others of that kind W&B learns nothing.
    """
    import wandb

    kinds: dict[tuple[type, ...], list[Any]] = {}
    for row in rows:
        kinds.setdefault(tuple(map(type, row)), row)
    columns: list[int | str] = [*titles]
    made = wandb.Table(columns, list(kinds.values()))
    if len(kinds) < len(rows):
        made.data = [list(row) for row in rows]
    return made


def log(run: Run, message: dict[str, Any], defined: set[str]) -> None:
    """Log a row; without its tables, or without tables and pictures, if W&B refuses these.

    defined: the values whose step is said already; those of this row are added.
    """
    import wandb
    from PIL import Image

    define(run, message, defined)
    row = message["row"]
    pictures = {
        key: wandb.Image(Image.open(io.BytesIO(base64.b64decode(png))))
        for key, png in (message.get("pictures") or {}).items()
    }
    for dropped in ("nothing", "tables", "pictures"):
        tables = (message.get("tables") or {}) if dropped == "nothing" else {}
        shown = pictures if dropped != "pictures" else {}
        try:
            made = {key: table(titles, rows) for key, (titles, rows) in tables.items()}
            run.log({**row, **shown, **made})
            return
        except Exception:
            if not tables and not shown:
                raise


def serve(lines: TextIO, replies: TextIO) -> None:
    """Do what the lines ask for, until one says that the run has ended, or there are no more."""
    import wandb

    def say(**reply: object) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    run = start(json.loads(lines.readline()))
    step = run.starting_step
    where = {"entity": run.entity, "project": run.project}
    say(started={"files": run.dir, "offline": run.offline, "starting_step": step, **where})
    code, defined = 1, set[str]()
    for line in lines:
        message = json.loads(line)
        if "finish" in message:
            code = message["finish"]
            break
        if "row" in message:
            with suppress(TypeError, ValueError):  # this row is not W&B's, others are
                log(run, message, defined)
        elif "config" in message:
            run.config.update(message["config"], allow_val_change=True)
        elif "alert" in message:
            title, text = message["alert"]
            run.alert(title[:TITLE], text, "WARN")
        else:
            run.summary.update(message["summary"])
    else:
        threading.Timer(ORPHANED, os._exit, [1]).start()
    run.finish(exit_code=code)
    wandb.teardown(code)  # its file is whole when its second process has ended
    say(finished=True)


def main() -> None:
    """Serve standard input; never ends by itself in any function that W&B left for the exit."""
    for name in (signal.SIGTERM, signal.SIGINT):  # a cluster sends them to every process of a run
        signal.signal(name, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what W&B prints is no reply
    try:
        serve(sys.stdin, replies)
    except BaseException as error:
        reason = str(error).strip() or type(error).__name__
        replies.write(json.dumps({"failed": reason.splitlines()[0]}) + "\n")
        replies.flush()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
