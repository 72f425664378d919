"""What is trained on, held out and made into pairs are three parts: no question is in two of them.

The parts of one source are apart by the hash of the question (analysis/prompts/problems.py). Here
is what other sources, and files of pairs, have in common with them.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any

from analysis.prompts.chat import Prompting
from analysis.prompts.pairs import Pairs
from analysis.prompts.problems import Problem, spaceless

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from train.build import Evaluation

log = logging.getLogger(__name__)

SENTINEL = "HEADLABQUESTION"
MARK = 12  # characters of a chat template that tell where a question begins or ends
ASKED = "%d of %d %s ask what the pairs ask, and are left out"
LEAST = 4  # of them, as in `User:`


def asked(row: dict[str, Any]) -> list[str]:
    """What the user asks in a row of training, in every turn: all its answers may be learnt."""
    messages = row.get("prompt") or row["messages"]
    return [str(m["content"]) for m in messages if m["role"] == "user"]


def trained_on(problems: list[Problem], questions: set[int], suffix: str) -> list[Problem]:
    """Of problems, those that are among the hashes of what is asked in training."""
    return [
        problem
        for problem in problems
        if any(hash(spaceless(problem.question + end)) in questions for end in {suffix, ""})
    ]


def check_overlap(
    rows: Iterable[Any], evaluations: list[Evaluation], suffix: str
) -> list[Evaluation]:
    """Refuse held-out problems that are trained on; say of a benchmark how many are.

    Those that are only asked in the course of a conversation, by whose beginning a file is split,
    are left out of what is returned.

    suffix: of the questions of training.

    Raises:
        ValueError: the held-out evaluation asks what is trained on, or nothing is left of it.
    """
    if not evaluations:
        return evaluations
    first: set[int] = set()
    later: set[int] = set()
    for row in rows:
        opening, *others = (hash(spaceless(question)) for question in asked(row))
        first.add(opening)
        later.update(others)
    return [_untrained(evaluation, first, later, suffix) for evaluation in evaluations]


def _untrained(evaluation: Evaluation, first: set[int], later: set[int], suffix: str) -> Evaluation:
    """An evaluation without what is trained on; a benchmark stays whole."""
    problems = evaluation.problems
    if evaluation.task is not None:
        if found := trained_on(problems, first | later, suffix):
            _say(
                "%d of %d questions of %s are trained on too; its score is no held-out score",
                *(len(found), len(problems), evaluation.task),
            )
        return evaluation
    if found := trained_on(problems, first, suffix):
        raise ValueError(
            f"{len(found)} of {len(problems)} held-out problems (evaluation.source) are "
            f"trained on too, such as {found[0].question[:60]!r}; take them out of "
            "data.source, or evaluate on others (evaluation.source, evaluation.tasks)"
        )
    if not (found := trained_on(problems, later, suffix)):
        return evaluation
    _say(
        "%d of %d held-out problems are asked later in conversations of training, and are left out",
        *(len(found), len(problems)),
    )
    left = [problem for problem in problems if problem not in found]
    if not left:
        raise ValueError(
            "all held-out problems (evaluation.source) are asked in conversations of training; "
            "evaluate on others"
        )
    return dataclasses.replace(evaluation, problems=left)


class AskedInPairs:
    """The questions that the prompts of pairs ask, whatever stands around them.

    They are found by what the chat template writes before and after a question. A file's pairs may
    be asked with another system prompt, which some templates write into the user's turn, and with
    another suffix: so a question may begin at any line of a turn, and end before any word of what
    all turns have in common at their ends. In a text that is not of the template it may begin at
    any line too, and end at any mark.
    """

    def __init__(self, pairs: Pairs, tokenizer: PreTrainedTokenizerBase, ask: Prompting) -> None:
        self._suffix = spaceless(ask.suffix)
        self._heads, self._tail = _around(tokenizer, ask)
        prompts = {ids for pair in pairs for ids in (pair.clean_ids, pair.corrupted_ids)}
        texts = {str(tokenizer.decode(list(ids))) for ids in prompts}
        asked_in = [turn for text in texts for turn in self._turns(text)]
        contents = {turn.content for turn in asked_in if turn.is_whole}
        alike = len(_ending(contents))
        self._begun = sorted({begun for turn in asked_in for begun in turn.begun(alike)})

    def _turns(self, text: str) -> Iterator[_Asked]:
        """The turns of a user in a prompt of the template, or any other text as it is."""
        bare, lines, words = spaceless(text), _starts(text.splitlines()), _starts(text.split())
        marks = [i for i in range(1, len(bare)) if not bare[i - 1 : i + 1].isalnum()]
        turns = {
            found.end()
            for head in self._heads
            for found in re.finditer(re.escape(head) or r"\A", bare)
        }
        for first in turns or {0}:
            stop = bare.find(self._tail, first) if turns and self._tail else -1
            last, ends = (stop, words) if stop >= 0 else (len(bare), marks)
            begins, closes = (
                [at - first for at in places if first < at < last] for places in (lines, ends)
            )
            yield _Asked(bare[first:last], begins, closes, stop >= 0)

    def __contains__(self, question: str) -> bool:
        sought = spaceless(question).removesuffix(self._suffix)
        ends = len(sought) > MARK or not sought[-1:].isalnum()  # `yes` is the start of many
        first = bisect_left(self._begun, (sought,))
        for begun, places in islice(self._begun, first, None) if sought else ():
            if not begun.startswith(sought):
                break
            if begun in (sought, sought + self._suffix) or (ends and len(sought) in places):
                return True
        return False


@dataclasses.dataclass(frozen=True)
class _Asked:
    """A turn of a user, or a text, without white space.

    lines: where its lines begin, but the first.  ends: where a question may end, but at its end.
    is_whole: whether it is known where the turn ends.
    """

    content: str
    lines: list[int]
    ends: list[int]
    is_whole: bool

    def begun(self, alike: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """What begins where a question may, and how long a question may be.

        alike: at the end of all turns, which is of no question.
        """
        earliest = len(self.content) - alike if self.is_whole else 0
        for start in (0, *self.lines):
            places = tuple(end - start for end in self.ends if end > start and end >= earliest)
            yield self.content[start:], places


def _ending(texts: Iterable[str]) -> str:
    """What texts have in common at their ends."""
    return os.path.commonprefix([text[::-1] for text in texts])[::-1]


def _around(tokenizer: PreTrainedTokenizerBase, ask: Prompting) -> tuple[set[str], str]:
    """What the chat template writes before a question, whatever the system prompt, and after it."""
    bare, heads, tail = dataclasses.replace(ask, suffix=""), [], ""
    for system in (None, "HEADLABSYSTEM", ask.system_prompt):
        try:
            text = dataclasses.replace(bare, system_prompt=system).text(tokenizer, SENTINEL)
        except ValueError:  # some templates take no system prompt
            if system == ask.system_prompt:
                raise
        else:
            head, _, tail = spaceless(text).partition(SENTINEL)
            heads.append(head)
    alike = _ending(heads)
    # what all have in common is enough, unless it is so short that they have it by chance
    of_all = {alike[-MARK:]} if len(alike) >= LEAST else {head[-MARK:] for head in heads}
    return of_all, tail[:MARK]


def _starts(parts: list[str]) -> list[int]:
    """Where each of the parts of a text begins, and where the last ends, without white space."""
    return [0, *accumulate(len(spaceless(part)) for part in parts)]


def apart(
    dataset: Dataset,
    evaluations: list[Evaluation],
    pairs: Pairs,
    tokenizer: PreTrainedTokenizerBase,
    ask: Prompting,
) -> tuple[Dataset, list[Evaluation]]:
    """Rows and held-out problems without those that ask what a prompt of the pairs asks.

    Of benchmarks nothing is left out; it is said if they are asked.

    Raises:
        ValueError: nothing is left.
    """
    inside, found = AskedInPairs(pairs, tokenizer, ask), []
    kept = [
        number
        for number, row in enumerate(dataset)
        if not any(question in inside for question in asked(row))
    ]
    if len(kept) < len(dataset):
        _say(ASKED, len(dataset) - len(kept), len(dataset), "rows of training")
        _check_left(len(kept), "rows of training")
        dataset = dataset.select(kept)
    for evaluation in evaluations:
        left = [p for p in evaluation.problems if p.question not in inside]
        shared = len(evaluation.problems) - len(left)
        if shared and evaluation.task is None:
            _say(ASKED, shared, len(evaluation.problems), "held-out problems")
            _check_left(len(left), "held-out problems")
            evaluation = dataclasses.replace(evaluation, problems=left)
        elif shared:
            log.info("%d questions of %s are asked in the pairs too", shared, evaluation.task)
        found.append(evaluation)
    return dataset, found


def _say(text: str, *values: object) -> None:
    if os.environ.get("RANK", "0") == "0":
        log.warning(text, *values)


def _check_left(count: int, what: str) -> None:
    if not count:
        raise ValueError(
            f"the pairs ask all that the {what} ask; make pairs of other problems (pairs.source, "
            "or another file), or of fewer"
        )
