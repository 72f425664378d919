"""Track the heads of checkpoints that exist already, or that any trainer is writing now.

    headlab track run=runs/afterwards base=runs/my-run/base-model \\
        checkpoints='runs/my-run/checkpoint-*' pairs=runs/my-run/pairs.jsonl
    headlab track run=runs/live watch=DIR base=NAME pairs=FILE last=500
    headlab track run=runs/pythia checkpoints='hub:EleutherAI/pythia-160m@step*' pairs=FILE

`checkpoints` is a glob, or a list [DIR,DIR,...]: Hugging Face directories, PEFT adapters (analysed
attached to their base, unmerged) or hub names; the weights may lie below, as in
global_step_N/actor/huggingface. The base is step 0; the step of a checkpoint is the number at the
end of its name (checkpoint-40, step_40, iter_0000040, epoch_4), or its place in the list if no name
has one. hub:NAME@PATTERN is a checkpoint for each branch or tag that matches, with step 0 as the
base; one download is on the disk at a time (`keep`).

`watch` follows a directory that a trainer writes to, from another process or machine, and tracks a
checkpoint once it is whole: weights and shards there, and the trainer says so or nothing has
changed for `settle` seconds. It ends after the step `last`, or with Ctrl-C or SIGTERM after the
current checkpoint; several may share the work. Where DIR is a run (RUN/base.json, RUN/pairs.jsonl),
give run=DIR too: base, pairs and settings are the run's.

Records, report and W&B rows are those of a training run; on the same checkpoint they are equal to
float tolerance. A step that has a record is skipped, so a stopped command can be started again;
redo=true measures again. A training run has the same settings (tracking.fraction=0.02, ...).

plan=true only says what memory and time that will take: the base is loaded and measured on a few of
the pairs, and nothing is written.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.commands.tracked_run import Options, is_of_hub, of_run, start_tracker

if TYPE_CHECKING:
    from analysis.live.watching import Source
    from analysis.models.loading import Model
    from analysis.reporting.mirror_protocol import Mirror
    from analysis.tracking.tracker import HeadTracker


def find_checkpoints(given: object, base: str) -> dict[int, str]:
    """Step -> path or hub name, the base as step 0, in order.

    Raises:
        ValueError: nothing is found, two checkpoints have the same step, or the weights of one are
            in a form that is not read.
    """
    from analysis.live.forms import is_pattern, matching, step_in

    paths: list[str] = []
    for entry in given if isinstance(given, list) else [str(given)]:
        if is_pattern(entry):
            found = [str(path) for path in matching(entry)]
            if not found:
                raise ValueError(f"no directory matches checkpoints={entry}")
            paths += found
        else:
            paths.append(entry)
    numbers = [step_in(Path(path).name) for path in paths]
    named = [number for number in numbers if number is not None]
    if named and len(named) < len(paths):
        odd = [path for path, number in zip(paths, numbers, strict=True) if number is None]
        raise ValueError(f"some checkpoints end in a step and {odd[0]} does not; rename it")
    steps = named or list(range(1, len(paths) + 1))
    found_steps: dict[int, str] = {0: base}
    for step, path in sorted(zip(steps, paths, strict=True)):
        if step in found_steps and found_steps[step] != path:
            raise ValueError(f"{found_steps[step]} and {path} are both step {step}")
        found_steps[step] = path
    return {step: path if step == 0 else _weights(path) for step, path in found_steps.items()}


def _weights(path: str) -> str:
    """The directory of a checkpoint's weights, which may lie below it.

    Raises:
        ValueError: they are in a form that is not read; or it holds those of several models.
    """
    from analysis.live.forms import foreign, weights_in

    place = Path(path).expanduser()
    if not place.is_dir():
        return path
    weights = weights_in(place)
    if weights is None and (line := foreign(place)) is not None:
        raise ValueError(line)
    return path if weights in (None, place) else str(weights)


def act(options: Options) -> None:
    """Track every checkpoint that has no record, presenting each; print the table."""
    import torch
    from transformers.utils import logging as transformers_logging

    from analysis.models.loading import DTYPES

    if options.dtype not in DTYPES:
        raise ValueError(f"unknown dtype {options.dtype!r}; known: {', '.join(DTYPES)}")
    transformers_logging.disable_progress_bar()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.plan:
        from analysis.commands.track_plan import say

        say(options, _steps(options))
    elif options.watch is not None:
        _watch(options, options.watch)
    elif is_of_hub(options.checkpoints):
        _revisions(options)
    else:
        _all(options)


def _steps(options: Options) -> dict[int, str] | None:
    """The checkpoints that are there, step 0 among them; None where they are still to come."""
    if options.watch is not None:
        return None
    if is_of_hub(options.checkpoints):
        return _at_every(options, _hub_steps(options))
    assert options.base is not None, "checked"
    return _at_every(options, find_checkpoints(options.checkpoints, options.base))


def _all(options: Options) -> None:
    """Track models and adapters that are there, one after the other."""
    from analysis.models.loading import load_model
    from analysis.reporting.present import present
    from analysis.reporting.publish import Publisher
    from analysis.reporting.tables import format_table
    from analysis.trajectories.run import Run
    from analysis.trajectories.trajectory import Known

    assert options.base is not None, "checked"
    found = _at_every(options, find_checkpoints(options.checkpoints, options.base))
    for path in found.values():
        if path.startswith(("/", ".", "~")) and not Path(path).is_dir():
            raise ValueError(f"there is no directory {path}")
    mirrors = _mirrors(options)
    tracker = start_tracker(options)
    run = tracker.run
    todo = {s: path for s, path in found.items() if options.redo or not tracker.is_tracked(s)}
    print(f"{len(found)} checkpoints, {len(found) - len(todo)} of them tracked already", flush=True)
    publisher = Publisher.start(run, mirrors)
    if publisher is not None:
        publisher.announce()
    known: Known = {}
    for count, (step, path) in enumerate(todo.items(), start=1):
        print(f"[{count}/{len(todo)}] step {step}: {path}", flush=True)
        tracker.track(load_model(path, options.dtype, options.device, bare=options.base), step)
        present(run, publisher, known=known)
    if _ask(options, tracker, found, todo) or not todo:
        present(run, publisher, known=known)
    if publisher is not None:
        publisher.conclude()
    print(format_table(Run.read(run, known)))
    print(f"report: {run / 'report.html'}")


def _ask(
    options: Options, tracker: HeadTracker, found: dict[int, str], todo: dict[int, str]
) -> bool:
    """Whether the called heads of the last checkpoint are needed; whether it was measured."""
    from analysis.live.needed_at_end import ask_at_end, loaded
    from analysis.models.loading import load_model

    step, most = max(found), options.tracking.needed
    if step not in todo or step == 0 or most == 0:
        return False

    def load(path: str) -> Model:
        return load_model(path, options.dtype, options.device, bare=options.base)

    model, base = (partial(load, found[which]) for which in (step, 0))
    return ask_at_end(tracker, step, loaded(model), base, most)


def _mirrors(options: Options) -> list[Mirror]:
    """The loggers of the run."""
    from analysis.reporting.mirror import open_mirrors

    return open_mirrors(
        *("wandb", options.logger),
        adopt=False,
        mode=options.wandb_mode,
        project=options.wandb_project,
    )


def _at_every(options: Options, found: dict[int, str]) -> dict[int, str]:
    """Those of some checkpoints that `every` leaves: also the first and the last."""
    from analysis.live.schedule import Schedule

    if options.every is None:
        return found
    schedule = Schedule.parse(f"every:{options.every}")
    return {step: path for step, path in found.items() if schedule.includes(step, max(found))}


def _revisions(options: Options) -> None:
    """Track the revisions of a model on the hub."""
    from analysis.live.revisions import Revisions

    found = _hub_steps(options)
    options = replace(options, base=found[0])
    found = _at_every(options, found)
    tracker = start_tracker(options)
    done = sum(tracker.is_tracked(step) for step in found)
    print(f"{len(found)} revisions, {done} of them tracked already", flush=True)
    _follow(options, tracker, Revisions(found, tracker, options.dtype, options.keep))


def _hub_steps(options: Options) -> dict[int, str]:
    """Revisions on the hub by step, the base as step 0."""
    from analysis.live.revisions import find_revisions

    given = options.checkpoints if isinstance(options.checkpoints, list) else [options.checkpoints]
    found = find_revisions([str(entry) for entry in given])
    first = next(iter(found.items()))
    if options.base is None and first[0] != 0:
        raise ValueError(f"missing: base=...; the smallest step is {first[1]}")
    base = options.base or first[1]
    if found.setdefault(0, base) != base:
        raise ValueError(f"{base} and {found[0]} are both step 0")
    return dict(sorted(found.items()))


def _watch(options: Options, root: str) -> None:
    """Follow a directory."""
    from analysis.live.directories import Directory
    from analysis.live.forms import is_pattern
    from analysis.models.loading import load_model

    place = Path(root).expanduser()
    if not is_pattern(root) and not place.is_dir():
        if not options.wait:
            raise ValueError(f"there is no directory {root}")
        print(f"waiting for {root}", flush=True)
    options = of_run(options)
    base, dtype = options.base, options.dtype
    assert base is not None, "checked, or the run's"
    tracker = start_tracker(options)

    def load(weights: Path | None, device: str) -> Model:
        return load_model(weights or base, dtype, device, base=base, bare=base)

    source = Directory(place, base, load, tracker, options.settle, options.last)
    _follow(options, tracker, source, options.tracking.needed)
    if source.unreadable:
        raise ValueError(
            f"{len(source.unreadable)} checkpoints are in a form that is not read: "
            f"{source.unreadable}; convert them, as is said above, and start this again"
        )


def _follow(options: Options, tracker: HeadTracker, source: Source, needed: int | None = 0) -> None:
    """needed: see `Watched`."""
    from analysis.live.following import follow_to_the_end
    from analysis.live.watching import Watched

    follow_to_the_end(
        Watched(tracker.run, source, tracker, needed=needed),
        options.device,
        options.poll,
        options.wait,
        _mirrors(options),
    )
