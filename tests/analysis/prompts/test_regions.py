"""Regions of prompts: operands, the answer, the think tags, and sentences."""

from __future__ import annotations

from typing import Any

from analysis import Pair, Pairs
from analysis.prompts.pairs import encode
from analysis.prompts.regions import Region, find_regions
from train.recipes.tiny import build_tokenizer


def chat_pairs(tokenizer: Any, *texts: str) -> Pairs:
    ids = [encode(tokenizer, text) for text in texts]
    return Pairs([Pair(one, one) for one in ids])


def words(tokenizer: Any, pairs: Pairs, row: int, tokens: tuple[int, ...]) -> str:
    return "".join(tokenizer.decode([pairs[row].clean_ids[t]]) for t in tokens)


def test_regions_of_chat_prompts() -> None:
    tokenizer = build_tokenizer()
    start = "<|im_start|>system\nUse 1 line.<|im_end|>\n<|im_start|>user\n"
    asked = "<|im_end|>\n<|im_start|>assistant\n"
    pairs = chat_pairs(
        tokenizer,
        f"{start}What is 12 + 34?{asked}<think>12é",
        f"{start}Say 7 twice.{asked}<think>\n\n</think>\n\n",
        f"{start}No chat: 5 + 6 =",
        f"{start}Hello{asked}",
    )
    found = find_regions(pairs, tokenizer)
    said = [
        [
            words(tokenizer, pairs, row, tokens)
            for tokens in (region.operands, region.answer, region.think)
        ]
        for row, region in enumerate(found.each)
    ]
    assert said[0][:1] + said[0][2:] == ["1234", "<think>"]
    assert said[0][1].startswith("<think>12")
    assert len(found.each[0].answer) == 5  # é is two tokens here
    assert said[1] == ["7", "<think>\n\n</think>\n\n", "<think></think>"]
    assert said[2] == ["56", "", ""]
    assert said[3] == ["", "", ""]
    assert found.unit == "tokens"
    assert found.each[3].chunks == tuple(range(-1, len(pairs[3].clean_ids) - 1))


def test_regions_without_a_tokenizer_or_a_template() -> None:
    tokenizer = build_tokenizer()
    pairs = chat_pairs(tokenizer, "12 + 34 =", "5 + 67 =")
    bare = find_regions(pairs)
    assert bare.each[0] == Region((), (), (), tuple(range(-1, 8)))
    tokenizer.chat_template = None
    found = find_regions(pairs, tokenizer)
    assert [words(tokenizer, pairs, row, r.operands) for row, r in enumerate(found.each)] == [
        "1234",
        "567",
    ]
    assert found.each[0].answer == ()


def test_sentences_are_the_unit_where_there_are_enough() -> None:
    tokenizer = build_tokenizer()
    text = "So 3.5 is it. Is it?\n\nYes! " + "Go on. " * 9
    pairs = chat_pairs(tokenizer, text, text + "End")
    found = find_regions(pairs, tokenizer)
    assert found.unit == "sentences"
    chunks = found.each[1].chunks
    parts = [
        words(tokenizer, pairs, 1, tuple(t for t, c in enumerate(chunks) if c == j))
        for j in range(chunks[-1] + 1)
    ]
    assert parts[:4] == ["So 3.5 is it.", " Is it?\n\n", "Yes!", " Go on."]
    assert parts[-1] == " End"
    assert len(parts) == 13
    short = chat_pairs(tokenizer, text, "One. Two.")
    assert find_regions(short, tokenizer).unit == "tokens"
