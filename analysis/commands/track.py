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
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.cli import key
from analysis.ranges import COUNT, NATURAL, POSITIVE
from analysis.tracking.settings import TrackingOptions

if TYPE_CHECKING:
    from analysis.live.watching import Source
    from analysis.models.loading import Model
    from analysis.prompts.pairs import Pairs
    from analysis.reporting.mirror_protocol import Mirror
    from analysis.tracking.tracker import HeadTracker


@dataclass
class Options:
    run: str = key("directory for the records and the report; may exist")
    checkpoints: Any = key(
        "glob, list [DIR,DIR,...] of models or adapters, or hub:NAME@step*", None
    )
    watch: str | None = key("directory that a trainer writes checkpoints to, to be followed", None)
    base: str | None = key(
        "model of step 0: directory or hub name; default: a watched run's own, or the hub's step 0",
        None,
    )
    pairs: str | None = key(
        "JSONL file of pairs (a run keeps its own in pairs.jsonl); default: a watched run's own",
        None,
    )
    tracking: TrackingOptions = field(default_factory=TrackingOptions)
    dtype: str = key("float32, float64 or bfloat16", "float32")
    redo: bool = key("measure steps again that have a record", False)
    every: int | None = key(
        "of the checkpoints, only those at every N steps and the last", None, COUNT
    )
    keep: int | None = key(
        "downloads of hub:NAME@... on the disk at a time; null: all stay in the cache", 1, COUNT
    )
    last: int | None = key(
        "watch: the step after which it ends; null: a signal ends it", None, COUNT
    )
    wait: bool = key("watch: follow what comes; false: do what is there, and end", True)
    settle: float = key(
        "watch: seconds without a change that make a checkpoint whole", 30.0, NATURAL
    )
    poll: float = key("watch: seconds between two looks at the directory", 5.0, POSITIVE)
    device: str = key("cpu, cuda:7, ...; default: a GPU if there is one", "auto")
    threads: int | None = key("threads of torch; default: torch's choice", None, COUNT)
    logger: Any = key("wandb, trackio, tensorboard, none, or a list of them", "wandb")
    wandb_mode: str = key("auto, online, offline or disabled", "auto")
    wandb_project: str = key("W&B project", "headlab")

    def __post_init__(self) -> None:
        if (self.checkpoints is None) == (self.watch is None):
            raise ValueError("give either checkpoints=... or watch=DIR")
        is_hub = self.watch is None and is_of_hub(self.checkpoints)
        own = self.watch is not None and (Path(self.run) / "base.json").is_file()
        missing = [
            f"{name}=..."
            for name, known in (("base", own or is_hub), ("pairs", own))
            if getattr(self, name) is None and not known
        ]
        if missing:
            raise ValueError(f"missing: {', '.join(missing)}")
        if self.redo and (self.watch is not None or is_hub):
            raise ValueError("redo=true is for checkpoints in directories; start another run")


def is_of_hub(given: object) -> bool:
    """Whether `checkpoints` means revisions of the hub.

    Raises:
        ValueError: it means directories too.
    """
    entries = [str(entry) for entry in (given if isinstance(given, list) else [given])]
    named = [entry for entry in entries if entry.startswith("hub:")]
    if named and len(named) < len(entries):
        raise ValueError("checkpoints names revisions of the hub (hub:...) and others; track each")
    return bool(named)


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


def start_tracker(options: Options) -> HeadTracker:
    """The tracker of the run, whose directory is made once the pairs are read.

    Raises:
        ValueError: the pairs can't be read, or the run was tracked otherwise.
    """
    from analysis.models.loading import load_tokenizer, load_tokenizer_if_any
    from analysis.prompts.pairs import Pairs, holds_text
    from analysis.records.checkpoints import own_tokenizer
    from analysis.tracking.tracker import HeadTracker

    assert options.base is not None and options.pairs is not None, "checked, or the run's"
    run, file = Path(options.run), Path(options.pairs).expanduser()
    if not file.is_file():
        raise ValueError(f"there is no pairs file {file}")
    find = load_tokenizer if holds_text(file) else load_tokenizer_if_any
    tokenizer = find(own_tokenizer(run) or options.base)
    pairs = Pairs.load(file, tokenizer, options.tracking.metric)
    _forget_unmeasured(run, options, pairs)
    tracker = HeadTracker(prepare_run(options), pairs, options.tracking.settings(), tokenizer)
    tracker.start()
    return tracker


