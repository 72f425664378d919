"""Prompt pairs built of questions: the same skeleton, another answer; or two styles of answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis.prompts.chat import Prompting, fill
from analysis.prompts.pairs import Pair, Pairs, encode
from analysis.prompts.problems import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def counterfactual_pairs(
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    prompting: Prompting,
    size: int,
    prefix: str,
    cut_solution_after: str | None = None,
    least: int | None = None,
) -> Pairs:
    """Pairs of problems with the same skeleton and token length but another next token.

    The skeleton is the question with its digits masked (Problem.skeleton). Each prompt is the
    question followed by `prefix` and, with `cut_solution_after`, by the solution up to and
    including the first such mark. Where the prompt has opened `<think>` already, it is not opened
    twice, and an `<answer>` closes it (analysis/prompts/turns.py). Target and foil are the next
    tokens that the two problems call for: of the rest of the solution, or of the answer. Each
    problem is used in one pair at most, and each prompt, where problems are asked alike.

    least: how many are enough, where the problems hold fewer than `size`; None: `size`.

    Raises:
        ValueError: the problems hold fewer such pairs.
    """
    return common_counterfactual_pairs(
        tokenizer, problems, [prompting], size, prefix, cut_solution_after, least
    )[0]


def common_counterfactual_pairs(
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    promptings: Sequence[Prompting],
    size: int,
    prefix: str,
    cut_solution_after: str | None = None,
    least: int | None = None,
) -> list[Pairs]:
    """`counterfactual_pairs` under several promptings: pair i of each is of the same two problems.

    Two problems are a pair if they are one under every prompting.

    Raises:
        ValueError: as there.
    """
    least = size if least is None else least
    waiting: dict[tuple[str, tuple[int, ...]], list[list[_Start]]] = defaultdict(list)
    pairs: list[list[Pair]] = [[] for _ in promptings]
    seen: set[tuple[int, ...]] = set()
    for problem in problems:
        if len(pairs[0]) >= size:
            break
        opened = [_open(tokenizer, problem, p, prefix, cut_solution_after) for p in promptings]
        starts = [start for start in opened if start is not None]
        if len(starts) < len(promptings) or any(ids in seen for ids, _ in starts):
            continue
        seen.update(ids for ids, _ in starts)
        group = waiting[problem.skeleton, tuple(len(ids) for ids, _ in starts)]
        partner = next((other for other in group if _all_differ(other, starts)), None)
        if partner is None:
            group.append(starts)
            continue
        group.remove(partner)
        for found, (clean, target), (corrupted, foil) in zip(pairs, partner, starts, strict=True):
            found.append(Pair(clean, corrupted, target_id=target, foil_id=foil))
    if len(pairs[0]) < least:
        raise ValueError(
            f"{len(problems)} distinct problems gave only {len(pairs[0])} counterfactual pairs of "
            f"{least} asked for (same skeleton and token length, different next token); ask for "
            "fewer (size), widen the generator's options (more digits or terms), use a generator "
            "(source=arithmetic), or another kind of pairs (answer_style, file)"
        )
    return [Pairs(found) for found in pairs]


_Start = tuple[tuple[int, ...], int]  # the prompt of a problem, and the token that has to follow


def _open(
    tokenizer: PreTrainedTokenizerBase,
    problem: Problem,
    prompting: Prompting,
    prefix: str,
    mark: str | None,
) -> _Start | None:
    """A problem's prompt up to where its answer differs from others'; None if it has no such place.

    It has none if its solution lacks the mark, or if the next token merges with the prompt's last.
    """
    start, rest = prefix, problem.answer_text()
    if mark is not None:
        head, found, rest = fill("{solution}", problem).partition(mark)
        if not found:
            return None
        start = prefix + head + mark
    prompt = prompting.prompt(tokenizer, problem.question)
    text = prompt.text + prompt.turn.goes_on(start)
    ids, full = encode(tokenizer, text), encode(tokenizer, text + rest)
    return (ids, full[len(ids)]) if full[: len(ids)] == ids and len(full) > len(ids) else None


def _all_differ(a: Sequence[_Start], b: Sequence[_Start]) -> bool:
    return all(x[0] != y[0] and x[1] != y[1] for x, y in zip(a, b, strict=True))


def answer_style_pairs(
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    prompting: Prompting,
    clean_start: str,
    corrupted_start: str,
    prefix_tokens: int,
) -> Pairs:
    """Pairs of the same question with a reasoning-style against a base-style start of the answer.

    The starts (texts that may hold `{solution}` and `{answer}`) are cut to `prefix_tokens` tokens
    and to equal length (arXiv 2509.25758; the length is not stated there).
    """
    pairs = []
    for problem in problems:
        asked = prompting.prompt(tokenizer, problem.question)
        prompt = encode(tokenizer, asked.text)
        clean, corrupted = (
            encode(tokenizer, asked.turn.goes_on(fill(start, problem)))
            for start in (clean_start, corrupted_start)
        )
        length = min(prefix_tokens, len(clean), len(corrupted))
        if length == 0 or clean[:length] == corrupted[:length]:
            raise ValueError(
                f"the clean start {clean_start!r} and the corrupted start {corrupted_start!r} do "
                f"not differ within {prefix_tokens} tokens; set pairs.clean_start and "
                "pairs.corrupted_start to two styles of answer"
            )
        pairs.append(Pair(prompt + clean[:length], prompt + corrupted[:length]))
    return Pairs(pairs)
