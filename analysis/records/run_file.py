"""What a run is: RUN/run.json, written by whoever trains or tracks, and read by all that shows it.

A directory with this file and records (or evaluations) is a run, whatever made it:

    RunFile("my-run", "track").write("runs/my-run")

RUN/config.yaml, where there is one, is a witness of what the program was told. It is shown, and
hashed in the records' origin; nothing is read out of it here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from analysis.files import as_form, read_json, write_json
from analysis.heads.changes import FDR, HYSTERESIS

FILE = "run.json"
WITNESS = "config.yaml"
SCHEMA = 1
MAX_HEAD_CURVES = 200


@dataclass(frozen=True)
class RunFile:
    """What is said of a run, beside its records.

    kind: what made it: sft, grpo, track, study, or a word of a program's own.
    signal: what the training is followed by, a name in RUN/metrics.jsonl (loss, reward), or None.
    tracking: how circuits are found, by the names of analysis/tracking/settings.py, or None.
    fdr, hysteresis: how heads are called and settled (analysis/trajectories/trajectory.py).
    wandb_project, max_head_curves: where W&B has it, and how many heads get a curve there.
    seed: of the training. base, dtype: of checkpoints tracked afterwards, the model of step 0, and
    the type its weights were measured in; a trainer says these in RUN/base.json.
    prompting: how a training asks, the fields of analysis/prompts/chat.py's `Prompting`; `suffixes`
    of the tasks it is evaluated on; `template`, a hash of its chat template.
    parts: how many pairs, distinct pairs, training rows and held-out problems a training has, in
    which no question is twice.

    Raises:
        ValueError: fdr, hysteresis or max_head_curves is out of range.
    """

    name: str
    kind: str
    signal: str | None = None
    tracking: dict[str, Any] | None = None
    fdr: float = FDR
    hysteresis: int = HYSTERESIS
    wandb_project: str = "headlab"
    max_head_curves: int = MAX_HEAD_CURVES
    seed: int | None = None
    base: str | None = None
    dtype: str | None = None
    prompting: dict[str, Any] | None = None
    parts: dict[str, int] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.fdr < 1:
            raise ValueError(f"fdr must lie in (0, 1), not {self.fdr}")
        if self.hysteresis < 1:
            raise ValueError(f"hysteresis must be 1 checkpoint or more, not {self.hysteresis}")
        if self.max_head_curves < 0:
            raise ValueError(f"max_head_curves must be 0 or more, not {self.max_head_curves}")

    def write(self, run: str | Path) -> None:
        """Write or replace the file of a run."""
        write_json(Path(run) / FILE, {"schema": SCHEMA, **asdict(self)})

    @classmethod
    def read(cls, run: str | Path) -> RunFile:
        """That of a run.

        Raises:
            ValueError: there is no such directory, it holds no run.json, or one that can't be read.
        """
        path = Path(run) / FILE
        if not Path(run).is_dir():
            raise ValueError(f"there is no run {run}; give a directory that training wrote")
        if not path.is_file():
            raise ValueError(_why_missing(Path(run)))
        try:
            content = read_json(path, object)
        except ValueError as error:
            raise ValueError(f"{error}; {_MEND}") from error
        if not isinstance(content, dict):
            raise ValueError(f"{path} can't be read (it is no JSON object); {_MEND}")
        schema = content.pop("schema", None)
        if schema != SCHEMA:
            raise ValueError(
                f"{path} has schema {schema} and this version reads {SCHEMA}; use the version that "
                f"wrote it, or {_MEND}"
            )
        for name in ("prompting", "parts"):  # trainings did not always say it
            content.setdefault(name, None)
        if differ := sorted({field.name for field in fields(cls)} ^ set(content)):
            what = "an unknown key" if differ[0] in content else "no key"
            raise ValueError(f"{path} has {what} {differ[0]!r}; {_MEND}")
        return as_form(content, cls, path)


_MEND = (
    "start what made the run again (a training with resume=auto, `headlab track` as it was): that "
    "writes run.json and measures nothing twice"
)


def _why_missing(run: Path) -> str:
    if (run / WITNESS).exists():
        return f"{run} holds no run.json, so an earlier version of headlab made it; {_MEND}"
    return f"{run} holds no run.json, so it is not a run; give runs/NAME itself"


def is_run(directory: str | Path) -> bool:
    """Whether a directory says that it is a run."""
    return (Path(directory) / FILE).is_file()


def configuration(run: str | Path) -> dict[str, Any]:
    """What W&B shows as the configuration of a run: config.yaml, or without it run.json.

    Raises:
        ValueError: it can't be read.
    """
    import yaml

    text, path = config_text(run), Path(run) / WITNESS
    try:
        found = yaml.safe_load(text) if text else asdict(RunFile.read(run))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if found is not None and not isinstance(found, dict):
        raise ValueError(f"{path} holds no keys")
    return dict(found or {})


def config_text(run: str | Path) -> str | None:
    """What the program that made a run was told, as it wrote it down; None if it did not.

    Raises:
        ValueError: it can't be read.
    """
    path = Path(run) / WITNESS
    try:
        return path.read_text(encoding="utf-8") if path.exists() else None
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} can't be read ({error})") from error
