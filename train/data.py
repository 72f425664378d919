"""Problems from a generator, a file or the hub, as the data sets that TRL's trainers take.

data.source is `arithmetic`, `lookup`, `reasoning_gym:TASK`, `file:FILE` (JSONL, JSON, CSV or
Parquet; see analysis/prompts/row_files.py) or `hub:NAME`. SFT rows are conversational `prompt` and
`completion` (or `messages`, where the source has such a column and data.messages_column names it);
GRPO rows are `prompt` and `answer`.

A file or a data set of the hub has two parts that are held out, as a generator has, one for the
evaluation and one for pairs: the rows whose question, without its white space, has a CRC divisible
by data.held_out_every (analysis/prompts/problems.py). They are kept from training where the run
draws from either.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from omegaconf import DictConfig

from analysis.prompts.chat import Prompting, fill
from analysis.prompts.columns import Columns, problems_of
from analysis.prompts.conversations import messages_of
from analysis.prompts.problems import Problem, generate, part_of, spaceless
from analysis.prompts.row_files import check_file, file_of, read_rows
from analysis.prompts.values import Row, native, typed_row
from train.config import plain

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

Part = Literal["train", "held_out", "pairs", "all"]
T = TypeVar("T")


def prompting(data: DictConfig) -> Prompting:
    """How questions of a data set are asked."""
    return Prompting(data.system_prompt, data.suffix)


def is_generator(source: str) -> bool:
    """Whether a source has no end, so that a size must be given."""
    return file_of(source) is None and not source.startswith("hub:")


def columns_of(data: DictConfig) -> Columns:
    """The columns of a data set's problems.

    Raises:
        ValueError: data.answer_pattern is no regular expression with a group.
    """
    return Columns(
        data.problem_column,
        data.answer_column,
        data.solution_column,
        data.answer_pattern,
        data.system_prompt,
        prefix="data.",
    )


def draws_held_out(cfg: DictConfig) -> bool:
    """Whether a run draws problems from the held-out parts of its training data."""
    e, p = cfg.evaluation, cfg.pairs
    evaluated = e.enabled and e.held_out and is_same(e.source, cfg.data.source)
    paired = cfg.tracking.enabled and p.kind != "file" and is_same(p.source, cfg.data.source)
    return bool(evaluated or paired)


def is_same(source: str | None, of_data: str) -> bool:
    """Whether a source is that of the data: not given, or the same words, or the same file."""
    if source is None or source == of_data:
        return True
    a, b = file_of(source), file_of(of_data)
    return a is not None and b is not None and a.resolve() == b.resolve()


def load_rows(data: DictConfig) -> Callable[[], Iterator[Row]]:
    """What reads the rows of a file or a hub data set, from the first, as often as it is called.

    Raises:
        ValueError: the source can't be found.
    """
    file = file_of(data.source)
    if file is None:
        hub = hub_rows(data)
        return lambda: _typed_rows(hub, data.source)
    check_file(file)
    return lambda: read_rows(data.source)


def hub_rows(data: DictConfig) -> Dataset:
    """A data set of the hub.

    Raises:
        ValueError: it can't be loaded.
    """
    from datasets import load_dataset

    try:
        return load_dataset(data.source.partition(":")[2], data.config, split=data.split)
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"data.source {data.source!r} (config {data.config}, split {data.split}) can't be "
            f"loaded from the hub: {reason}"
        ) from error


def _typed_rows(rows: Dataset, source: str) -> Iterator[Row]:
    schema = rows.features.arrow_schema
    if not len(rows):
        raise ValueError(f"{source} holds no rows")
    for number, row in enumerate(rows, start=1):
        yield typed_row(row, schema, f"{source}, row {number}")


class Split:
    """A part of the rows of a file, and how many rows are in it and outside."""

    def __init__(self, data: DictConfig, part: Part) -> None:
        self._data = data
        self._part = part
        self._inside = self._outside = 0

    def kept(self, rows: Iterable[T], question: Callable[[T], str]) -> Iterator[T]:
        """Those rows that belong to the part; counted anew each time."""
        self._inside = self._outside = 0
        every = self._data.held_out_every
        for row in rows:
            if self._part in ("all", part_of(spaceless(question(row)), every)):
                self._inside += 1
                yield row
            else:
                self._outside += 1

    def report(self, used: int) -> None:
        """Say how many rows are trained on.

        Raises:
            ValueError: none is left.
        """
        source, every = self._data.source, self._data.held_out_every
        there = self._inside + self._outside
        if not used:
            raise ValueError(
                f"{source} has {there} rows, and all of them are in its held-out parts (every "
                f"{every}th, by the hash of its question); give more rows, or evaluation.source "
                "and pairs.source of their own, with which nothing is held out"
            )
        outside = f", {self._outside} of them held out" if self._part == "train" else ""
        log.info("%s: %d rows%s; %d to train on", source, there, outside, used)


def drawn(read: Callable[[], Iterable[T]], size: int | None, seed: int) -> list[T]:
    """All, or `size` drawn at random, in the order in which they are drawn.

    What is not drawn is not kept: it is read once to be counted and once to be drawn from. The
    order is that of `datasets.Dataset.shuffle(seed).select(range(size))`.
    """
    if size is None:
        return list(read())
    import numpy as np

    count = sum(1 for _ in read())
    order = np.random.default_rng(seed).permutation(count)[:size].tolist()
    rank = {index: position for position, index in enumerate(order)}
    found = [(rank[index], row) for index, row in enumerate(read()) if index in rank]
    return [row for _, row in sorted(found, key=lambda pair: pair[0])]


def load_problems(data: DictConfig, needs_solution: bool, part: Part) -> list[Problem]:
    """The problems of a part of a source: data.size of what is trained on, all of a held-out one.

    Of a file's held-out parts each question once. A generator's are its training part.

    Raises:
        ValueError: the size is missing, the source can't be read, or a row is no problem.
    """
    if is_generator(data.source):
        if data.size is None:
            raise ValueError(
                f"data.source {data.source} is a generator and has no end; set data.size"
            )
        return generate(data.source, data.size, data.seed, "train", plain(data.options))
    read, columns, split = load_rows(data), columns_of(data), Split(data, part)

    def problems() -> Iterator[Problem]:
        return split.kept(problems_of(read(), columns, needs_solution), lambda p: p.question)

    if part in ("held_out", "pairs"):
        return list({spaceless(p.question): p for p in problems()}.values())
    found = drawn(problems, data.size, data.seed)
    split.report(len(found))
    return found


@dataclass(frozen=True)
class Talk:
    """A conversation of a data set: the index of its row and the question it is split by.

    `is_plain`: the row's value is what a chat template takes, as it stands.
    """

    index: int
    question: str
    messages: list[dict[str, Any]]
    is_plain: bool


def conversations(rows: Iterable[Row], data: DictConfig) -> Iterator[Talk]:
    """The conversations of data.messages_column of each row.

    The question is that of data.problem_column where the rows have it, else the first message of
    the user.

    Raises:
        ValueError: naming the row, if it is no conversation with something to learn.
    """
    columns, name = columns_of(data), data.messages_column
    for index, row in enumerate(rows):
        if name not in row.values:
            raise ValueError(
                f"{row.place}: no column {name!r} (data.messages_column); it has: "
                f"{', '.join(row.values)}. Set data.messages_column to one of them"
            )
        messages = messages_of(row.values[name], row.place, name)
        spoken = {m["role"] for m in messages if m["content"].strip()}
        for role in ("user", "assistant"):
            if role not in spoken:
                raise ValueError(f"{row.place}: {name} has no message of the {role} with text")
        first = next(m["content"] for m in messages if m["role"] == "user")
        question = columns.question_of(row) or first
        yield Talk(index, question, messages, native(row.values[name]) == messages)


def held_out_part(data: DictConfig, needs_solution: bool, part: Part = "held_out") -> list[Problem]:
    """The problems of a held-out part of a file, each question once.

    Conversations without a column of problems are ones too: what the user asks first, answered by
    the reply.
    """
    read = load_rows(data)
    if data.messages_column is None or columns_of(data).question_of(next(read())) is not None:
        return load_problems(data, needs_solution, part)
    found: dict[str, Problem] = {}
    talks = conversations(read(), data)
    for talk in Split(data, part).kept(talks, lambda talk: talk.question):
        reply = next(m["content"] for m in talk.messages if m["role"] == "assistant")
        asked = next(m["content"] for m in talk.messages if m["role"] == "user")
        found.setdefault(spaceless(asked), Problem(asked, reply))
    return list(found.values())


def sft_dataset(data: DictConfig, part: Part = "all") -> Dataset:
    """Conversations to imitate: worked solutions, or short answers for 1 - worked_share of them."""
    from datasets import Dataset

    if data.messages_column is not None:
        return _messages(data, part)
    ask = prompting(data)
    random_numbers = random.Random(data.seed)
    converted = []
    for problem in load_problems(data, "{solution}" in data.completion, part):
        worked = random_numbers.random() < data.worked_share
        completion = fill(data.completion if worked else data.short_completion, problem)
        converted.append(
            {
                "prompt": ask.messages(problem.question),
                "completion": [{"role": "assistant", "content": completion}],
            }
        )
    return Dataset.from_list(converted)


def _messages(data: DictConfig, part: Part) -> Dataset:
    """The conversations of a source; those of the hub stay on disk if they need no change."""
    from datasets import Dataset

    name, hub = data.messages_column, None if file_of(data.source) else hub_rows(data)
    split = Split(data, part)

    def talks() -> Iterator[Talk]:
        rows = read_rows(data.source) if hub is None else _typed_rows(hub, data.source)
        return split.kept(conversations(rows, data), lambda talk: talk.question)

    if hub is not None:
        seen = [(talk.index, talk.is_plain) for talk in talks()]
        if all(is_plain for _, is_plain in seen):
            chosen = drawn(lambda: (index for index, _ in seen), data.size, data.seed)
            split.report(len(chosen))
            rows = hub.select_columns([name]).select(chosen)
            return rows.rename_columns({} if name == "messages" else {name: "messages"})
    found = drawn(talks, data.size, data.seed)
    split.report(len(found))
    return Dataset.from_list([{"messages": talk.messages} for talk in found])


def grpo_dataset(data: DictConfig, part: Part = "all") -> Dataset:
    """Questions with their gold answers, which the rewards read as the column `answer`.

    Where more than one text is right, the column `gold` says what is (analysis/prompts/gold.py).
    """
    from datasets import Dataset

    ask = prompting(data)
    problems = load_problems(data, needs_solution=False, part=part)
    rows = [{"prompt": ask.messages(p.question), "answer": p.answer} for p in problems]
    if any(p.alternatives or p.scorer for p in problems):
        rows = [{**row, "gold": p.gold.to_json()} for row, p in zip(rows, problems, strict=True)]
    return Dataset.from_list(rows)
