"""Which tokens of a prompt are the question's operands, the answer, the think tag, or a sentence.

    operands   tokens with a digit in the question: after what all prompts of the set begin with
               (system prompt, start of the template) and before the answer
    answer     tokens after the last generation prompt of the chat template, rendered with its
               defaults: the part of the answer that the prompt gives already
    think tag  tokens of every <think> and </think>, whichever side of the answer's start they are
    chunks     sentences, which end with a line, or with `.`, `?` or `!` before white space

All are found in the text of the tokens, so they need the tokenizer; without one, or where a prompt
has none, the lists are empty. If the template's generation prompt is not in a prompt, all of it is
question. Chunks are single tokens, the first left out, unless every prompt has enough sentences:
prompts are short, and the first token is where heads rest (Xiao et al. 2023, arXiv 2309.17453).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from analysis.prompts.pairs import Pairs
from analysis.prompts.template import generation_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GAP = 4  # chunks: how far apart two must be for the attention between them to count
ENOUGH = 8  # chunks that others can be GAP away from, below which a kurtosis says nothing
_THINK = re.compile(r"</?think>")
_SENTENCE = re.compile(r"(?:[.?!](?=\s)[^\S\n]*)?\n+|[.?!](?=\s)")


@dataclass(frozen=True)
class Region:
    """Token positions of one prompt. chunks: the chunk of each token, from 0; -1 if in none."""

    operands: tuple[int, ...]
    answer: tuple[int, ...]
    think: tuple[int, ...]
    chunks: tuple[int, ...]


@dataclass(frozen=True)
class Regions:
    """Those of the clean prompts of some pairs. unit: of the chunks, `sentences` or `tokens`."""

    each: list[Region]
    unit: str


def find_regions(pairs: Pairs, tokenizer: PreTrainedTokenizerBase | None = None) -> Regions:
    """The regions of the clean prompts; without a tokenizer, chunks of single tokens only."""
    prompts = [pair.clean_ids for pair in pairs]
    if tokenizer is None:
        return Regions([Region((), (), (), _single(len(ids))) for ids in prompts], "tokens")
    begin = len(os.path.commonprefix([*prompts, *(pair.corrupted_ids for pair in pairs)]))
    texts = [token_texts(tokenizer, ids) for ids in prompts]
    sentences = [_sentences(pieces) for pieces in texts]
    long = all(chunks[-1] + 1 >= ENOUGH + GAP for chunks in sentences)
    generation = _generation_prompt(tokenizer)
    each = [
        _region(pieces, begin, generation, chunks if long else _single(len(pieces)))
        for pieces, chunks in zip(texts, sentences, strict=True)
    ]
    return Regions(each, "sentences" if long else "tokens")


def _single(length: int) -> tuple[int, ...]:
    return tuple(range(-1, length - 1))


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text of each token, with the space before it, as it stands after the token before it."""

    def text(some: Sequence[int]) -> str:
        return str(tokenizer.decode(list(some), clean_up_tokenization_spaces=False))

    found = [text(ids[:1])]
    for before, token in zip(ids, ids[1:], strict=False):
        found.append(text([before, token])[len(text([before])) :])
    return found


def _generation_prompt(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What the chat template writes before an answer, or None if that can't be told."""
    try:
        return generation_prompt(tokenizer) or None
    except ValueError:
        return None


def _starts(pieces: Sequence[str]) -> list[int]:
    """Where each token begins in the text, in characters; then the length of the text."""
    return [0, *accumulate(map(len, pieces))]


def _sentences(pieces: Sequence[str]) -> tuple[int, ...]:
    ends = [found.end() for found in _SENTENCE.finditer("".join(pieces))]
    passed = [sum(end <= start for end in ends) for start in _starts(pieces)[:-1]]
    order = {count: index for index, count in enumerate(dict.fromkeys(passed))}
    return tuple(order[count] for count in passed)


def _region(
    pieces: Sequence[str], begin: int, generation: str | None, chunks: tuple[int, ...]
) -> Region:
    starts, text = _starts(pieces), "".join(pieces)
    place = -1 if generation is None else text.rfind(generation)
    answer = len(text) if place < 0 else place + len(generation or "")
    tags = [found.span() for found in _THINK.finditer(text)]
    tokens = range(len(pieces))
    return Region(
        operands=tuple(
            t for t in tokens[begin:] if starts[t] < answer and re.search(r"\d", pieces[t])
        ),
        answer=tuple(t for t in tokens if starts[t] >= answer),
        think=tuple(
            t for t in tokens if any(starts[t] < end and starts[t + 1] > at for at, end in tags)
        ),
        chunks=chunks,
    )
