"""The files that a run is made from, by what they hold: RUN/inputs.json, compared on resume.

A data file or a base model that was edited makes another run, and nothing else would notice. Every
file is hashed whole. To hash a large model again would cost as long as to read it, so a file that
has the size and the time of its last change that were noted is taken for the same; the first start
hashes some GB a second, several files at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from analysis.files import as_form, read_json, write_json

INPUTS = "inputs.json"
# of a model's directory, what shapes a training: weights, configuration, tokenizer, template
MODEL_FILES = (
    *("*.safetensors", "*.safetensors.index.json", "*.jinja", "*.model", "*.txt", "*config.json"),
    *("tokenizer*.json", "vocab.json", "added_tokens.json", "special_tokens_map.json"),
    "chat_template.json",
)
_READERS = 4


def input_files(cfg: DictConfig) -> dict[str, Path]:
    """The local files of a configuration, each by its key (of a model: key and name)."""
    found = {}
    sources = {
        "data.source": cfg.data.source,
        "evaluation.source": cfg.evaluation.source if cfg.evaluation.enabled else None,
        "pairs.source": cfg.pairs.source,
        "pairs.path": cfg.pairs.path if cfg.pairs.kind == "file" else None,
    }
    sources |= {f"evaluation.tasks {task}": task for task in cfg.evaluation.tasks}
    for key, source in sources.items():
        place = Path(str(source).partition(":")[2] if ":" in str(source) else str(source))
        if source is not None and place.is_file():
            found[key] = place
    base = Path(cfg.model.path) if cfg.model.path is not None else None
    if base is not None and base.is_dir():
        names = {path for pattern in MODEL_FILES for path in base.glob(pattern)}
        found |= {f"model.path {path.name}": path for path in sorted(names) if path.is_file()}
    return found


@dataclass
class _Input:
    """What is noted of a file: bytes, time of its last change, hash."""

    size: int
    mtime_ns: int
    sha256: str


def _stamp(path: Path) -> dict[str, Any]:
    about = path.stat()
    return {"size": about.st_size, "mtime_ns": about.st_mtime_ns}


def _hash(path: Path) -> str:
    with open(path, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _described(
    files: dict[str, Path], known: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Size, time and hash of each file; the hash of an unchanged one is that which is known."""
    stamps = {key: _stamp(path) for key, path in files.items()}
    todo = [
        key
        for key, stamp in stamps.items()
        if any(known.get(key, {}).get(name) != value for name, value in stamp.items())
    ]
    with ThreadPoolExecutor(_READERS) as pool:
        hashes = dict(zip(todo, pool.map(lambda key: _hash(files[key]), todo), strict=True))
    for key, stamp in stamps.items():
        yield key, {**stamp, "sha256": hashes.get(key) or known[key]["sha256"]}


def _saved(run: Path) -> dict[str, Any] | None:
    path = run / INPUTS
    if not path.exists():
        return None
    try:
        saved = read_json(path, dict[str, Any]).get("files")
        return {key: vars(of) for key, of in as_form(saved, dict[str, _Input], path).items()}
    except ValueError as error:
        raise ValueError(f"{error}; restore it, or name another run") from None


def check_inputs(run: Path, cfg: DictConfig) -> None:
    """Raise ValueError if a file that a run was made from holds something else now.

    A run of an earlier version has noted none, and is not checked.
    """
    saved = _saved(run)
    if saved is None:
        return
    files = input_files(cfg)
    now = dict(_described(files, saved))
    changed = [
        f"{key} ({files[key]})" if key in files else f"{key} (gone)"
        for key in sorted({*saved, *now})
        if saved.get(key, {}).get("sha256") != now.get(key, {}).get("sha256")
    ]
    if changed:
        raise ValueError(
            f"{run} was made from files that hold something else now: {', '.join(changed)}. "
            "Restore them, or start a run under another name"
        )


def note_inputs(run: Path, cfg: DictConfig) -> None:
    """Write what the files of a run hold; those that are noted already are not read again."""
    files = dict(_described(input_files(cfg), _saved(run) or {}))
    write_json(run / INPUTS, {"schema": 1, "files": files})
