"""Problems with checkable answers, and those of generators, split into disjoint parts.

    arithmetic               sums, with solutions worked by columns (our own)
    lookup                   a value looked up by its name (analysis/prompts/lookup.py)
    reasoning_gym:TASK       any of the procedural tasks of the reasoning-gym package

There are three parts: what is trained on, what is held out for evaluation, and what pairs are made
of. A generated problem is not trained on iff the CRC of its text is 0 modulo `HELD_OUT_EVERY`, and
of these every other one is for pairs. The split is a property of the text only, so it is the same
in every run, for every seed, and no problem can be in two parts. The problems of a file are split
in the same way, by their text without its white space (`spaceless`). Files:
analysis/prompts/columns.py.
"""

from __future__ import annotations

import json
import random
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from analysis.prompts.gold import Gold, Scorer, pack
from analysis.prompts.lookup import lookup

Split = Literal["train", "held_out", "pairs"]
HELD_OUT_EVERY = 5
WASTED = 20_000  # problems in a row of which none is new, from a generator that has no more


@dataclass(frozen=True)
class Problem:
    """A question, its gold answer, and a worked solution where the source has one.

    `solution` is the reasoning text only, without tags and without the final answer.
    `alternatives` are further gold answers: any of them is right as well. Where the generator has a
    scorer of its own, it decides, and `answer`, one of the right ones, may be empty. `varies` is a
    pattern of the characters in which problems of one skeleton differ.
    """

    question: str
    answer: str
    solution: str | None = None
    alternatives: tuple[str, ...] = ()
    scorer: Scorer | None = field(default=None, repr=False)
    varies: str = field(default=r"\d", repr=False)

    @property
    def gold(self) -> Gold:
        """What is right."""
        return Gold((self.answer, *self.alternatives), self.scorer)

    @property
    def skeleton(self) -> str:
        """The question with what varies masked: two of one skeleton can be a pair."""
        return re.sub(self.varies, "#", self.question)

    def answer_text(self) -> str:
        """The gold answer, to be imitated or to make pairs of.

        Raises:
            ValueError: there is none, only a scorer.
        """
        if self.answer:
            return self.answer
        task = f"reasoning_gym:{self.scorer.task}" if self.scorer else "this source"
        raise ValueError(
            f"{task} gives no gold answer to imitate or to make pairs of, only a scorer of answers;"
            " train on it with grpo and pairs from another source, or use another task"
        )


def part_of(question: str, every: int = HELD_OUT_EVERY) -> Split:
    """The part that a problem belongs to (see the module's docstring)."""
    times, rest = divmod(zlib.crc32(question.encode()), every)
    if rest:
        return "train"
    return "pairs" if times % 2 else "held_out"


def spaceless(question: str) -> str:
    """A question without white space: what two rows that ask the same have in common.

    >>> spaceless("11 + 13 =\\n?")
    '11+13=?'
    """
    return "".join(question.split())


def _addition(a: int, b: int) -> str:
    """One addition as it is written out: whole for single digits, else by columns with carries."""
    if a < 10 or b < 10:
        return f"{a}+{b}={a + b}"
    steps, carry = [], 0
    width = max(len(str(a)), len(str(b)))
    for x, y in zip(reversed(f"{a:0{width}}"), reversed(f"{b:0{width}}"), strict=True):
        column = int(x) + int(y) + carry
        steps.append(f"{x}+{y}{'+1' if carry else ''}={column}")
        carry = column // 10
    return ",".join(steps)


def arithmetic_problem(rng: random.Random, terms: int = 2, digits: int = 2) -> Problem:
    """A sum such as `47+85=?` with the solution `7+5=12,4+8+1=13` (columns from the right).

    More terms are added from the left, each after the total so far: `7+5=12;12+8=20`.

    >>> arithmetic_problem(random.Random(0), terms=3, digits=1)
    Problem(question='7+7+1=?', answer='15', solution='7+7=14;14+1=15', alternatives=())
    """
    low, high = (1, 9) if digits == 1 else (10 ** (digits - 1), 10**digits - 1)
    operands = [rng.randint(low, high) for _ in range(terms)]
    total, steps = operands[0], []
    for operand in operands[1:]:
        steps.append(_addition(total, operand))
        total += operand
    return Problem("+".join(map(str, operands)) + "=?", str(total), ";".join(steps))


