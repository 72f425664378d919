"""The tasks that a model is evaluated on: public benchmarks, files and generators.

    aime24, aime25           30 problems each (AIME 2024 and 2025)
    amc23                    40 problems (AMC 12, 2023); amc: the 83 of 2022 and 2023 (the paper's)
    math500                  500 problems of MATH
    gsm8k                    1,319 test problems
    gpqa                     198 questions with four choices (GPQA Diamond; its owners ask for an
                             agreement, so a hub account is needed)
    triviaqa                 17,944 questions (TriviaQA, validation, without context); meant for
                             prompt pairs, as an answer here may have other spellings
    file:FILE                columns `problem` and `answer` (analysis/prompts/columns.py) of JSONL,
                             JSON, CSV or Parquet; jsonl:, json:, csv: and parquet: name the format
    reasoning_gym:TASK, arithmetic     generated, held-out problems (analysis/prompts/problems.py)

Benchmarks come from the hub through `datasets`, which keeps them; offline they are read from there.
A local copy of one is a file:FILE. Gold answers of MATH-500 are taken from the last box of the
solution, where there is one. The choices of GPQA are put in an order that follows from the question
only, and the gold answer is the letter.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from analysis.prompts.columns import Columns, problems_of
from analysis.prompts.conversations import check_text
from analysis.prompts.problems import Problem, generate, spaceless
from analysis.prompts.row_files import file_of, read_rows, stem
from analysis.prompts.values import Row, typed

# arXiv 2509.25758
SUFFIX = "\nLet's think step by step and output the final answer within \\boxed{}."
GENERATED = 100  # problems of a generator, if no size is given


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark is on the hub, and how a row of it becomes a problem."""

    name: str
    split: str
    problem: Callable[[Row], Problem]
    config: str | None = None


def _math(row: Row) -> Problem:
    from analysis.prompts.answers import last_boxed

    problem, solution = Columns().problem_of(row), row.values.get("solution")
    boxed = last_boxed(solution) if isinstance(solution, str) else None
    return replace(problem, answer=boxed) if boxed else problem


def _amc(row: Row) -> Problem:
    """Answers are written as 142.0."""
    problem = Columns().problem_of(row)
    return replace(problem, answer=problem.answer.removesuffix(".0"))


def _gpqa(row: Row) -> Problem:
    names = ("Question", "Correct Answer", *(f"Incorrect Answer {i}" for i in (1, 2, 3)))
    texts = [check_text(row.values.get(name), row.place, name).strip() for name in names]
    question, right, *_ = texts
    choices = texts[1:]
    random.Random(zlib.crc32(question.encode())).shuffle(choices)
    lines = [f"({letter}) {choice}" for letter, choice in zip("ABCD", choices, strict=True)]
    text = f"{question}\n\n" + "\n".join(lines) + "\n\nAnswer with the letter of the right choice."
    return Problem(text, "ABCD"[choices.index(right)])


_GSM8K = Columns("question", pattern=r"####\s*(.+)")
_TRIVIAQA = Columns("question", "answer.value")

BENCHMARKS = {
    "aime24": Benchmark("HuggingFaceH4/aime_2024", "train", Columns().problem_of),
    "aime25": Benchmark("math-ai/aime25", "test", Columns().problem_of),
    "amc23": Benchmark("math-ai/amc23", "test", Columns("question").problem_of),
    "amc": Benchmark("AI-MO/aimo-validation-amc", "train", _amc),
    "math500": Benchmark("HuggingFaceH4/MATH-500", "test", _math),
    "gsm8k": Benchmark("openai/gsm8k", "test", _GSM8K.problem_of, config="main"),
    "gpqa": Benchmark("Idavidrein/gpqa", "train", _gpqa, config="gpqa_diamond"),
    "triviaqa": Benchmark(
        "mandarjoshi/trivia_qa", "validation", _TRIVIAQA.problem_of, config="rc.nocontext"
    ),
}


