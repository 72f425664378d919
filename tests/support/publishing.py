"""A publisher whose only logger is a stand-in for W&B's process (tests/support/mirrors.py)."""

from __future__ import annotations

from pathlib import Path

from analysis.reporting.publish import Publisher
from analysis.reporting.wandb_run import WandbRun
from tests.support.mirrors import FakeMirror


def to_wandb(run: Path, session: FakeMirror) -> Publisher:
    """That of a run, with a session of W&B that has started."""
    mirror = WandbRun(session.mode)
    mirror.hold(run, session)  # type: ignore[arg-type]
    return Publisher(run, [mirror])
