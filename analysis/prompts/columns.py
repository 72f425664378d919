"""Rows become problems: which columns hold what, and which values are understood.

    question    text, or a conversation of one user message (after a system message that is the
                prompting's own): verl's `prompt`
    answer      text; a number, as its text; a list of them, of which any is right; an object with
                `ground_truth` (verl's `reward_model`), which is one of these; the text of such a
                list or object, as files of CSV have it
    solution    text, where it is asked for

Anything else is an error that names the row: null, NaN, blank, true and false (what is right, then,
`True` or `yes`?), other objects and lists. A row that lacks the standard columns may have the
layout of GSM8K (`question`; the answer stands behind a last line's `####`, the solution before it)
or of verl (`prompt`, `reward_model`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from analysis.prompts.conversations import check_text, messages_of
from analysis.prompts.problems import Problem
from analysis.prompts.values import Number, Row
from analysis.prompts.written_values import listed, unwritten

_INSTEAD = {"problem": ("question", "prompt"), "answer": ("reward_model",)}
_TALKS = ("messages", "conversations", "conversation")


@dataclass(frozen=True)
class Columns:
    """The columns of problems. `a.b` is the entry b of the object in column a.

    `pattern` is a regular expression, whose first group, searched in an answer, is the answer.
    `system` is the system prompt that prompts in the form of conversations may have. `prefix` is
    what stands before the names of these keys where a user gives them, as `data.`.

    Raises:
        ValueError: `pattern` is no regular expression or has no group.
    """

    problem: str = "problem"
    answer: str = "answer"
    solution: str | None = "solution"
    pattern: str | None = None
    system: str | None = None
    prefix: str = ""

    def __post_init__(self) -> None:
        if self.pattern is None:
            return
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ValueError(
                f"{self.prefix}answer_pattern {self.pattern!r} is no regular expression ({error})"
            ) from error
        if not groups:
            raise ValueError(
                f"{self.prefix}answer_pattern {self.pattern!r} has no group; put what is the "
                "answer in brackets, as in '#### (.*)'"
            )

    def problem_of(self, row: Row, solutions: bool = False) -> Problem:
        """The problem of a row; its solution too, if `solutions` are wanted and there is one.

        Raises:
            ValueError: naming the row.
        """
        question = self._question(row)
        answers = self._answers(row)
        solution = self._solution(row, answers) if solutions else None
        if self.pattern is None:
            answers = [_behind_mark(answer)[1] for answer in answers]
        first, *others = dict.fromkeys(map(str, answers))
        return Problem(question, first, solution, tuple(others))

    def fit(self, row: Row) -> bool:
        """Whether a row has the columns of problem and answer by their own names."""
        return all(_at(row, given)[0] for given in (self.problem, self.answer))

    def question_of(self, row: Row) -> str | None:
        """The question of a row whose answer is not asked for; None if no column holds one."""
        there = any(name in row.values for name in self._names("problem", self.problem))
        return self._question(row) if there else None

    def _names(self, standard: str, given: str) -> tuple[str, ...]:
        return (given, *(_INSTEAD[standard] if given == standard else ()))

    def _question(self, row: Row) -> str:
        name, value = self._value(row, "problem", self.problem)
        value = _read(value, row.place, name)
        if isinstance(value, list):
            return self._asked(row, name, value)
        return check_text(value, row.place, name)

    def _asked(self, row: Row, name: str, value: list[Any]) -> str:
        """The question of a prompt that is a conversation."""
        messages = messages_of(value, row.place, name)
        system = [m["content"] for m in messages if m["role"] == "system"]
        if [m["role"] for m in messages if m["role"] != "system"] != ["user"] or len(system) > 1:
            raise ValueError(
                f"{row.place}: {name} is a conversation of {', '.join(m['role'] for m in messages)}"
                "; a prompt is one user message, perhaps after a system message"
            )
        if system and system[0] != self.system:
            raise ValueError(
                f"{row.place}: {name} has the system message {system[0][:80]!r}, and every prompt "
                f"is to have one and the same; give it as {self.prefix}system_prompt"
            )
        return check_text(messages[-1]["content"], row.place, name)

    def _answers(self, row: Row) -> list[str]:
        name, value = self._value(row, "answer", self.answer)
        value = _read(value, row.place, name)
        while isinstance(value, dict) and "ground_truth" in value:
            name, value = f"{name}.ground_truth", _read(value["ground_truth"], row.place, name)
        several = value if isinstance(value, list) and value else [value]
        if isinstance(value, str) and not isinstance(value, Number):
            several = listed(value) or [value]
        return [self._answer(row, name, entry) for entry in several]

    def _answer(self, row: Row, name: str, value: object) -> str:
        if not isinstance(value, Number):
            value = check_text(value, row.place, name, "text, a number, or a list of them")
        if self.pattern is None:
            return value
        found = re.search(self.pattern, value)
        if not found or not (found[1] or "").strip():
            raise ValueError(
                f"{row.place}: {self.prefix}answer_pattern {self.pattern!r} finds nothing in "
                f"{name}, {value[-80:]!r}"
            )
        return str(found[1]).strip()

    def _solution(self, row: Row, answers: list[str]) -> str | None:
        if self.solution is None:
            return None
        if "." not in self.solution and self.solution not in row.values:
            before = _behind_mark(answers[0])[0] if self.pattern is None else None
            if before is not None:
                return before
        name, value = self._value(row, "solution", self.solution)
        return check_text(value, row.place, name)

    def _value(self, row: Row, key: str, given: str) -> tuple[str, Any]:
        names = self._names(key, given) if key in _INSTEAD else (given,)
        for name in names:
            if name in row.values:
                return name, row.values[name]
        there, value = _at(row, given)
        if not there:
            raise ValueError(self._no_column(row, key, given))
        return given, value

    def _no_column(self, row: Row, key: str, given: str) -> str:
        there = list(row.values)
        talks = [name for name in _TALKS if name in there]
        hint = f"; for conversations in SFT: data.messages_column={talks[0]}" if talks else ""
        return (
            f"{row.place}: no column {given!r} ({self.prefix}{key}_column); it has: "
            f"{', '.join(there) or 'none'}. Set {self.prefix}{key}_column to one of them{hint}"
        )


def _at(row: Row, given: str) -> tuple[bool, Any]:
    """Whether a row has a column, or an entry `a.b` of one, and what it holds."""
    if given in row.values:
        return True, row.values[given]
    value: Any = row.values
    for part in given.split("."):
        value = _read(value, row.place, given)
        if not isinstance(value, dict) or part not in value:
            return False, None
        value = value[part]
    return True, value


def _read(value: object, place: str, name: str) -> Any:
    try:
        return unwritten(value)
    except ValueError as error:
        raise ValueError(f"{place}: {name} {error}") from error


def problems_of(
    rows: Iterable[Row], columns: Columns, solutions: bool = False, other: bool = False
) -> Iterator[Problem]:
    """The problem of each row.

    Args:
        other: the columns are those of another file; where these rows lack them, the standard ones
            are meant.

    Raises:
        ValueError: naming the row.
    """
    for number, row in enumerate(rows):
        if number == 0 and other and not columns.fit(row):
            columns = Columns(system=columns.system, prefix=columns.prefix)
        yield columns.problem_of(row, solutions)


def _behind_mark(answer: str) -> tuple[str | None, str]:
    """What stands before and behind `####` at the start of the last line; else None and all.

    >>> _behind_mark("7+5=12" + chr(10) + "#### 12")
    ('7+5=12', '12')
    """
    before, mark, behind = answer.rpartition("####")
    found = behind.strip()
    if not mark or not found or "\n" in found or before.rpartition("\n")[2].strip():
        return None, answer
    return before.strip() or None, found
