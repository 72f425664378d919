"""Problems from a generator, a file or the hub, as the data sets that TRL's trainers take.

data.source is `arithmetic`, `reasoning_gym:TASK`, `jsonl:FILE`, `parquet:FILE` or `hub:NAME`.
SFT rows are conversational `prompt` and `completion` (or `messages`, where the source has such a
column and data.messages_column names it); GRPO rows are `prompt` and `answer`.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from analysis.prompts.chat import Prompting, fill
from analysis.prompts.problems import Problem, generate
from train.config import plain

if TYPE_CHECKING:
    from datasets import Dataset

FILE_FORMATS = {"jsonl": "json", "parquet": "parquet"}


def prompting(data: DictConfig) -> Prompting:
    """How questions of a data set are asked."""
    return Prompting(data.system_prompt, data.suffix)


def is_generator(source: str) -> bool:
    """Whether a source has no end, so that a size must be given and a part can be held out."""
    return source.partition(":")[0] not in (*FILE_FORMATS, "hub")


def load_rows(data: DictConfig) -> Dataset:
    """The raw rows of a file or a hub data set.

    Raises:
        ValueError: the source can't be found or read.
    """
    from datasets import load_dataset

    kind, _, name = data.source.partition(":")
    if kind in FILE_FORMATS:
        if not Path(name).is_file():
            raise ValueError(f"data.source names the file {name!r}, which does not exist")
        return load_dataset(FILE_FORMATS[kind], data_files=name, split="train")
    try:
        return load_dataset(name, data.config, split=data.split)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"data.source {data.source!r} (config {data.config}, split {data.split}) can't be "
            f"loaded from the hub: {error}"
        ) from error


def _require(column: str | None, key: str, columns: list[str]) -> None:
    if column is not None and column not in columns:
        raise ValueError(
            f"the data has no column {column!r} (data.{key}); its columns are: "
            f"{', '.join(columns)}. Set data.{key} to one of them"
        )


def _problem(row: dict[str, Any], data: DictConfig) -> Problem:
    answer = str(row[data.answer_column])
    if data.answer_pattern is not None:
        found = re.search(data.answer_pattern, answer)
        if not found:
            raise ValueError(
                f"data.answer_pattern {data.answer_pattern!r} is not in {answer[-80:]!r}"
            )
        answer = found.group(1).strip()
    solution = row[data.solution_column] if data.solution_column else None
    return Problem(str(row[data.problem_column]), answer, solution)


def load_problems(data: DictConfig, needs_solution: bool) -> list[Problem]:
    """The training problems of a source.

    Raises:
        ValueError: the size is missing or a column is.
    """
    if is_generator(data.source):
        if data.size is None:
            raise ValueError(
                f"data.source {data.source} is a generator and has no end; set data.size"
            )
        return generate(data.source, data.size, data.seed, "train", plain(data.options))
    rows = load_rows(data)
    columns = rows.column_names
    _require(data.problem_column, "problem_column", columns)
    _require(data.answer_column, "answer_column", columns)
    _require(data.solution_column if needs_solution else None, "solution_column", columns)
    if not needs_solution:
        data = OmegaConf.merge(data, {"solution_column": None})  # type: ignore[assignment]
    if data.size is not None:
        rows = rows.shuffle(seed=data.seed).select(range(min(data.size, len(rows))))
    return [_problem(row, data) for row in rows]


def sft_dataset(data: DictConfig) -> Dataset:
    """Conversations to imitate: worked solutions, or short answers for 1 - worked_share of them."""
    from datasets import Dataset

    if data.messages_column is not None:
        rows = load_rows(data)
        _require(data.messages_column, "messages_column", rows.column_names)
        rows = rows.select_columns([data.messages_column])
        if data.size is not None:
            rows = rows.shuffle(seed=data.seed).select(range(min(data.size, len(rows))))
        return rows.rename_columns(
            {} if data.messages_column == "messages" else {data.messages_column: "messages"}
        )
    ask = prompting(data)
    drawn = random.Random(data.seed)
    converted = []
    for problem in load_problems(data, needs_solution="{solution}" in data.completion):
        worked = drawn.random() < data.worked_share
        completion = fill(data.completion if worked else data.short_completion, problem)
        converted.append(
            {
                "prompt": ask.messages(problem.question),
                "completion": [{"role": "assistant", "content": completion}],
            }
        )
    return Dataset.from_list(converted)


def grpo_dataset(data: DictConfig) -> Dataset:
    """Questions with their gold answers, which the rewards read as the column `answer`."""
    from datasets import Dataset

    ask = prompting(data)
    problems = load_problems(data, needs_solution=False)
    return Dataset.from_list(
        [{"prompt": ask.messages(p.question), "answer": p.answer} for p in problems]
    )