def _arithmetic(seed: int, options: dict[str, Any]) -> Iterator[Problem]:
    unknown = set(options) - {"terms", "digits"}
    if unknown:
        raise ValueError(f"arithmetic has no option {sorted(unknown)}; it has: terms, digits")
    for name, value in options.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"options.{name} must be a whole number of at least 1, not {value!r}")
    rng = random.Random(seed)
    while True:
        yield arithmetic_problem(rng, **options)


def _lookup(seed: int, options: dict[str, Any]) -> Iterator[Problem]:
    if unknown := set(options) - {"names", "guess"}:
        raise ValueError(f"lookup has no option {sorted(unknown)}; it has: names, guess")
    rng = random.Random(seed)
    while True:
        yield Problem(*lookup(rng, **options), varies=r"\w")


def _reasoning_gym(task: str, seed: int, options: dict[str, Any]) -> Iterator[Problem]:
    import reasoning_gym
    from reasoning_gym.dataset import ProceduralDataset
    from reasoning_gym.factory import DATASETS

    if task not in DATASETS:
        raise ValueError(
            f"reasoning_gym has no task {task!r}; its tasks are: {', '.join(sorted(DATASETS))}"
        )
    size = 1024
    for block in range(10**6):
        # an item's own seed is that of its data set and its index, so blocks lie a size apart
        first = seed * 10**6 + block * size
        scorer = Scorer(task, json.dumps(options, default=list), first, size, "")
        dataset = reasoning_gym.create_dataset(task, seed=scorer.seed, size=size, **options)
        own = type(dataset).score_answer is not ProceduralDataset.score_answer
        own = own and not _accepts_nonsense(dataset, dataset[0])
        for item in dataset:
            if item["answer"] is None and not own:
                raise ValueError(
                    f"reasoning_gym:{task} gives neither a gold answer nor a scorer that tells "
                    "right from wrong; choose another task"
                )
            answer = "" if item["answer"] is None else str(item["answer"])
            with_entry = replace(scorer, entry=json.dumps(pack(item))) if own else None
            yield Problem(str(item["question"]), answer, scorer=with_entry)


def _accepts_nonsense(dataset: Any, entry: dict[str, Any]) -> bool:
    """Whether a scorer gives everything 1, as that of game_of_life_halting does (0.1.25)."""
    try:
        return float(dataset.score_answer("?", entry=entry)) >= 1
    except Exception:
        return False


def _stream(source: str, seed: int, options: dict[str, Any]) -> Iterator[Problem]:
    if source == "arithmetic":
        return _arithmetic(seed, options)
    if source == "lookup":
        return _lookup(seed, options)
    kind, _, name = source.partition(":")
    if kind == "reasoning_gym" and name:
        return _reasoning_gym(name, seed, options)
    raise ValueError(
        f"unknown source of problems {source!r}; write arithmetic, lookup, reasoning_gym:TASK or "
        "file:FILE"
    )


def generate(
    source: str,
    size: int,
    seed: int = 0,
    split: Split = "train",
    options: dict[str, Any] | None = None,
    keep: Callable[[Problem], bool] = lambda problem: True,
    distinct: bool = False,
    or_fewer: bool = False,
) -> list[Problem]:
    """`size` problems of one split of a source, the same for the same arguments.

    Args:
        source: `arithmetic`, `lookup` or `reasoning_gym:TASK`.
        options: the generator's own parameters, for example `{"terms": 4}`.
        keep: problems for which it is false are passed over.
        distinct: no question twice; a ValueError says so if the generator runs out of new ones.
        or_fewer: what there is where it runs out, at least one.
    """
    problems: list[Problem] = []
    seen: set[str] = set()
    wasted = 0
    for problem in _stream(source, seed, dict(options or {})):
        if len(problems) >= size:
            break
        usable = part_of(problem.question) == split and keep(problem)
        if usable and not (distinct and problem.question in seen):
            problems.append(problem)
            seen.add(problem.question)
            wasted = 0
        else:
            wasted += 1
            if wasted > WASTED and or_fewer and problems:
                break
            if wasted > WASTED:
                raise ValueError(
                    f"{source} gives only {len(problems)} usable problems of {size} asked for "
                    f"(split {split}, options {options or {}}); ask for fewer or widen its options"
                )
    return problems