def _forget_unmeasured(run: Path, options: Options, pairs: Pairs) -> None:
    """Remove what a command left that measured nothing, where this one is told otherwise."""
    from analysis.prompts.pairs import Pairs
    from analysis.records.record import recorded_steps
    from analysis.records.run_file import WITNESS, RunFile, is_run

    if not is_run(run) or RunFile.read(run).kind != "track" or recorded_steps(run / "heads"):
        return
    saved, frozen = _settings_there(run), run / "pairs.jsonl"
    differ = any(saved.get(n, value) != value for n, value in asdict(options.tracking).items())
    if differ or (frozen.exists() and Pairs.load(frozen).hash != pairs.hash):
        for name in ("run.json", WITNESS, "pairs.jsonl", "pairs.json"):
            (run / name).unlink(missing_ok=True)


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
    if options.watch is not None:
        _watch(options, options.watch)
    elif is_of_hub(options.checkpoints):
        _revisions(options)
    else:
        _all(options)


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
    if not todo:
        present(run, publisher, known=known)
    if publisher is not None:
        publisher.conclude()
    print(format_table(Run.read(run, known)))
    print(f"report: {run / 'report.html'}")


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
    from analysis.live.revisions import Revisions, find_revisions

    given = options.checkpoints if isinstance(options.checkpoints, list) else [options.checkpoints]
    found = find_revisions([str(entry) for entry in given])
    first = next(iter(found.items()))
    if options.base is None and first[0] != 0:
        raise ValueError(f"missing: base=...; the smallest step is {first[1]}")
    base = options.base or first[1]
    if found.setdefault(0, base) != base:
        raise ValueError(f"{base} and {found[0]} are both step 0")
    found = _at_every(options, dict(sorted(found.items())))
    options = replace(options, base=base)
    tracker = start_tracker(options)
    done = sum(tracker.is_tracked(step) for step in found)
    print(f"{len(found)} revisions, {done} of them tracked already", flush=True)
    _follow(options, tracker, Revisions(found, tracker, options.dtype, options.keep))


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
    _follow(options, tracker, source)
    if source.unreadable:
        raise ValueError(
            f"{len(source.unreadable)} checkpoints are in a form that is not read: "
            f"{source.unreadable}; convert them, as is said above, and start this again"
        )


def _follow(options: Options, tracker: HeadTracker, source: Source) -> None:
    from analysis.live.following import follow_to_the_end
    from analysis.live.watching import Watched

    follow_to_the_end(
        Watched(tracker.run, source, tracker),
        options.device,
        options.poll,
        options.wait,
        _mirrors(options),
    )


def of_run(options: Options) -> Options:
    """With what a run that a trainer has begun says of itself: base, pairs, type and settings.

    Raises:
        ValueError: something else was given than the run has.
    """
    from analysis.records.checkpoints import Base
    from analysis.records.run_file import RunFile

    run = Path(options.run)
    base = Base.read(run)
    if base is None:
        return options
    file = RunFile.read(run)
    saved = {**(file.tracking or {}), "fdr": file.fdr, "hysteresis": file.hysteresis}
    own, default = options.tracking, TrackingOptions()
    names = [entry.name for entry in fields(own)]
    given = {n: getattr(own, n) for n in names if getattr(own, n) != getattr(default, n)}
    if differ := [n for n in given if n in saved and saved[n] != given[n] and n != "batch_size"]:
        listed = ", ".join(f"tracking.{name}={saved[name]}" for name in differ)
        raise ValueError(f"{run} is tracked with {listed}; leave these keys out")
    if options.base not in (None, base.path, base.pinned):
        raise ValueError(f"{run} began with {base.path}; leave base= out")
    tracking = TrackingOptions(**{**{n: saved[n] for n in names if n in saved}, **given})
    pairs = options.pairs or str(run / "pairs.jsonl")
    return replace(options, tracking=tracking, base=base.pinned, pairs=pairs, dtype=base.dtype)
