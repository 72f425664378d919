"""Find the final answer in a completion, in time linear in its text."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")


def last_boxed(text: str) -> str | None:
    """What the last `\\boxed{...}` of a text holds; None without one, or if it is not closed."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed{")
    for brace in re.compile("[{}]").finditer(text, begin):
        if brace.group() == "{":
            depth += 1
        elif depth == 0:
            return text[begin : brace.start()]
        else:
            depth -= 1
    return None


def _last_tagged(text: str) -> str | None:
    start = text.rfind("<answer>", 0, max(text.rfind("</answer>"), 0))
    if start < 0:
        return None
    return text[start + len("<answer>") : text.find("</answer>", start)]


def extract_answer(completion: str) -> str | None:
    """The final answer in a completion, or None (see the module's docstring)."""
    _, closed, rest = completion.rpartition("</think>")
    if not closed and "<think>" in completion:
        return None
    for marked in (_last_tagged(rest), last_boxed(rest)):
        if marked is not None:
            return marked.strip()
    numbers = _NUMBER.findall(rest[-4096:])
    return numbers[-1] if numbers else None
