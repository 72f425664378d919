"""Pairs made of the rows that a trainer trains on, for who gives none: `HeadTracking("auto")`.

By what the rows hold, as the trainer has prepared them:

    chosen and rejected answers   their starts: the prompt with the first tokens of the one answer
                                  against those of the other, cut to equal length behind the first
                                  place where they differ
    prompts and completions       two prompts of one length, each with what the two completions
                                  begin with alike; target and foil are what comes next in each
    prompts with answers          as prompts and completions, if that gives enough
    prompts                       two styles of answer (arXiv 2509.25758), as pairs=answer_style

A prompt is in one pair at most, so that pairs are independent. Which rows are taken is said by
hashes of their content, whatever their order: the same data give the same pairs. A callback can't
take rows out of a training, so rows of an `eval_dataset`, which are not trained on, are better.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.files import short_hash
from analysis.prompts.pairs import Pair, Pairs, encode
from analysis.prompts.template import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Trainer

SIZE = 32  # pairs
LEAST = 8  # fewer tell too little
LOOKED_AT = 4096  # rows, evenly spaced
START = 16  # tokens of an answer that a pair holds at most
MASKED = -100  # the label of a token that is not learnt
# of conf/pairs/answer_style.yaml
STYLES = (
    "<think>Okay, so I have this problem where I need to find the answer.",
    "To determine the answer, we need to work through the given problem.",
)
ANSWERS = ("answer", "solution", "ground_truth", "reward_model")


@dataclass(frozen=True)
class _Example:
    """A row as token ids; rejected: None where there is one answer only."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    rejected: tuple[int, ...] | None = None


def auto_pairs(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase | None,
    size: int = SIZE,
) -> Pairs:
    """At most `size` pairs of rows, and in words what they are.

    Raises:
        ValueError: nothing of the kind can be made of these rows; why, and what to give instead.
    """
    found = sorted(_some(rows), key=lambda row: short_hash(json.dumps(row, default=str)))
    if not found:
        raise ValueError("there are no rows to make pairs of; give a file of pairs")
    columns = set(found[0])
    if examples := [e for row in found if (e := _example(row, tokenizer)) is not None]:
        if examples[0].rejected is not None:
            pairs, what = _starts(examples, size), "chosen against rejected answers' starts"
        else:
            pairs, what = _counterfactual(examples, size), "two prompts with other completions"
    elif "prompt" in columns and tokenizer is not None:
        pairs, what = _of_prompts(found, tokenizer, size)
    else:
        raise ValueError(
            f"no pairs can be made of rows of {', '.join(sorted(columns))}: they need a prompt and "
            "a completion (or labels that leave the prompt out), chosen and rejected answers, or "
            "prompts. A trainer may drop such columns: give HeadTracking trainer=trainer, or a "
            "file of pairs"
        )
    if len(pairs) < min(size, LEAST):
        raise ValueError(
            f"{len(found)} rows gave only {len(pairs)} pairs ({what}), and {LEAST} is the least; "
            "give a file of pairs"
        )
    return Pairs(pairs[:size], what)


def rows_of(trainer: Trainer | None, loader: Any) -> tuple[Iterable[Mapping[str, Any]], str]:
    """The rows that a trainer's pairs are made of, and in words whether they are trained on.

    loader: of the training, which holds what the trainer has left of the rows.
    """
    held_out = getattr(trainer, "eval_dataset", None)
    if isinstance(held_out, Mapping):
        held_out = next(iter(held_out.values()), None)
    if held_out is not None:
        return held_out, "of the evaluation data, which are not trained on"
    data = getattr(trainer, "train_dataset", None)
    return (getattr(loader, "dataset", None) or []) if data is None else data, (
        "of the training data, which are trained on too"
    )


