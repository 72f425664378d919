"""The paper's experiments, and their configurations at toy size."""

from __future__ import annotations

from train.entry import CONF

PAPER = CONF / "experiment" / "paper"
EXPERIMENTS = sorted(
    (path.parent.name, path.stem) for path in PAPER.glob("*/*.yaml") if path.stem != "common"
)


def tiny(compose, toy, kind, name, *more):
    """The configuration of an experiment under debug=tiny, kept in a directory of the test."""
    words = [f"experiment=paper/{name}", "debug=tiny", "logger=none", "resume=auto"]
    return compose(kind, *words, f"run_dir={toy}/${{name}}", *more)