def slug(task: str) -> str:
    """A task as the name of a directory and of a metric: `reasoning_gym-chain_sum`."""
    return re.sub(r"[^\w.-]", "-", task if file_of(task) is None else stem(task))


def default_suffix(task: str) -> str:
    """The paper's for benchmarks and files, none for generators."""
    return SUFFIX if task in BENCHMARKS or file_of(task) is not None else ""


def check_task(task: str) -> None:
    """Raise ValueError unless a text is a benchmark, a generator or a file."""
    kind, _, name = task.partition(":")
    if task in (*BENCHMARKS, "arithmetic", "lookup") or file_of(task) is not None:
        return
    if kind == "reasoning_gym" and name:
        return
    raise ValueError(
        f"unknown task {task!r}; choose one of {', '.join(BENCHMARKS)}, arithmetic, lookup, "
        "reasoning_gym:TASK or file:FILE"
    )


def load_task(
    task: str,
    size: int | None,
    seed: int,
    options: dict[str, Any],
    columns: Columns | None = None,
) -> list[Problem]:
    """The first `size` problems of a task (None: all, or GENERATED of a generator).

    `columns` are those of a file; where it lacks them, or without, the standard ones are meant.

    Raises:
        ValueError: there is no such task, it can't be loaded, or it has fewer problems.
    """
    check_task(task)
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    if task not in BENCHMARKS and file_of(task) is None:
        return generate(task, size or GENERATED, seed, "held_out", options, distinct=True)
    if options:
        raise ValueError(f"{task} takes no options; they are for generators")
    found = _from_hub(task) if task in BENCHMARKS else _from_file(task, columns or Columns())
    problems = list(islice(found, size))
    if size is not None and len(problems) < size:
        raise ValueError(f"{task} has {len(problems)} problems, fewer than size={size}")
    if not problems:
        raise ValueError(f"{task} holds no problems")
    return problems


def problems_for_pairs(
    source: str,
    size: int,
    seed: int,
    options: dict[str, Any] | None,
    columns: Columns | None = None,
    solutions: bool = False,
) -> list[Problem]:
    """Distinct problems that pairs are made of: drawn from a benchmark, else the first ones.

    Of a file with `solutions`, if these are needed. Of a generator those of the part that is for
    pairs (analysis/prompts/problems.py). A source that has fewer gives all.

    Raises:
        ValueError: the source is unknown or can't be loaded.
    """
    if options and (source in BENCHMARKS or file_of(source) is not None):
        raise ValueError(f"{source} takes no options; they are for generators")
    if file_of(source) is not None:
        return list(islice(_each_once(_from_file(source, columns or Columns(), solutions)), size))
    if source not in BENCHMARKS:
        return generate(source, size, seed, "pairs", options, distinct=True, or_fewer=True)
    problems = list(_each_once(load_task(source, None, seed, options or {})))
    return random.Random(seed).sample(problems, min(size, len(problems)))


def _each_once(problems: Iterable[Problem]) -> Iterator[Problem]:
    """Those whose question, without its white space, was not there before."""
    seen: set[str] = set()
    for problem in problems:
        question = spaceless(problem.question)
        if question not in seen:
            seen.add(question)
            yield problem


def _from_file(source: str, columns: Columns, solutions: bool = False) -> Iterator[Problem]:
    # the keys of data. are those of the training's file, and this may be another one
    return problems_of(read_rows(source), columns, solutions, other=bool(columns.prefix))


def _from_hub(task: str) -> Iterator[Problem]:
    from datasets import load_dataset

    benchmark = BENCHMARKS[task]
    try:
        rows = load_dataset(benchmark.name, benchmark.config, split=benchmark.split)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{task} can't be loaded from the hub ({benchmark.name}): {reason}; with a local copy "
            "of columns problem and answer: task=file:FILE"
        ) from error
    for number, row in enumerate(rows, start=1):
        yield benchmark.problem(Row(typed(row), f"{benchmark.name}, row {number}"))
