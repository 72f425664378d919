"""Models of the Hugging Face hub: NAME, or NAME@REVISION (a branch, a tag or a commit).

Such a text stands wherever a directory may. It is resolved to one commit, once in a process, and
from there on to that commit's directory in the hub's cache, so that configuration, tokenizer,
weights and adapter are always of the same commit. Where the hub does not answer, the cache does.
"""

from __future__ import annotations

import logging
import re
from functools import cache
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

ANSWER = 10.0  # seconds that the hub has to answer in, before its cache is taken
SMALL = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "adapter_model.safetensors")
WEIGHTS = (*SMALL, "*.safetensors")
_COMMIT = re.compile(r"[0-9a-f]{40}")

log = logging.getLogger(__name__)


def split(text: str | Path) -> tuple[str, str | None]:
    """The name and the revision (None: not said) of a hub model; a directory is all name."""
    name, at, revision = str(text).rpartition("@")
    if not at or Path(text).expanduser().is_dir():
        return str(text), None
    return name, revision


def join(name: str, revision: str | None) -> str:
    """NAME@REVISION, or NAME where no revision is said."""
    return name if revision is None else f"{name}@{revision}"


def is_hub_name(text: str | Path) -> bool:
    """Whether a text stands for a model of the hub: no directory is there, nor meant."""
    place = str(text)
    return not place.startswith(("/", ".", "~")) and not Path(place).is_dir()


def commit_of(text: str | Path) -> str | None:
    """The commit that a hub model stands for in this process; None for a directory.

    Raises:
        ValueError: neither the hub nor its cache has it.
    """
    return _resolved(*split(text))[0] if is_hub_name(text) else None


def place(text: str | Path, weights: bool = False) -> Path:
    """The directory of a model: its own, with ~ expanded, or that of its commit in the cache.

    weights: with those of a whole model too; an adapter's are always there.

    Raises:
        ValueError: neither the hub nor its cache has it.
    """
    if not is_hub_name(text):
        return Path(text).expanduser()
    name, revision = split(text)
    commit, is_away = _resolved(name, revision)
    return _snapshot(name, commit, weights, is_away)


def revisions(name: str) -> list[str]:
    """The branches and tags of a hub model, in the hub's order.

    Raises:
        ValueError: the hub does not give them.
    """
    from huggingface_hub import list_repo_refs, model_info

    try:
        model_info(name, timeout=ANSWER)  # which says soon that the hub is away; the list does not
        refs = list_repo_refs(name)
    except Exception as error:  # of whichever network library the hub's client uses
        raise ValueError(
            f"the hub does not list the revisions of {name} ({reason(error)})"
        ) from error
    return list(dict.fromkeys(ref.name for ref in (*refs.branches, *refs.tags)))


def remove(files: list[Path]) -> None:
    """Take files of a model out of the hub's cache, and what they link to if no other one does."""
    for file in files:
        content = file.resolve()
        file.unlink(missing_ok=True)
        others = file.parents[1].glob(f"*/{file.name}")  # of other commits
        if content != file and all(other.resolve() != content for other in others):
            content.unlink(missing_ok=True)
    _snapshot.cache_clear()


class _NoBar(tqdm):
    """Of the number of files; each that is fetched has a bar of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


@cache
def _snapshot(name: str, commit: str, weights: bool, is_away: bool) -> Path:
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            name,
            revision=commit,
            allow_patterns=list(WEIGHTS if weights else SMALL),
            ignore_patterns=["*/*"],
            local_files_only=is_away,
            tqdm_class=_NoBar,
        )
    except Exception as error:  # of whichever network library the hub's client uses
        raise _unavailable(name, commit, error) from error
    return Path(found)


@cache
def _resolved(name: str, revision: str | None) -> tuple[str, bool]:
    """The commit of a revision, and whether the hub is away."""
    from huggingface_hub import model_info, snapshot_download
    from huggingface_hub.errors import OfflineModeIsEnabled, RevisionNotFoundError

    if revision is not None and _COMMIT.fullmatch(revision):
        return revision, False
    first: dict[str, Any] = {"revision": revision, "allow_patterns": ["*config.json"]}
    try:
        model_info(name, revision=revision, timeout=ANSWER)
        # notes in the cache which commit the revision is, for a day without the hub
        found = snapshot_download(name, **first, ignore_patterns=["*/*"], tqdm_class=_NoBar)
        return Path(found).name, False
    except RevisionNotFoundError as error:
        raise ValueError(f"{name} has no revision {revision!r} on the hub") from error
    except Exception as error:  # away, or no such name, or no right to see it
        failure = error
    try:
        cached = snapshot_download(name, **first, local_files_only=True)
    except Exception:
        raise _unavailable(name, revision, failure) from failure
    if not isinstance(failure, OfflineModeIsEnabled):
        log.warning(
            "the hub does not give %s now (%s); the cached commit %s is used",
            join(name, revision),
            reason(failure),
            Path(cached).name[:12],
        )
    return Path(cached).name, True


def _unavailable(name: str, revision: str | None, error: Exception) -> ValueError:
    return ValueError(
        f"{join(name, revision)!r} is neither a model directory here nor a model in the cache or "
        f"on the hub that can be reached now ({reason(error)})"
    )


def reason(error: Exception) -> str:
    """Why the hub did not do something, in one line."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return "it is gated: accept its terms on the hub, and set HF_TOKEN"
    if isinstance(error, RepositoryNotFoundError):
        return (
            "there is no such repository, or it is private: set HF_TOKEN, or log in with "
            "`hf auth login`"
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"status {status}: set HF_TOKEN to a token that may, or log in with `hf auth login`"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
