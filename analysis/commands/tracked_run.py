"""What `headlab track` is told, and the run that it keeps: directory, settings and pairs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.cli import key
from analysis.ranges import COUNT, NATURAL, POSITIVE
from analysis.tracking.settings import TrackingOptions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from analysis.prompts.pairs import Pairs
    from analysis.tracking.tracker import HeadTracker


# may differ from what a run was tracked with
FREE = ("batch_size", "recompute", "needed", "patterns")


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
    plan: bool = key("only say what memory and time it will take; writes nothing", False)
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
        if name in saved and saved[name] != value and name not in FREE
    ]
    if differ:
        raise ValueError(f"{run} was tracked with other settings; give {' '.join(differ)}")
    if is_run(run):
        return run
    if not (run / WITNESS).exists():
        content = {"name": run.name, "train": {"kind": "track"}, **asdict(options)}
        with atomic_write(run / WITNESS) as draft:
            draft.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    del tracking["base_pairs"]  # of how pairs are made
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
    from analysis.records.record_files import read_record, recorded_steps
    from analysis.records.run_file import RunFile, is_run

    if is_run(run) or Base.read(run) is not None:
        file = RunFile.read(run)
        calls = {"fdr": file.fdr, "hysteresis": file.hysteresis}
        return {**(file.tracking or {}), **calls}
    records = (read_record(run, step) for step in recorded_steps(run / "heads"))
    return next((record.settings for record in records if record is not None), {})


def read_pairs(options: Options) -> tuple[Pairs, PreTrainedTokenizerBase | None]:
    """The pairs, and the tokenizer that reads them.

    Raises:
        ValueError: they can't be read.
    """
    from analysis.models.loading import load_tokenizer, load_tokenizer_if_any
    from analysis.prompts.pairs import holds_text
    from analysis.records.checkpoints import own_tokenizer
    from analysis.tracking.further import pairs_of_file

    assert options.base is not None and options.pairs is not None, "checked, or the run's"
    run, file = Path(options.run), Path(options.pairs).expanduser()
    if not file.is_file():
        raise ValueError(f"there is no pairs file {file}")
    find = load_tokenizer if holds_text(file) else load_tokenizer_if_any
    tokenizer = find(own_tokenizer(run) or options.base)
    tracking = options.tracking
    return pairs_of_file(file, tokenizer, tracking.metric, tracking.base_pairs), tokenizer


def start_tracker(options: Options) -> HeadTracker:
    """The tracker of the run, whose directory is made once the pairs are read.

    Raises:
        ValueError: the pairs can't be read, or the run was tracked otherwise.
    """
    from analysis.tracking.tracker import HeadTracker

    run, (pairs, tokenizer) = Path(options.run), read_pairs(options)
    times = options.tracking.base_pairs
    _forget_unmeasured(run, options, pairs)
    tracker = HeadTracker(prepare_run(options), pairs, options.tracking.settings(), tokenizer)
    tracker.start()
    if times > 1 and not tracker.is_tracked(0):
        _tell_further(tracker, tokenizer, Path(str(options.pairs)).expanduser(), times)
    return tracker


def _tell_further(
    tracker: HeadTracker, tokenizer: PreTrainedTokenizerBase | None, file: Path, times: int
) -> None:
    """Print what the base is going to be measured on."""
    from analysis.prompts.pairs import Pairs
    from analysis.tracking.further import beside, freeze_further, shortage

    further = freeze_further(tracker.run, None, tokenizer)
    said = shortage(Pairs(tracker.pairs, further=further), times)
    if said is None:
        count = 0 if further is None else len(further)
        print(
            f"the base is measured on {count} further pairs too (tracking.base_pairs)", flush=True
        )
    else:
        print(f"{said}; {beside(file)} is where more of them are looked for", flush=True)


def _forget_unmeasured(run: Path, options: Options, pairs: Pairs) -> None:
    """Remove what a command left that measured nothing, where this one is told otherwise."""
    from analysis.files import read_json
    from analysis.prompts.pairs import Pairs
    from analysis.records.record_files import recorded_steps
    from analysis.records.run_file import WITNESS, RunFile, is_run
    from analysis.tracking.further import FILE

    if not is_run(run) or RunFile.read(run).kind != "track" or recorded_steps(run / "heads"):
        return
    saved, frozen, about = _settings_there(run), run / "pairs.jsonl", run / "pairs.json"
    differ = any(saved.get(n, value) != value for n, value in asdict(options.tracking).items())
    if differ or (frozen.exists() and Pairs.load(frozen).hash != pairs.hash):
        made = read_json(about, dict[str, Any]).get("further") if about.exists() else None
        if made is not None and (run / FILE).exists() and Pairs.load(run / FILE).hash == made:
            (run / FILE).unlink()  # else it was given
        for name in ("run.json", WITNESS, "pairs.jsonl", "pairs.json"):
            (run / name).unlink(missing_ok=True)


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
    if differ := [n for n in given if n in saved and saved[n] != given[n] and n not in FREE]:
        listed = ", ".join(f"tracking.{name}={saved[name]}" for name in differ)
        raise ValueError(f"{run} is tracked with {listed}; leave these keys out")
    if options.base not in (None, base.path, base.pinned):
        raise ValueError(f"{run} began with {base.path}; leave base= out")
    tracking = TrackingOptions(**{**{n: saved[n] for n in names if n in saved}, **given})
    pairs = options.pairs or str(run / "pairs.jsonl")
    return replace(options, tracking=tracking, base=base.pinned, pairs=pairs, dtype=base.dtype)
