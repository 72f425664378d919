"""What an attribution will need in memory and time, before it is run.

A few of the pairs are attributed, or where that is soon done as many batches as take some seconds,
and what that took is scaled to all: time with the tokens that go through the model, memory with
what is known to be kept (analysis/attribution/memory.py). So the
speed of the machine, the points that pairs need, and the gaps that the C library leaves between
what goes and what stays are measured and not guessed.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from analysis.attribution.choosing import AUTO, recomputes
from analysis.attribution.eap import MEMORY_BUDGET, attribute
from analysis.attribution.edge_scores import EdgeScores
from analysis.attribution.graph_bytes import GraphBytes, graph_bytes
from analysis.attribution.memory import Need, Sizes, need
from analysis.attribution.precision import check_dtype, copied, unchecked
from analysis.attribution.quadrature import fewest_points
from analysis.detection.detect import anatomy
from analysis.models.allocator import return_freed_memory
from analysis.models.copies import ungrouped
from analysis.models.preserve import preserved
from analysis.models.room import free_memory
from analysis.prompts.pairs import Pairs

T = TypeVar("T")
TRIED = 4  # pairs; on a GPU, which does many at once as fast as a few, a whole batch
# seconds that whole batches may take, by that trial, to be tried as well: of a small model a few
# pairs take as long as many
ENOUGH = 15.0
GAP_UNKNOWN = 1.5  # where the process can't be watched (docs/LOG.md)


@dataclass(frozen=True)
class Forecast:
    """What attributing some pairs will need.

    recompute: whether layers are run twice. tried: pairs that were attributed. seconds: of all
    pairs; peak: bytes of the process, or on a GPU of what is allocated there. other: the peak with
    recompute the other way. free: bytes beside what the process has now; None: not known.
    points: of a pair, the mean, the least and the most of those that were tried.
    """

    recompute: bool
    tried: int
    seconds: float
    peak: int
    other: int
    now: int
    free: int | None
    points: tuple[float, int, int]

    @property
    def fits(self) -> bool:
        """Whether the peak is no more than what is free."""
        return self.free is None or self.peak - self.now <= self.free


def forecast(model: nn.Module, pairs: Pairs, **settings: Any) -> tuple[Forecast, EdgeScores]:
    """The forecast, and the scores of the pairs that were tried.

    settings: of `attribute`.

    Raises:
        ValueError: as `attribute`; of the method exact, which is for small models.
    """
    if settings.get("method") == "exact":
        raise ValueError("plan: what method=exact needs is not predicted; it is for small models")
    size = int(settings.get("batch_size", 8))
    loading = _status("VmHWM")  # of this process so far
    parts = anatomy(model, settings.get("kv", "grouped"))
    with preserved(model), ungrouped(parts):
        wanted = settings.get("recompute", AUTO)
        twice = recomputes(wanted, parts, pairs, size, MEMORY_BUDGET)
        kept, sizes = graph_bytes(parts), Sizes.of(parts)
    settings["recompute"] = twice
    tried = some_of(pairs, size if parts.device.type == "cuda" else min(size, TRIED))
    attribute(model, some_of(pairs, 1), **settings | first_pass(settings))  # the proof, and warm
    scores, seconds, before, peak = measured(
        lambda: attribute(model, tried, **settings), parts.device
    )
    if (more := batches_within(ENOUGH, pairs, size, seconds / tokens_in(tried, size))) > len(tried):
        tried = some_of(pairs, more)
        scores, seconds, before, peak = measured(
            lambda: attribute(model, tried, **settings), parts.device
        )
    used = scores.points
    assert used is not None
    steps = AUTO if settings.get("ig_steps") == AUTO else int(used.max())
    points = fewest_points(settings.get("method", ""), steps)
    later = float(used.double().mean()) - points
    of_tried, once, again = (
        _need(sizes, some, min(size, len(some)), points, later, how, kept)
        for some, how in ((tried, twice), (pairs, False), (pairs, True))
    )
    gaps = max(1.0, (peak - before) / of_tried.above) if peak > before else GAP_UNKNOWN
    all_scores = 2 * len(pairs) * scores.per_pair[0].numel() * scores.per_pair.element_size()
    peaks = [before + int(gaps * each.above) + all_scores for each in (once, again)]
    if parts.device.type != "cuda":
        peaks = [max(loading, each) for each in peaks]
    found = Forecast(
        recompute=twice,
        tried=len(tried),
        seconds=seconds * tokens_in(pairs, size) / tokens_in(tried, size),
        peak=peaks[twice],
        other=peaks[not twice],
        now=before,
        free=free_memory(parts.device),
        points=(float(used.double().mean()), int(used.min()), int(used.max())),
    )
    return found, scores


def _need(
    sizes: Sizes,
    pairs: Pairs,
    size: int,
    points: int,
    later: float,
    twice: bool,
    kept: GraphBytes,
) -> Need:
    length = max(len(pair.clean_ids) for pair in pairs)
    return need(sizes, kept, size, length, MEMORY_BUDGET, points, later, twice)


def some_of(pairs: Pairs, count: int) -> Pairs:
    """So many of the pairs, of all lengths."""
    order = sorted(range(len(pairs)), key=lambda row: len(pairs[row].clean_ids))
    count = min(count, len(order))
    places = [round((2 * i + 1) * len(order) / (2 * count) - 0.5) for i in range(count)]
    return Pairs([pairs[order[place]] for place in places])


def tokens_in(pairs: Pairs, batch_size: int) -> int:
    """Tokens of the pairs in their batches, padding included."""
    return sum(batch.clean.numel() for batch in pairs.batches(batch_size))


def check_forecast(
    model: nn.Module, found: Forecast, pairs: Pairs, scores: EdgeScores, settings: dict[str, Any]
) -> tuple[float, int]:
    """Seconds and the peak of `check_dtype`, which is done where there is room for it.

    pairs, scores: of `forecast`. settings: of `attribute`.
    """
    if unchecked(model) is not None:
        return 0.0, 0
    room = copied(model) + 2 * (found.peak - found.now)  # at most, of floats twice as wide
    if found.free is not None and room > found.free:
        return found.seconds, found.now + room
    device = next(model.parameters()).device
    _, seconds, _, peak = measured(lambda: check_dtype(model, pairs, scores, **settings), device)
    return seconds, peak


def batches_within(limit: float, pairs: Pairs, batch_size: int, of_token: float) -> int:
    """How many pairs, in whole batches or all, take at most so many seconds; of_token: of one."""
    seconds = of_token * tokens_in(pairs, batch_size)
    if seconds <= limit:
        return len(pairs)
    return int(limit / seconds * len(pairs) / batch_size) * batch_size


def first_pass(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that make an attribution as short as it can be."""
    return {} if isinstance(settings.get("ig_steps", 5), str) else {"ig_steps": 1}


def measured(act: Callable[[], T], device: torch.device) -> tuple[T, float, int, int]:
    """What `act` gives, its seconds, and the bytes in use before it and at most.

    On a GPU of what torch has allocated there, elsewhere of the process, on Linux; where that can't
    be told, the two are equal.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        began = time.perf_counter()
        found = act()
        torch.cuda.synchronize(device)
        return found, time.perf_counter() - began, before, torch.cuda.max_memory_allocated(device)
    gc.collect()
    return_freed_memory()  # else what is free in the heap would hide what is used
    before, known = _status("VmRSS"), _reset_peak()
    began = time.perf_counter()
    found = act()
    seconds = time.perf_counter() - began
    return found, seconds, before, max(before, _status("VmHWM") if known else 0)


@contextmanager
def quietly() -> Iterator[None]:
    """Inside, attribution does not tell how it goes about a batch."""
    logger = logging.getLogger("analysis.attribution.eap")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes; 0 where there is none."""
    try:
        text = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(text.split(f"{name}:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return 0


def _reset_peak() -> bool:
    """Let VmHWM begin anew; whether that is allowed."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True
