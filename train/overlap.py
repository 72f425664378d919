"""What is trained on, held out and made into pairs are three parts: no question is in two of them.

The parts of one source are apart by the hash of the question (analysis/prompts/problems.py). Here
is what other sources, and files of pairs, have in common with them.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterable, Iterator
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


def asked(row: dict[str, Any]) -> str:
    """What the user asks first in a row of training."""
    messages = row.get("prompt") or row["messages"]
    return next(str(m["content"]) for m in messages if m["role"] == "user")


def trained_on(problems: list[Problem], questions: set[int], suffix: str) -> list[Problem]:
    """Of problems, those that are among the hashes of what is asked in training."""
    return [
        problem
        for problem in problems
        if any(hash(spaceless(problem.question + end)) in questions for end in {suffix, ""})
    ]


def check_overlap(rows: Iterable[Any], evaluations: list[Evaluation], suffix: str) -> None:
    """Refuse held-out problems that are trained on; say of a benchmark how many are.

    suffix: of the questions of training.

    Raises:
        ValueError: the held-out evaluation asks what is trained on.
    """
    if not evaluations:
        return
    questions = {hash(spaceless(asked(row))) for row in rows}
    for evaluation in evaluations:
        problems = evaluation.problems
        found = trained_on(problems, questions, suffix)
        if found and evaluation.task is None:
            raise ValueError(
                f"{len(found)} of {len(problems)} held-out problems (evaluation.source) are "
                f"trained on too, such as {found[0].question[:60]!r}; take them out of "
                "data.source, or evaluate on others (evaluation.source, evaluation.tasks)"
            )
        if found and _is_main():
            log.warning(
                "%d of %d questions of %s are trained on too; its score is no held-out score",
                *(len(found), len(problems), evaluation.task),
            )


class AskedInPairs:
    """The questions that the prompts of pairs ask, whatever stands around them.

    They are found by what the chat template writes before and after a question; in a text that is
    not of the template, a question is looked for at its beginning.
    """

    def __init__(self, pairs: Pairs, tokenizer: PreTrainedTokenizerBase, ask: Prompting) -> None:
        bare = dataclasses.replace(ask, suffix="")
        head, _, tail = spaceless(bare.text(tokenizer, SENTINEL)).partition(SENTINEL)
        self._head, self._tail = head[-MARK:], tail[:MARK]
        self._suffix = spaceless(ask.suffix)
        prompts = {ids for pair in pairs for ids in (pair.clean_ids, pair.corrupted_ids)}
        texts = {spaceless(str(tokenizer.decode(list(ids)))) for ids in prompts}
        self._found = {hash(question) for text in texts for question in self._questions(text)}

    def _questions(self, text: str) -> Iterator[str]:
        """What a prompt without white space may ask."""
        pieces = text.split(self._head)[1:] if self._head else [text]
        for piece in pieces:
            content, end, _ = piece.partition(self._tail) if self._tail else ("", "", "")
            if end:
                yield content.removesuffix(self._suffix)
        if not (pieces and self._head):
            for end_of in range(1, len(text) + 1):
                if not text[end_of - 1 : end_of + 1].isalnum() or end_of == len(text):
                    yield text[:end_of]

    def __contains__(self, question: str) -> bool:
        return hash(spaceless(question).removesuffix(self._suffix)) in self._found


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
    kept = [number for number, row in enumerate(dataset) if asked(row) not in inside]
    if len(kept) < len(dataset):
        _say(len(dataset) - len(kept), len(dataset), "rows of training")
        _check_left(len(kept), "rows of training")
        dataset = dataset.select(kept)
    for evaluation in evaluations:
        left = [p for p in evaluation.problems if p.question not in inside]
        shared = len(evaluation.problems) - len(left)
        if shared and evaluation.task is None:
            _say(shared, len(evaluation.problems), "held-out problems")
            _check_left(len(left), "held-out problems")
            evaluation = dataclasses.replace(evaluation, problems=left)
        elif shared:
            log.info("%d questions of %s are asked in the pairs too", shared, evaluation.task)
        found.append(evaluation)
    return dataset, found


def _say(count: int, of: int, what: str) -> None:
    if _is_main():
        log.warning("%d of %d %s ask what the pairs ask, and are left out", count, of, what)


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _check_left(count: int, what: str) -> None:
    if not count:
        raise ValueError(
            f"the pairs ask all that the {what} ask; make pairs of other problems (pairs.source, "
            "or another file), or of fewer"
        )
