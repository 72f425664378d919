"""Which loggers show a run: W&B, trackio, TensorBoard, by the names of `report_to`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from analysis.cli import nearest
from analysis.reporting.mirror_protocol import Mirror

log = logging.getLogger(__name__)

NAMES = ("wandb", "trackio", "tensorboard")
WORDS = ("auto", *NAMES, "none")


def names_of(what: str | Sequence[str] | None) -> list[str]:
    """What `report_to` or `logger` names, once each, without `none`; `all` is all there are.

    >>> names_of("wandb"), names_of(["none"]), names_of(None), names_of("all")
    (['wandb'], [], [], ['wandb', 'trackio', 'tensorboard'])
    """
    words = [what] if isinstance(what, str) else list(what or ())
    spread = [name for word in words for name in (NAMES if word == "all" else (word,))]
    return [name for name in dict.fromkeys(spread) if name != "none"]


def check_logger(logger: str | Sequence[str]) -> None:
    """Refuse what `logger` can't be.

    Raises:
        ValueError: it names no logger, or `auto` or `none` beside others.
    """
    words = [logger] if isinstance(logger, str) else list(logger)
    for word in words:
        if word not in WORDS:
            raise ValueError(f"logger: there is no {word!r}; {nearest(str(word), WORDS)}")
    for word in ("auto", "none"):
        if word in words and len(words) > 1:
            raise ValueError(f"logger is {words}; {word!r} stands by itself")


def open_mirrors(
    report_to: str | Sequence[str] | None = None,
    logger: str | Sequence[str] = "auto",
    *,
    adopt: bool = True,
    mode: str = "auto",
    project: str | None = None,
    strict: bool = False,
    workspace: bool | None = None,
) -> list[Mirror]:
    """The mirrors that a run is to have; `Publisher.start` starts them.

    report_to: what the trainer reports to. logger: `auto`, which is that and the runs of W&B and
    trackio that are open in this process; or the names of loggers. adopt: share a run that is open
    in this process, and with `auto` open none. mode, project, strict: of a W&B run of our own
    (wandb_run.py), project also of a trackio run. workspace: make a view of the W&B project; None:
    where W&B is online and wandb-workspaces is installed.

    Raises:
        ValueError: as `check_logger`; a logger that is named is not installed.
    """
    from analysis.reporting.adopted_wandb import AdoptedWandb, open_wandb
    from analysis.reporting.tensorboard_mirror import TensorBoard
    from analysis.reporting.trackio_mirror import Trackio, open_trackio
    from analysis.reporting.wandb_run import WandbRun

    check_logger(logger)
    asked = logger not in ("auto", ["auto"])
    reported = names_of(report_to)
    there = {"wandb": open_wandb, "trackio": open_trackio} if adopt else {}
    runs = {name: run for name, find in there.items() if (run := find()) is not None}
    found: list[Mirror] = []
    for name in names_of(logger if asked else [*reported, *runs]):
        if name not in NAMES:
            log.info("headlab has nothing that writes to %s", name)
        elif name in runs:
            one = runs[name]
            found.append(AdoptedWandb(one, workspace) if name == "wandb" else Trackio(one))
        elif not is_installed(name):
            extra = f"{name} is not installed; pip install 'headlab[{name}]'"
            if asked:
                raise ValueError(f"logger: {extra}")
            log.warning("%s gets no rows of heads: %s", name, extra)
        elif name == "tensorboard":
            found.append(TensorBoard(training=name not in reported))
        elif adopt and not asked:
            word = f"logger={name!r} opens one"
            log.warning("%s gets no rows of heads: no run of it is open; %s", name, word)
        elif name == "wandb":
            found.append(WandbRun(mode, project, strict, workspace))
        else:
            found.append(Trackio(project=project))
    return found


def is_installed(name: str) -> bool:
    """Whether the package of a logger is there."""
    return name in sys.modules or find_spec(name) is not None
