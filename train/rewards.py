"""Verifiable rewards for GRPO, in the form TRL calls: (completions, columns) -> one number each.

    accuracy    1 if the answer is right (analysis.evaluation.verify), else 0
    format      1 if the completion is <think>...</think><answer>...</answer> and nothing else
    tag_count   0.25 for each of the four tags that stands in the completion exactly once

The last two follow open-r1's rewards of these names. Weights are TRL's `reward_weights`. A
completion that the verifier can't read scores 0 and is counted under `verify/REASON`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from analysis.evaluation.verify import judge

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


def accuracy(
    completions: list[Any],
    answer: list[str],
    log_metric: Callable[[str, float], None] | None = None,
    **columns: Any,
) -> list[float]:
    verdicts = [judge(text_of(c), gold) for c, gold in zip(completions, answer, strict=True)]
    if log_metric is not None:
        counts = Counter(verdict.failure for verdict in verdicts)
        for reason in ("no_answer", "too_long", "unparseable", "timeout"):
            log_metric(f"verify/{reason}", counts[reason] / len(verdicts))
    return [float(verdict.correct) for verdict in verdicts]


def format(completions: list[Any], **columns: Any) -> list[float]:
    return [float(_FORMAT.fullmatch(text_of(c)) is not None) for c in completions]


def tag_count(completions: list[Any], **columns: Any) -> list[float]:
    """0.25 for each of the four tags that stands in a completion exactly once.

    >>> tag_count(["<think>2 + 2</think>4", "4"])
    [0.5, 0]
    """
    return [sum(0.25 for tag in _TAGS if text_of(c).count(tag) == 1) for c in completions]


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
