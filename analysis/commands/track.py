"""Track the heads of checkpoints that exist already, as the callback of a trainer does live.

    headlab track run=runs/afterwards base=runs/my-run/base-model \\
        checkpoints='runs/my-run/checkpoint-*' pairs=runs/my-run/pairs.jsonl

`checkpoints` is a glob, or a list [DIR,DIR,...]: Hugging Face directories, PEFT adapters (analysed
attached to their base, unmerged) or hub names. The base is step 0; the step of a checkpoint is the
number at the end of its name (checkpoint-40, step_40), or its place in the list if no name has one.
Records, report and W&B rows are those of a training run; on the same checkpoint they are equal to
float tolerance. A step that has a record is skipped, so a stopped command can be started again;
redo=true measures again. A training run has the same settings (tracking.fraction=0.02, ...).
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.cli import key
from analysis.tracking.settings import TrackingOptions

if TYPE_CHECKING:
    from analysis.tracking.tracker import HeadTracker

_STEP = re.compile(r"(?:checkpoint|step|iter)[-_]?(\d+)$")


@dataclass
class Options:
    run: str = key("directory for the records and the report; may exist")
    checkpoints: Any = key("glob, or list [DIR,DIR,...], of models or adapters")
    base: str = key("model of step 0: directory or hub name")
    pairs: str = key("JSONL file of pairs (a run keeps its own in pairs.jsonl)")
    tracking: TrackingOptions = field(default_factory=TrackingOptions)
    dtype: str = key("float32, float64 or bfloat16", "float32")
    redo: bool = key("measure steps again that have a record", False)
    logger: Any = key("wandb, trackio, tensorboard, none, or a list of them", "wandb")
    wandb_mode: str = key("auto, online, offline or disabled", "auto")
    wandb_project: str = key("W&B project", "headlab")


def find_checkpoints(given: object, base: str) -> dict[int, str]:
    """Step -> path or hub name, the base as step 0, in order.

    Raises:
        ValueError: nothing is found, or two checkpoints have the same step.
    """
    paths: list[str] = []
    for entry in given if isinstance(given, list) else [str(given)]:
        if any(mark in entry for mark in "*?["):
            there = (
                sorted(str(path) for path in Path().glob(entry))
                if entry[0] != "/"
                else sorted(str(path) for path in Path("/").glob(entry.lstrip("/")))
            )
            found = [path for path in there if Path(path).is_dir()]
            if not found:
                raise ValueError(f"no directory matches checkpoints={entry}")
            paths += found
        else:
            paths.append(entry)
    numbers = [_STEP.search(Path(path).name) for path in paths]
    named = [int(number[1]) for number in numbers if number]
    if named and len(named) < len(paths):
        odd = [path for path, number in zip(paths, numbers, strict=True) if number is None]
        raise ValueError(f"some checkpoints end in a step and {odd[0]} does not; rename it")
    steps = named or list(range(1, len(paths) + 1))
    found_steps: dict[int, str] = {0: base}
    for step, path in sorted(zip(steps, paths, strict=True)):
        if step in found_steps and found_steps[step] != path:
            raise ValueError(f"{found_steps[step]} and {path} are both step {step}")
        found_steps[step] = path
    return found_steps


def prepare_run(options: Options) -> Path:
    """Make the run directory, or check that an existing one has the same settings.

    Raises:
        ValueError: naming each setting that differs, with the value that the run has.
    """
    import yaml

    from analysis.files import atomic_write
    from analysis.records.run_file import WITNESS, RunFile, is_run

    options.tracking.settings()  # a wrong one is said before anything is written
    run = Path(options.run)
    tracking = asdict(options.tracking)
    saved = _settings_there(run)
    differ = [
        f"tracking.{name}={'null' if saved[name] is None else saved[name]}"
        for name, value in tracking.items()
        if name in saved and saved[name] != value and name != "batch_size"
    ]
    if differ:
        raise ValueError(f"{run} was tracked with other settings; give {' '.join(differ)}")
    if is_run(run):
        return run
    if not (run / WITNESS).exists():
        content = {"name": run.name, "train": {"kind": "track"}, **asdict(options)}
        with atomic_write(run / WITNESS) as draft:
            draft.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    calls = {name: tracking.pop(name) for name in ("fdr", "hysteresis")}
    RunFile(
        name=run.name,
        kind="track",
        tracking=tracking,
        **calls,
        wandb_project=options.wandb_project,
        base=options.base,
        dtype=options.dtype,
    ).write(run)
    return run


def _settings_there(run: Path) -> dict[str, Any]:
    """What a run says that its heads are found with; without a run.json, what its records say.

    Raises:
        ValueError: a trainer made it, and it has no run.json.
    """
    from analysis.records.checkpoints import Base
    from analysis.records.record import read_record, recorded_steps
    from analysis.records.run_file import RunFile, is_run

    if is_run(run) or Base.read(run) is not None:
        file = RunFile.read(run)
        calls = {"fdr": file.fdr, "hysteresis": file.hysteresis}
        return {**(file.tracking or {}), **calls}
    records = (read_record(run, step) for step in recorded_steps(run / "heads"))
    return next((record.settings for record in records if record is not None), {})


def start_tracker(options: Options, run: Path) -> HeadTracker:
    """The tracker of the run, its pairs checked against those already there."""
    from analysis.models.loading import load_tokenizer, load_tokenizer_if_any
    from analysis.prompts.pairs import Pairs, holds_text
    from analysis.tracking.tracker import HeadTracker

    file = Path(options.pairs)
    if not file.is_file():
        raise ValueError(f"there is no pairs file {file}")
    find = load_tokenizer if holds_text(file) else load_tokenizer_if_any
    tokenizer = find(options.base)
    pairs = Pairs.load(file, tokenizer, options.tracking.metric)
    tracker = HeadTracker(run, pairs, options.tracking.settings(), tokenizer)
    tracker.start()
    return tracker


def act(options: Options) -> None:
    """Track every checkpoint that has no record, presenting each; print the table."""
    from transformers.utils import logging as transformers_logging

    from analysis.models.loading import DTYPES, load_model
    from analysis.reporting.mirror import open_mirrors
    from analysis.reporting.present import present
    from analysis.reporting.publish import Publisher
    from analysis.reporting.tables import format_table
    from analysis.trajectories.run import Run
    from analysis.trajectories.trajectory import Known

    if options.dtype not in DTYPES:
        raise ValueError(f"unknown dtype {options.dtype!r}; known: {', '.join(DTYPES)}")
    transformers_logging.disable_progress_bar()
    found = find_checkpoints(options.checkpoints, options.base)
    for path in found.values():
        if path.startswith(("/", ".", "~")) and not Path(path).is_dir():
            raise ValueError(f"there is no directory {path}")
    mirrors = open_mirrors(
        *("wandb", options.logger),
        adopt=False,
        mode=options.wandb_mode,
        project=options.wandb_project,
    )
    run = prepare_run(options)
    tracker = start_tracker(options, run)
    todo = {s: path for s, path in found.items() if options.redo or not tracker.is_tracked(s)}
    print(f"{len(found)} checkpoints, {len(found) - len(todo)} of them tracked already", flush=True)
    publisher = Publisher.start(run, mirrors)
    if publisher is not None:
        publisher.announce()
    known: Known = {}
    for count, (step, path) in enumerate(todo.items(), start=1):
        print(f"[{count}/{len(todo)}] step {step}: {path}", flush=True)
        tracker.track(load_model(path, options.dtype), step)
        present(run, publisher, known=known)
    if not todo:
        present(run, publisher, known=known)
    if publisher is not None:
        publisher.conclude()
    print(format_table(Run.read(run, known)))
    print(f"report: {run / 'report.html'}")
