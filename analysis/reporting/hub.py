"""A run as a data set on the Hugging Face hub: written in one commit, and read from there.

Uploaded is what shows a run and what it is compared by (PARTS): records with their scores, pairs,
logs, evaluations, report. No checkpoint, no tokenizer and nothing of W&B; of configurations the
values of keys that name a secret are masked, and a text that looks like a token is refused.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.files import read_json, write_json
from analysis.records.run_file import FILE, WITNESS
from analysis.records.secrets import redact, redact_yaml, tokens_in

if TYPE_CHECKING:
    from analysis.trajectories.run import Run

MARK = "hub:"  # what the name of such a run begins with
# patterns of the files below a run
PARTS = (
    *(FILE, WITNESS, "base.json", "pairs.json", "pairs.jsonl", "metrics.jsonl"),
    "base_pairs.jsonl",
    *("trajectory.json", "report.html"),
    *("heads/step-*/*", "evaluations/**/*.json", "interventions/**/*.json"),
    "needed/step-*.json",
)
_TEXT = (".json", ".jsonl", ".yaml", ".html", ".md")


def publish(run: Run, name: str, private: bool) -> str:
    """Upload a run to a data set, which is made if it is not there; the address of the commit.

    What the data set held of an earlier upload and the run no longer has is removed.

    Raises:
        ValueError: a file seems to hold a token, or the hub refuses; in one line.
    """
    from huggingface_hub import create_repo, upload_folder

    from analysis.models.hub import reason
    from analysis.reporting.hub_card import card
    from analysis.reporting.present import write_pages

    write_pages(run)
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        for file in parts(run.path):
            _copy(file, place / file.relative_to(run.path))
        pictures = _pictures(run, place)
        (place / "README.md").write_text(card(run, name, pictures), encoding="utf-8")
        _check_no_token(place)
        try:
            create_repo(name, repo_type="dataset", private=private, exist_ok=True)
            done = upload_folder(
                repo_id=name,
                folder_path=place,
                repo_type="dataset",
                commit_message=f"{run.label}: heads at {len(run.points)} checkpoints",
                delete_patterns=["*"],
            )
        except Exception as error:  # of whichever network library the hub's client uses
            raise ValueError(f"the hub does not take {name}: {reason(error)}") from error
    return str(done.commit_url)


def parts(run: Path) -> list[Path]:
    """The files of a run that are uploaded."""
    found = {file for pattern in PARTS for file in run.glob(pattern) if file.is_file()}
    return sorted(file for file in found if not file.name.startswith("."))


def _copy(source: Path, out: Path) -> None:
    """Copy a configuration, its secrets masked; link any other file."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if source.name == FILE:
        write_json(out, redact(read_json(source, object)))
    elif source.name == WITNESS:
        out.write_text(redact_yaml(source.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        out.symlink_to(source.resolve())


def _check_no_token(place: Path) -> None:
    for file in sorted(place.rglob("*")):
        if file.suffix in _TEXT and (found := tokens_in(file.read_text(encoding="utf-8"))):
            raise ValueError(
                f"{file.relative_to(place)} seems to hold a token ({found[0][:6]}...); nothing was "
                "uploaded: take it out, and have a new one made"
            )


def _pictures(run: Run, place: Path) -> list[str]:
    """Write the head map and the cohorts at the last checkpoint; their paths."""
    from analysis.reporting.rows import media

    made, names = media(run.points, run.path).pictures if run.points else {}, []
    for name, content in made.items():
        file = place / "figures" / f"{name.rpartition('/')[2]}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        names.append(file.relative_to(place).as_posix())
    return names


def is_on_hub(text: str | Path) -> bool:
    """Whether a text names a run on the hub: hub:ORG/NAME."""
    return str(text).startswith(MARK)


@cache
def fetched(text: str) -> Path:
    """The directory of a run on the hub, hub:ORG/NAME, in the hub's cache.

    Raises:
        ValueError: there is none that can be read, or the data set is no run.
    """
    from huggingface_hub import snapshot_download

    from analysis.models.hub import reason

    name = text.removeprefix(MARK)
    try:
        found = snapshot_download(name, repo_type="dataset", allow_patterns=list(PARTS))
    except Exception as error:  # of whichever network library the hub's client uses
        raise ValueError(f"the run {text} can't be read: {reason(error)}") from error
    if not (Path(found) / FILE).is_file():
        raise ValueError(f"{text} is no run: its data set holds no {FILE}")
    return Path(found)
