"""Verifiable rewards for GRPO, in the form TRL calls: (completions, columns) -> one number each.

    accuracy    1 if the answer is right (analysis.evaluation.verify), else 0; for a reasoning-gym
                task with a scorer of its own, 1 if that gives 1
    format      1 if the completion is <think>...</think><answer>...</answer> and nothing else
    tag_count   0.25 for each of the four tags that stands in the completion exactly once

Of a completion whose prompt holds its beginning, such as a `<think>` that the chat template opens,
all of it counts: the column `turn` says what that is (analysis/prompts/turns.py). The last two
follow open-r1's rewards of these names. Weights are TRL's `reward_weights`. A completion that the
verifier can't read scores 0 and is counted under `verify/REASON`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from analysis.evaluation.verify import judge
from analysis.prompts.gold import Gold
from analysis.prompts.turns import Turn

_FORMAT = re.compile(
    r"\s*<think>(?:(?!</?think>).)*</think>\s*<answer>(?:(?!</?answer>).)*</answer>\s*", re.DOTALL
)
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def text_of(completion: str | list[dict[str, str]]) -> str:
    """The text of a completion, which TRL gives as a string or as a list of messages.

    >>> text_of([{"role": "assistant", "content": "4"}])
    '4'
    """
    return completion if isinstance(completion, str) else "".join(m["content"] for m in completion)


def answered(completions: list[Any], turns: list[dict[str, str]] | None) -> list[tuple[Turn, str]]:
    """Each completion's text, and how its prompt begins and its last token ends it."""
    given = [Turn(**turn) for turn in turns] if turns is not None else [Turn()] * len(completions)
    return [(turn, text_of(c)) for turn, c in zip(given, completions, strict=True)]


def accuracy(
    completions: list[Any],
    answer: list[str],
    gold: list[str] | None = None,
    turn: list[dict[str, str]] | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **columns: Any,
) -> list[float]:
    texts = [begun.judged(text) for begun, text in answered(completions, turn)]
    right = [Gold((text,)) for text in answer] if gold is None else list(map(Gold.from_json, gold))
    verdicts = [judge(*pair) for pair in zip(texts, right, strict=True)]
    if log_metric is not None:
        counts = Counter(verdict.failure for verdict in verdicts)
        for reason in ("no_answer", "too_long", "unparseable", "timeout"):
            log_metric(f"verify/{reason}", counts[reason] / len(verdicts))
    return [float(verdict.correct) for verdict in verdicts]


def format(
    completions: list[Any], turn: list[dict[str, str]] | None = None, **columns: Any
) -> list[float]:
    wholes = [begun.whole(text) for begun, text in answered(completions, turn)]
    return [float(_FORMAT.fullmatch(text) is not None) for text in wholes]


def tag_count(
    completions: list[Any], turn: list[dict[str, str]] | None = None, **columns: Any
) -> list[float]:
    """0.25 for each of the four tags that stands in a completion exactly once.

    >>> tag_count(["<think>2 + 2</think>4", "4"])
    [0.5, 0]
    """
    wholes = [begun.whole(text) for begun, text in answered(completions, turn)]
    return [sum(0.25 for tag in _TAGS if text.count(tag) == 1) for text in wholes]


REWARDS: dict[str, Callable[..., list[float]]] = {
    "accuracy": accuracy,
    "format": format,
    "tag_count": tag_count,
}


def find_rewards(names: list[str]) -> list[Callable[..., list[float]]]:
    """The reward functions of some names.

    Raises:
        ValueError: a name is unknown, or there is none.
    """
    unknown = [name for name in names if name not in REWARDS]
    if unknown or not names:
        raise ValueError(f"train.rewards is {names}; choose from: {', '.join(REWARDS)}")
    return [REWARDS[name] for name in names]
