"""Conversations of data sets, as lists of `role` and `content` that a chat template takes.

ShareGPT's `from` and `value` are understood, and a conversation that a cell of CSV holds as text.
The parts of a content are joined if all are text.
"""

from __future__ import annotations

from typing import Any

from analysis.prompts.values import Number, native, said
from analysis.prompts.written_values import unwritten

_ROLES = ("system", "developer", "user", "assistant", "tool")
_SHAREGPT = {"human": "user", "gpt": "assistant"} | {role: role for role in _ROLES}


def check_text(value: object, place: str, name: str, wanted: str = "text") -> str:
    """The value, if it is text that is not blank; else a ValueError that names the row."""
    if not isinstance(value, str) or isinstance(value, Number) or not value.strip():
        raise ValueError(f"{place}: {name} is {said(value)}; it has to be {wanted}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{place}: {name} holds half a character (a lone surrogate)") from error
    return value


def messages_of(value: object, place: str, name: str) -> list[dict[str, Any]]:
    """The messages of a conversation; what else a message has (a tool's calls) stays.

    Raises:
        ValueError: naming the row, for anything that is no conversation: an unknown role, or a
            content that is null or no text.
    """
    try:
        value = unwritten(value)
    except ValueError as error:
        raise ValueError(f"{place}: {name} {error}") from error
    if not isinstance(value, list) or not value:
        raise ValueError(f"{place}: {name} is {said(value)}; it has to be a list of messages")
    return [_message(m, f"{place}: {name}, message {i}") for i, m in enumerate(value, start=1)]


def _message(message: object, place: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise ValueError(f"{place} is {said(message)}; it has to be an object of role and content")
    rest = dict(message)
    if "from" in message and "value" in message:
        role, content = _SHAREGPT.get(str(rest.pop("from"))), rest.pop("value")
        if role is None:
            raise ValueError(f"{place} is from {message['from']!r}; known: {', '.join(_SHAREGPT)}")
    elif "role" in message and "content" in message:
        role, content = rest.pop("role"), rest.pop("content")
        if role not in _ROLES:
            raise ValueError(f"{place} has the role {role!r}; known: {', '.join(_ROLES)}")
    else:
        raise ValueError(
            f"{place} has {', '.join(sorted(message)) or 'nothing'}; it has to have role and "
            "content, or ShareGPT's from and value"
        )
    more = {key: native(entry) for key, entry in rest.items() if entry is not None}
    return {"role": role, "content": _content(content, f"{place} ({role})"), **more}


def _content(content: object, place: str) -> str:
    if isinstance(content, list) and content:
        parts = [part if isinstance(part, dict) else {} for part in content]
        texts = [part.get("text") for part in parts if part.get("type") == "text"]
        if len(texts) == len(content) and all(isinstance(text, str) for text in texts):
            return "".join(str(text) for text in texts)
    if not isinstance(content, str) or isinstance(content, Number):
        raise ValueError(f"{place}: its content is {said(content)}; it has to be text")
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{place}: its content holds half a character") from error
    return content
