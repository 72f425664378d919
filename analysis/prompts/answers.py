"""Find the final answer in a completion, in time linear in its text."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")


def last_boxed(text: str) -> str | None:
    r"""What the last `\boxed{...}` of a text holds; None without one, or if it is not closed.

    >>> last_boxed(r"first \boxed{1}, then \boxed{\frac{1}{2}}")
    '\\frac{1}{2}'
    """
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
    r"""The final answer in a completion, or None.

    Taken, in this order, from the last `<answer>...</answer>`, the last `\boxed{...}`, or the last
    number of the text. Only what follows `</think>` counts; an unfinished `<think>` has no answer.

    >>> extract_answer("<think>7+5=12</think><answer>12</answer>")
    '12'
    >>> extract_answer("the sum of 7 and 5 is 12.")
    '12'
    >>> extract_answer("<think>7+5=12") is None
    True
    """
    _, closed, rest = completion.rpartition("</think>")
    if not closed and "<think>" in completion:
        return None
    for marked in (_last_tagged(rest), last_boxed(rest)):
        if marked is not None:
            return marked.strip()
    numbers = _NUMBER.findall(rest[-4096:])
    return numbers[-1] if numbers else None
