"""The tasks that a model is evaluated on: public benchmarks, files and generators.

    aime24, aime25           30 problems each (AIME 2024 and 2025)
    amc23                    40 problems (AMC 12, 2023); amc: the 83 of 2022 and 2023 (the paper's)
    math500                  500 problems of MATH
    gsm8k                    1,319 test problems
    gpqa                     198 questions with four choices (GPQA Diamond; its owners ask for an
                             agreement, so a hub account is needed)
    triviaqa                 17,944 questions (TriviaQA, validation, without context); meant for
                             prompt pairs, as an answer here may have other spellings
    jsonl:FILE               `problem` and `answer` a line
    reasoning_gym:TASK, arithmetic     generated, held-out problems (analysis/prompts/problems.py)

Benchmarks come from the hub through `datasets`, which keeps them; offline they are read from there.
A local copy of one is a jsonl:FILE. Gold answers of MATH-500 are taken from the last box of the
solution, where there is one. The choices of GPQA are put in an order that follows from the question
alone, and the gold answer is the letter.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from analysis.prompts.problems import Problem, generate

# arXiv 2509.25758
SUFFIX = "\nLet's think step by step and output the final answer within \\boxed{}."
GENERATED = 100  # problems of a generator, if no size is given


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark is on the hub, and how a row of it becomes a problem."""

    name: str
    split: str
    problem: Callable[[dict[str, Any]], Problem]
    config: str | None = None


def _plain(
    question: str = "problem", answer: str = "answer"
) -> Callable[[dict[str, Any]], Problem]:
    return lambda row: Problem(str(row[question]), str(row[answer]))


def _math(row: dict[str, Any]) -> Problem:
    from analysis.prompts.answers import last_boxed

    return Problem(str(row["problem"]), last_boxed(str(row.get("solution") or "")) or row["answer"])


def _amc(row: dict[str, Any]) -> Problem:
    """Answers are written as 142.0."""
    number = float(row["answer"])
    return Problem(str(row["problem"]), str(int(number) if number.is_integer() else number))


def _gsm8k(row: dict[str, Any]) -> Problem:
    return Problem(str(row["question"]), str(row["answer"]).rpartition("####")[2].strip())


def _gpqa(row: dict[str, Any]) -> Problem:
    right = str(row["Correct Answer"]).strip()
    choices = [right, *(str(row[f"Incorrect Answer {i}"]).strip() for i in (1, 2, 3))]
    question = str(row["Question"]).strip()
    random.Random(zlib.crc32(question.encode())).shuffle(choices)
    lines = [f"({letter}) {choice}" for letter, choice in zip("ABCD", choices, strict=True)]
    text = f"{question}\n\n" + "\n".join(lines) + "\n\nAnswer with the letter of the right choice."
    return Problem(text, "ABCD"[choices.index(right)])


def _triviaqa(row: dict[str, Any]) -> Problem:
    return Problem(str(row["question"]), str(row["answer"]["value"]))


BENCHMARKS = {
    "aime24": Benchmark("HuggingFaceH4/aime_2024", "train", _plain()),
    "aime25": Benchmark("math-ai/aime25", "test", _plain()),
    "amc23": Benchmark("math-ai/amc23", "test", _plain("question")),
    "amc": Benchmark("AI-MO/aimo-validation-amc", "train", _amc),
    "math500": Benchmark("HuggingFaceH4/MATH-500", "test", _math),
    "gsm8k": Benchmark("openai/gsm8k", "test", _gsm8k, config="main"),
    "gpqa": Benchmark("Idavidrein/gpqa", "train", _gpqa, config="gpqa_diamond"),
    "triviaqa": Benchmark("mandarjoshi/trivia_qa", "validation", _triviaqa, config="rc.nocontext"),
}


def slug(task: str) -> str:
    """A task as the name of a directory and of a metric: `reasoning_gym-chain_sum`."""
    kind, _, rest = task.partition(":")
    name = rest.rpartition("/")[2].removesuffix(".jsonl") if kind == "jsonl" else task
    return re.sub(r"[^\w.-]", "-", name)


def default_suffix(task: str) -> str:
    """The paper's for benchmarks and files, none for generators."""
    return SUFFIX if task in BENCHMARKS or task.startswith("jsonl:") else ""


def check_task(task: str) -> None:
    """Raise ValueError unless a text is a benchmark, a generator or a file."""
    kind, _, name = task.partition(":")
    if task in (*BENCHMARKS, "arithmetic") or (kind in ("jsonl", "reasoning_gym") and name):
        return
    raise ValueError(
        f"unknown task {task!r}; choose one of {', '.join(BENCHMARKS)}, arithmetic, "
        "reasoning_gym:TASK or jsonl:FILE"
    )


def load_task(task: str, size: int | None, seed: int, options: dict[str, Any]) -> list[Problem]:
    """The first `size` problems of a task (None: all, or GENERATED of a generator).

    Raises:
        ValueError: there is no such task, it can't be loaded, or it has fewer problems.
    """
    check_task(task)
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    if task in BENCHMARKS:
        if options:
            raise ValueError(f"{task} takes no options; they are for generators")
        problems = _from_hub(task)
    elif task.startswith("jsonl:"):
        try:
            problems = generate(task, 10**9)
        except OSError as error:
            raise ValueError(f"{task} can't be read: {error.strerror}") from error
    else:
        return generate(task, size or GENERATED, seed, "held_out", options, distinct=True)
    if size is not None and len(problems) < size:
        raise ValueError(f"{task} has {len(problems)} problems, fewer than size={size}")
    if not problems:
        raise ValueError(f"{task} holds no problems")
    return problems[:size]


def problems_for_pairs(
    source: str, size: int, seed: int, options: dict[str, Any] | None
) -> list[Problem]:
    """Problems that pairs are made of: drawn from a benchmark, else as `generate` gives them.

    A benchmark that has fewer gives all it has.

    Raises:
        ValueError: the source is unknown or can't be loaded.
    """
    if source not in BENCHMARKS:
        return generate(source, size, seed, "held_out", options)
    problems = load_task(source, None, seed, options or {})
    return random.Random(seed).sample(problems, min(size, len(problems)))


def _from_hub(task: str) -> list[Problem]:
    from datasets import load_dataset

    benchmark = BENCHMARKS[task]
    try:
        rows = load_dataset(benchmark.name, benchmark.config, split=benchmark.split)
        return [benchmark.problem(row) for row in rows]
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{task} can't be loaded from the hub ({benchmark.name}): {reason}; with a local copy "
            "of fields problem and answer: task=jsonl:FILE"
        ) from error
