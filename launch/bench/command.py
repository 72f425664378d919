"""What headlab costs: its training against the bare TRL script, and tracking's share of a run.

    headlab launch bench shape=tiny
    headlab launch bench shape=smollm2-135m kind=sft sides=bare,off repeats=5
    headlab launch bench shape=tiny kind=sft sides=bare,line      # what the line costs that
                                                                  # HeadTracking is hung on with

Every run is a fresh process. In each turn every side (launch/bench/runs.py) runs once, in an order
that is reversed from turn to turn. Compared are steps per second between saves
(launch/bench/pace.py); `x bare` is the ratio of a side's median to the bare script's. In brackets
stand the lowest and the highest of a turn. The comparison is refused unless all sides had the same
tokens in every step and, on a CPU, equal losses.

Tracking's share: the seconds that the records name (the sidecar's are spent in its process, not in
the run's), and by wall clock the part of the training that is not there with tracking off, which
counts reports and what a sidecar takes from the machine too.

On a machine that is doing something else the spread is wide and the medians mislead: the load
average is printed with every run; with one thread a process it should be 1, and 2 beside a sidecar.

On a GPU in bfloat16; then attribution on 64 pairs is timed and its memory measured as well.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from shutil import rmtree

from analysis import cli
from analysis.files import to_json
from analysis.reporting.text import text_table
from launch.bench.pace import WARM_UP, Pace, difference, read_pace
from launch.bench.runs import (
    KINDS,
    LOGGERS,
    SIDES,
    Options,
    build_model,
    commands,
    execute,
    gpu_name,
)

PACKAGES = ("torch", "transformers", "trl")
Turns = list[dict[str, Pace]]  # one a turn: side -> its run


def chosen(options: Options) -> tuple[list[str], list[str], list[str]]:
    """The kinds, sides and shapes that the options name.

    Raises:
        ValueError: a name is unknown, a number is too small, or there is nothing to compare with.
    """
    kinds = list(KINDS) if options.kind == "both" else [options.kind]
    sides = options.sides.split(",")
    known = (("kind", kinds, (*KINDS, "both")), ("sides", sides, SIDES))
    for name, values, allowed in (*known, ("logger", [options.logger], LOGGERS)):
        if unknown := [value for value in values if value not in allowed]:
            raise ValueError(f"{name} has {', '.join(unknown)}; choose from {', '.join(allowed)}")
    if "bare" not in sides:
        raise ValueError(f"sides is {options.sides}; add bare, which the others are compared with")
    for name in ("repeats", "save_steps", "batch", "tokens", "pairs", "threads"):
        if getattr(options, name) < 1:
            raise ValueError(f"{name} must be 1 or more, not {getattr(options, name)}")
    if options.steps < WARM_UP + 3 or options.save_steps < 2:
        raise ValueError(
            f"steps={options.steps} save_steps={options.save_steps} leave no step between saves; "
            f"give steps={WARM_UP + 3} or more and save_steps=2 or more"
        )
    shape = options.shape or ("qwen2.5-0.5b,qwen2.5-1.5b" if gpu_name() else "tiny")
    return kinds, sides, shape.split(",")


def measure(options: Options, kind: str, sides: Sequence[str], model: Path, scratch: Path) -> Turns:
    """Run every side in every turn; nothing of a run is kept but its pace.

    Raises:
        ValueError: a process failed, or the sides did not do the same work.
    """
    turns: Turns = []
    for turn in range(options.repeats):
        paces: dict[str, Pace] = {}
        for side in sides if turn % 2 == 0 else reversed(sides):
            started = time.monotonic()
            run = scratch / "run"
            execute(commands(options, kind, side, model, run), options.threads, scratch / "logs")
            paces[side] = read_pace(run)
            rmtree(run)
            seconds, load = time.monotonic() - started, os.getloadavg()[0]
            say(f"{kind} turn {turn + 1} {side}: {seconds:.0f} s, load average {load:.1f}")
        turns.append(paces)
        for side in sides:
            if found := difference(turns[0]["bare"], paces[side], exact=gpu_name() is None):
                raise ValueError(f"{kind}: bare and {side} differ, nothing is compared: {found}")
    return turns


def spread(values: Sequence[float], form: str) -> str:
    """`median [lowest-highest]`."""
    low, middle, high = (f"{f(values):{form}}" for f in (min, statistics.median, max))
    return f"{middle} [{low}-{high}]"


def ratio(values: Sequence[float], bare: Sequence[float]) -> str:
    """Ratio of the medians, and the lowest and the highest ratio of a turn."""
    turns = [a / b for a, b in zip(values, bare, strict=True)]
    middle = statistics.median(values) / statistics.median(bare)
    return f"{middle:.3f} [{min(turns):.3f}-{max(turns):.3f}]"


def table(turns: Turns, save_steps: int) -> list[str]:
    """One line a side, below 80 columns; tracking is counted as checkpoints x seconds of each."""
    speeds = {s: [paces[s].steps_per_second(save_steps) for paces in turns] for s in turns[0]}
    rows = [["", "steps/s", "x bare", "training, s", "tracking, s"]]
    for side, values in speeds.items():
        each = [seconds for paces in turns for seconds in paces[side].tracked]
        tracking = f"{len(turns[0][side].tracked)} x {statistics.median(each):.2g}" if each else "-"
        compared = "1" if side == "bare" else ratio(values, speeds["bare"])
        seconds = [paces[side].training for paces in turns]
        training = spread(seconds, ".0f" if min(seconds) >= 100 else ".3g")
        rows.append([side, spread(values, ".3g"), compared, training, tracking])
    return text_table(rows, "llllr")


def shares(turns: Turns) -> list[str]:
    """Sentences on the part of the training that tracking takes, in percent."""
    lines = []
    for side in ("line", "inline", "sidecar"):
        if side not in turns[0]:
            continue
        parts = []
        if side != "sidecar":
            own = [100 * sum(p[side].tracked) / p[side].training for p in turns]
            parts.append(f"{spread(own, '.0f')} %")
        if "off" in turns[0]:
            wall = [100 * (1 - p["off"].training / p[side].training) for p in turns]
            parts.append(f"by wall clock {spread(wall, '.0f')} %")
        lines.append(f"tracking's share of the run, {side}: {', '.join(parts) or 'needs side off'}")
    return lines


def same_work(turns: Turns) -> str:
    """What `measure` has checked, in words."""
    lines = turns[0]["bare"].lines
    what = "tokens" if gpu_name() else "tokens and losses"
    return f"equal {what} in every step ({lines[max(lines)]['num_tokens']:.0f} tokens in a run)"


def report(options: Options) -> None:
    """Measure, and print what was measured."""
    kinds, sides, shapes = chosen(options)
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in PACKAGES)
    machine = gpu_name() or platform.processor() or "CPU"
    say(f"{machine}, {os.cpu_count()} cores, {options.threads} thread(s) a process, {versions}")
    say(to_json(asdict(options)))
    if not gpu_name():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed's import warns of it
    for shape in shapes:
        with tempfile.TemporaryDirectory(prefix="headlab-bench-") as directory:
            scratch = Path(directory)
            model = build_model(shape, scratch / "model")
            for kind in kinds:
                turns = measure(options, kind, sides, model, scratch)
                say(f"\n{kind}, {shape}, {options.batch} x {options.tokens}: {same_work(turns)}")
                say("\n".join([*table(turns, options.save_steps), *shares(turns), ""]))
        if gpu_name():
            attribution(options, shape)


def attribution(options: Options, shape: str) -> None:
    """Time and peak memory of a checkpoint's attribution."""
    from analysis.commands import bench

    bench.act(
        bench.Options(shape=shape, batch=options.attribution_pairs, tokens=options.tokens, steps=6)
    )


def say(text: str) -> None:
    print(text, flush=True)


def main(argv: list[str]) -> None:
    """`headlab launch bench`, with its arguments."""
    cli.main(Options, __doc__ or "", report, argv)


if __name__ == "__main__":
    main(sys.argv[1:])
