"""Is the answer in this completion right? Bounded in time, and never raises on what a model wrote.

The answer is taken, in this order, from the last `<answer>...</answer>`, the last `\\boxed{...}`,
or the last number of the text. Only what follows `</think>` counts; an unfinished `<think>` has no
answer. Equal texts and equal numbers are decided at once, everything else by math-verify, in which
the gold answer is boxed because bare golds are often misread.

An answer longer than MAX_LENGTH characters or nested deeper than MAX_NESTING brackets is not
parsed, and parsing and comparing stop after TIME_LIMIT seconds each. math-verify can only be
stopped on the main thread, so on any other thread answers with powers of powers are not parsed.
"""

from __future__ import annotations

import logging
import re
import threading
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

MAX_LENGTH = 256
MAX_NESTING = 20
TIME_LIMIT = 2  # seconds

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")

Failure = Literal["no_answer", "too_long", "unparseable", "timeout"]


@dataclass(frozen=True)
class Verdict:
    """`failure` says why an answer could not be judged; it then counts as wrong."""

    correct: bool
    failure: Failure | None = None


def _last_boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed{")
    for index in range(begin, len(text)):
        if text[index] == "{":
            depth += 1
        elif text[index] == "}":
            if depth == 0:
                return text[begin:index]
            depth -= 1
    return None


def extract_answer(completion: str) -> str | None:
    """The final answer in a completion, or None (see the module's docstring)."""
    _, closed, rest = completion.rpartition("</think>")
    if not closed and "<think>" in completion:
        return None
    tagged = _ANSWER.findall(rest)
    if tagged:
        return tagged[-1].strip()
    boxed = _last_boxed(rest)
    if boxed is not None:
        return boxed.strip()
    numbers = _NUMBER.findall(rest[-4096:])
    return numbers[-1] if numbers else None


def _number(text: str) -> Fraction | None:
    try:
        return Fraction(text.replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return None


def verify_answer(answer: str | None, gold: str) -> Verdict:
    """Compare an extracted answer with the gold one."""
    if not answer:
        return Verdict(False, "no_answer")
    if len(answer) > MAX_LENGTH or sum(map(answer.count, "([{")) > MAX_NESTING:
        return Verdict(False, "too_long")
    if answer == gold.strip():
        return Verdict(True)
    mine, right = _number(answer), _number(gold)
    if mine is not None and right is not None:
        return Verdict(mine == right)
    return _math_verify(answer, gold)


def _math_verify(answer: str, gold: str) -> Verdict:
    import math_verify
    from math_verify.errors import TimeoutException

    limit: Any = TIME_LIMIT
    if threading.current_thread() is not threading.main_thread():
        if answer.count("^") + answer.count("**") + answer.count("!") > 1:
            return Verdict(False, "too_long")
        limit = None
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    try:
        parsed = math_verify.parse(
            f"\\boxed{{{answer}}}", parsing_timeout=limit, raise_on_error=True
        )
        expected = math_verify.parse(
            f"\\boxed{{{gold}}}", parsing_timeout=limit, raise_on_error=True
        )
        if not parsed:
            return Verdict(False, "unparseable")
        equal = math_verify.verify(expected, parsed, timeout_seconds=limit, raise_on_error=True)
        return Verdict(bool(equal))
    except TimeoutException:
        return Verdict(False, "timeout")
    except Exception:  # the parser meets text that a model made up; any failure is a wrong answer
        return Verdict(False, "unparseable")


def judge(completion: str, gold: str) -> Verdict:
    """Extract the answer of a completion and compare it with the gold one."""
    return verify_answer(extract_answer(completion), gold)
