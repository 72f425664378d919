"""The revisions of a model on the hub as checkpoints: hub:ORG/NAME@step*, a `Source`.

Pythia, OLMo and others publish a checkpoint for each branch. A download is there as long as its
model is measured: `keep` of them are on the disk at a time, beside those that the cache had before.
"""

from __future__ import annotations

import logging
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.live.forms import is_pattern
from analysis.live.watching import Found
from analysis.models import hub

if TYPE_CHECKING:
    from analysis.models.loading import Model
    from analysis.tracking.tracker import HeadTracker

log = logging.getLogger(__name__)

MARK = "hub:"  # what an entry of `checkpoints` that means revisions begins with
TRIES = 3  # how often a download is begun
PAUSE = 2.0  # seconds before a download is begun again

_STEP = re.compile(r"(?:global[-_]?)?step[-_]?(\d+)")
_OTHER = re.compile(r"(?:checkpoint|ckpt|iteration|iter|epoch)[-_]?(\d+)")
_NUMBER = re.compile(r"((?:step|checkpoint|ckpt|iteration|iter|epoch)[-_]?)\d+")
_TOKENS = re.compile(r"[-_]?tokens[-_]?[\d.]+[A-Za-z]?")


def step_of(revision: str) -> int | None:
    """The step that a revision's name tells; None if it tells none.

    Raises:
        ValueError: it tells several.

    >>> step_of("stage1-step1000-tokens5B"), step_of("checkpoint-40"), step_of("main")
    (1000, 40, None)
    """
    found = _STEP.findall(revision) or _OTHER.findall(revision)
    if len(set(map(int, found))) > 1:
        raise ValueError(f"the revision {revision!r} names several steps: {', '.join(found)}")
    return int(found[0]) if found else None


def _kind_of(revision: str) -> str:
    """A revision's name without its numbers of steps and tokens: stage1-step*."""
    return _NUMBER.sub(r"\1*", _TOKENS.sub("", revision))


def expand(pattern: str) -> list[str]:
    """The texts that braces stand for.

    >>> expand("step{0,1,512}-x")
    ['step0-x', 'step1-x', 'step512-x']
    """
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    start, end = pattern[: found.start()], pattern[found.end() :]
    return [text for part in found[1].split(",") for text in expand(f"{start}{part}{end}")]


def find_revisions(entries: list[str]) -> dict[int, str]:
    """Step -> NAME@REVISION, by step, of entries such as hub:ORG/NAME@step{0,1,512}.

    Raises:
        ValueError: the hub does not list them, nothing matches, or they are not of one series.
    """
    found: dict[int, str] = {}
    for entry in entries:
        name, at, pattern = entry.removeprefix(MARK).partition("@")
        if not at or not pattern:
            raise ValueError(f"{entry} names no revisions; give {entry.partition('@')[0]}@step*")
        for step, revision in _of_one(name, pattern).items():
            if found.setdefault(step, hub.join(name, revision)) != hub.join(name, revision):
                raise ValueError(f"{found[step]} and {name}@{revision} are both step {step}")
    return dict(sorted(found.items()))


def _of_one(name: str, pattern: str) -> dict[int, str]:
    there = hub.revisions(name)
    matched: list[str] = []
    for text in expand(pattern):
        new = [revision for revision in there if fnmatchcase(revision, text)]
        if not new:
            some = ", ".join(there[:6]) + (f" and {len(there) - 6} more" if len(there) > 6 else "")
            what = "no revision that matches" if is_pattern(text) else "no revision"
            raise ValueError(f"{name} has {what} {text!r} on the hub; it has {some}")
        matched += new
    steps = {revision: step_of(revision) for revision in dict.fromkeys(matched)}
    if without := [revision for revision, step in steps.items() if step is None]:
        if len(without) == len(steps):
            raise ValueError(f"no revision of {name} that matches {pattern!r} tells a step")
        log.warning("%s of %s tells no step and is passed over", ", ".join(without), name)
    return _one_series(name, {rev: step for rev, step in steps.items() if step is not None})


def _one_series(name: str, steps: Mapping[str, int]) -> dict[int, str]:
    """Step -> revision.

    Raises:
        ValueError: the names are of several kinds, whose steps do not count the same, or two of
            them tell the same step.
    """
    kinds = defaultdict(list)
    for revision in steps:
        kinds[_kind_of(revision)].append(revision)
    if len(kinds) > 1:
        listed = "; ".join(f"{kind}: {_some(revisions)}" for kind, revisions in kinds.items())
        raise ValueError(
            f"the revisions of {name} are of {len(kinds)} kinds, whose steps count each from "
            f"their own start ({listed}); choose one, as hub:{name}@{next(iter(kinds))}"
        )
    found: dict[int, str] = {}
    for revision, step in steps.items():
        if step in found:
            raise ValueError(f"{found[step]} and {revision} of {name} are both step {step}")
        found[step] = revision
    return found


def _some(texts: list[str]) -> str:
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")


@dataclass
class Revisions:
    """A `Source`. found: step -> NAME@REVISION, and the base as step 0.

    keep: how many downloads are on the disk at a time; None: all.
    """

    found: Mapping[int, str]
    tracker: HeadTracker
    dtype: str
    keep: int | None
    _downloads: list[list[Path]] = field(default_factory=list)

    def pending(self) -> list[Found]:
        """Those that have no record."""
        return [Found(s, name) for s, name in self.found.items() if not self.tracker.is_tracked(s)]

    @contextmanager
    def loaded(self, found: Found, device: str) -> Iterator[Model]:
        """The model of a revision, fetched for as long as it is measured.

        Raises:
            ValueError: it can't be fetched, or can't be loaded.
        """
        from analysis.models.loading import load_model

        name = str(found.path)
        fetched = _fetch(name) if hub.is_hub_name(name) else []
        try:
            yield load_model(name, self.dtype, device)
        finally:
            if fetched and self.keep is not None:
                self._downloads.append(fetched)
                while len(self._downloads) >= self.keep:
                    hub.remove(self._downloads.pop(0))

    def is_over(self, wait: bool) -> bool:
        """What is to come is known."""
        return True

    def left_out(self) -> list[str]:
        """None: one that can't be read is a failure."""
        return []


def _fetch(name: str) -> list[Path]:
    """Download the weights of a revision; the files of them that the cache had not.

    Raises:
        ValueError: it breaks off each time.
    """
    before: set[Path] | None = None
    for attempt in range(1, TRIES + 1):
        try:
            before = set(_weights(name, False)) if before is None else before
            return [file for file in _weights(name, True) if file not in before]
        except ValueError as error:
            if attempt == TRIES:
                raise
            log.warning("%s; it is tried again", error)
            time.sleep(PAUSE)
    raise AssertionError("the last try returns or raises")


def _weights(name: str, fetch: bool) -> list[Path]:
    return sorted(hub.place(name, weights=fetch).glob("*.safetensors"))
