"""Objects and lists that another program wrote as text, as in a cell of CSV.

A conversation or an object with `ground_truth` may stand in a text, in the notation of JSON or of
Python; so may a list of quoted answers. No question and no answer begins so by itself.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from analysis.prompts.json_rows import parse_json
from analysis.prompts.values import Number, typed

MAX_LIST = 4096  # characters of a list of answers
_LIST = re.compile(r"\[\s*(['\"]).*\1\s*\]", re.DOTALL)
_TALK = re.compile(r"\[\s*\{\s*(['\"])(?:role|content|from|value)\1\s*:")
_GOLD = re.compile(r"\{\s*(?:.*,\s*)?(['\"])ground_truth\1\s*:", re.DOTALL)


def listed(text: str) -> list[str] | None:
    """The texts of a list of quoted texts; None if a text is none.

    >>> listed("['5', 'five']"), listed("[5, 6]")
    (['5', 'five'], None)
    """
    if len(text) > MAX_LIST or not _LIST.fullmatch(text.strip()):
        return None
    try:
        found = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return list(found) if found and all(isinstance(item, str) for item in found) else None


def unwritten(value: object) -> Any:
    """The conversation or the object with `ground_truth` that a text is; else the value itself.

    >>> unwritten('{"style": "rule", "ground_truth": 24}')["ground_truth"], unwritten("{1, 2}")
    ('24', '{1, 2}')

    Raises:
        ValueError: it begins as one and can't be read.
    """
    if not isinstance(value, str) or isinstance(value, Number):
        return value
    text = value.strip()
    if not (_TALK.match(text) or _GOLD.match(text)):
        return value
    try:
        return parse_json(text)
    except ValueError:
        pass
    try:
        return typed(ast.literal_eval(text))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise ValueError(
            f"is the text of {'a conversation' if text[0] == '[' else 'an object'}, which can't be "
            f"read ({text[:60]!r}); write it as JSON"
        ) from None
