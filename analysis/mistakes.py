"""Which exceptions come of what a user gave, and each of these as one line.

Of our own code a ValueError is such a mistake, and an OSError such a surprise. Libraries have many
more: a template that jinja2 can't render, a damaged safetensors file, an answer of the hub, a
column that pyarrow can't read, a value that pydantic refuses, memory that runs out. All that is not
known here is a fault of the program, and its traceback is what helps.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 500  # characters of a library's message

# their own exceptions are about what they were given
_LIBRARIES = (
    *("jinja2", "safetensors", "safetensors_rust", "huggingface_hub", "pyarrow", "datasets"),
    *("pydantic", "pydantic_core", "omegaconf", "yaml", "msgspec", "deepspeed"),
)
_OWN = ("analysis", "train", "launch", "headlab")
_PLAIN = (ValueError, OSError, zipfile.BadZipFile, pickle.UnpicklingError)
# torch and the tokenizers raise RuntimeError, IndexError and Exception; their words tell
_WORDS = {
    r"size mismatch for|Error\(s\) in loading state_dict": "weights do not fit their model",
    r"index out of range in self": "a token's id lies beyond the model's embedding: the tokenizer "
    "belongs to another model, or has tokens that the model never got",
    r"PytorchStreamReader|unexpected EOF, expected|Invalid magic number": "a file is damaged",
}
_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


class Mistake(ValueError):
    """What a library has said of what a user gave, in one line."""


def one_line(error: BaseException) -> str:
    """What an exception says, its lines joined, not longer than LONGEST.

    >>> one_line(OSError(2, "No such file or directory", "a.txt"))
    'a.txt: No such file or directory'
    """
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."


def as_line(error: BaseException) -> str | None:
    """One line about a user's mistake, or None for a fault of the program.

    >>> as_line(ValueError("size must be at least 1, not 0"))
    'size must be at least 1, not 0'
    >>> as_line(KeyError("layer"))
    """
    if (line := out_of_memory(error)) is not None:
        return line
    if isinstance(error, _PLAIN):
        return one_line(error)
    if isinstance(error, ImportError):
        missing = (error.name or "").partition(".")[0]
        return None if missing in _OWN else f"a package is missing: {one_line(error)}"
    homes = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    if homes.intersection(_LIBRARIES):
        return f"{type(error).__name__}: {one_line(error)}"
    if isinstance(error, RuntimeError | IndexError):
        for words, meaning in _WORDS.items():
            if re.search(words, str(error)):
                return f"{meaning} ({one_line(error)})"
    if type(error) is Exception:  # of the tokenizers' Rust code
        return one_line(error)
    return None


def out_of_memory(error: BaseException) -> str | None:
    """One line, if an exception says that memory ran out."""
    by_name = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)
    if by_name or (isinstance(error, RuntimeError) and _MEMORY.search(str(error))):
        return f"memory ran out; make the batches smaller ({one_line(error)})"
    return None


@contextmanager
def in_one_line() -> Iterator[None]:
    """Turn an exception of a library about what a user gave into a `Mistake`.

    Raises:
        Mistake: with what `as_line` says; other exceptions pass as they are.
    """
    try:
        yield
    except Mistake:
        raise
    except Exception as error:
        if (line := as_line(error)) is None:
            raise
        raise Mistake(line) from error