def _some(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """At most LOOKED_AT of the rows: evenly spaced, or the first ones of a stream."""
    if isinstance(rows, Sequence) or hasattr(rows, "__getitem__"):
        count = len(rows)  # type: ignore[arg-type]
        most = min(count, LOOKED_AT)
        return [dict(rows[place * count // most]) for place in range(most)]
    return [dict(row) for row in itertools.islice(iter(rows), LOOKED_AT)]


def _ids(value: Any) -> tuple[int, ...]:
    return tuple(value.tolist() if hasattr(value, "tolist") else value)


def _example(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase | None) -> _Example | None:
    """The token ids that a trainer has made of a row; None if it is not of such a form."""
    if "prompt_ids" in row and "chosen_ids" in row:  # DPO
        return _Example(*(_ids(row[f"{part}_ids"]) for part in ("prompt", "chosen", "rejected")))
    if "chosen_ids" in row and "rejected_ids" in row:  # reward: the prompt is in both
        return _Example((), _ids(row["chosen_ids"]), _ids(row["rejected_ids"]))
    if "chosen_input_ids" in row and "rejected_input_ids" in row:  # ORPO, CPO
        return _Example((), _ids(row["chosen_input_ids"]), _ids(row["rejected_input_ids"]))
    if "prompt_ids" in row and "completion_ids" in row:  # KTO
        right = bool(row.get("label", True))
        return _Example(_ids(row["prompt_ids"]), _ids(row["completion_ids"])) if right else None
    if "input_ids" not in row:
        return None
    ids, start = _ids(row["input_ids"]), _learnt_from(row, tokenizer)
    return _Example(ids[:start], ids[start:]) if start else None


def _learnt_from(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase | None) -> int:
    """Where the completion of a tokenized row begins; 0 if nothing says it."""
    ids = _ids(row["input_ids"])
    if "labels" in row:
        labels = _ids(row["labels"])
        start = next((at for at, label in enumerate(labels) if label != MASKED), 0)
        if start:
            return start
    if "completion_mask" in row:
        return next((at for at, learnt in enumerate(_ids(row["completion_mask"])) if learnt), 0)
    talk = row.get("messages")
    if not talk or tokenizer is None or talk[-1].get("role") != "assistant":
        return 0
    asked = tokenizer.apply_chat_template(talk[:-1], add_generation_prompt=True, return_dict=False)
    prompt = _ids(asked)
    return len(prompt) if ids[: len(prompt)] == prompt and len(ids) > len(prompt) else 0


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two answers begin with alike."""
    return sum(
        1 for _ in itertools.takewhile(lambda both: both[0] == both[1], zip(a, b, strict=False))
    )


def _starts(examples: Iterable[_Example], size: int) -> list[Pair]:
    """The start of the chosen answer against that of the rejected one, once for each prompt.

    Where the prompt is in both answers, it ends at most where they begin to differ.
    """
    pairs: list[Pair] = []
    seen: list[tuple[int, ...]] = []
    for example in examples:
        if len(pairs) == size:
            break
        assert example.rejected is not None, "of preferences"
        alike = _common(example.answer, example.rejected)
        shorter = min(len(example.answer), len(example.rejected))
        length = min(shorter, alike + START)
        if length <= alike:  # one is the other's beginning
            continue
        clean, corrupted = (
            (*example.prompt, *ids[:length]) for ids in (example.answer, example.rejected)
        )
        asked = example.prompt or example.answer[:alike] or clean
        if not any(_begin_alike(asked, other) for other in seen):
            pairs.append(Pair(clean, corrupted))
            seen.append(asked)
    return pairs


def _begin_alike(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether one is the other's beginning."""
    length = min(len(a), len(b))
    return a[:length] == b[:length]


def _counterfactual(examples: Iterable[_Example], size: int) -> list[Pair]:
    """Two prompts of one length; the nearest two of those at hand are a pair."""
    waiting: dict[int, list[_Example]] = defaultdict(list)
    for example in {example.prompt: example for example in examples}.values():
        waiting[len(example.prompt)].append(example)
    nearest: list[tuple[float, int, Pair]] = []
    for group in waiting.values():
        while len(group) > 1:
            first = group.pop(0)
            fitting = [other for other in group[:64] if _fit(first, other)]
            if not fitting:
                continue
            partner = min(fitting, key=lambda other: _distance(first.prompt, other.prompt))
            group.remove(partner)
            alike = _common(first.answer, partner.answer)
            clean, corrupted = ((*e.prompt, *e.answer[:alike]) for e in (first, partner))
            pair = Pair(
                clean, corrupted, target_id=first.answer[alike], foil_id=partner.answer[alike]
            )
            far = _distance(first.prompt, partner.prompt) / len(first.prompt)
            nearest.append((far, len(nearest), pair))
    return [pair for *_, pair in sorted(nearest, key=lambda found: found[:2])][:size]


def _fit(a: _Example, b: _Example) -> bool:
    """Whether two rows have other prompts, and answers that differ where both go on."""
    alike = _common(a.answer, b.answer)
    return a.prompt != b.prompt and alike < min(len(a.answer), len(b.answer))


def _distance(a: Sequence[int], b: Sequence[int]) -> int:
    return sum(x != y for x, y in zip(a, b, strict=True))


def _of_prompts(
    rows: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, size: int
) -> tuple[list[Pair], str]:
    """Pairs of prompts as text or conversations, which may have answers."""
    texts = [_written(row["prompt"], tokenizer) for row in rows]
    name = next((name for name in ANSWERS if _answer(rows[0], name) is not None), None)
    if name is not None:
        answers = [_answer(row, name) for row in rows]
        both = zip(texts, answers, strict=True)
        examples = [_answered(tokenizer, text, answer) for text, answer in both if answer]
        found = _counterfactual([e for e in examples if e is not None], size)
        if len(found) >= LEAST:
            return found, f"two prompts with another {name}, answered at once"
    styles = [encode(tokenizer, style) for style in STYLES]
    length = min(START, *map(len, styles))
    prompts = [encode(tokenizer, text) for text in dict.fromkeys(texts)]
    clean, corrupted = (style[:length] for style in styles)
    pairs = [Pair((*prompt, *clean), (*prompt, *corrupted)) for prompt in prompts]
    return pairs, "prompts with two styles of answer"


def _written(prompt: Any, tokenizer: PreTrainedTokenizerBase) -> str:
    """A prompt as the model gets it."""
    return prompt if isinstance(prompt, str) else render(tokenizer, list(prompt), True)


def _answer(row: Mapping[str, Any], name: str) -> str | None:
    """The answer in a column, as text; verl's is inside an object."""
    value = row.get(name)
    if isinstance(value, Mapping):
        value = value.get("ground_truth")
    is_one = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value).strip() or None if is_one else None


def _answered(tokenizer: PreTrainedTokenizerBase, text: str, answer: str) -> _Example | None:
    """A prompt and its answer; None where the two merge into one token."""
    prompt, whole = encode(tokenizer, text), encode(tokenizer, text + answer)
    return _Example(prompt, whole[len(prompt) :]) if whole[: len(prompt)] == prompt else None
