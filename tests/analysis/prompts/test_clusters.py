"""The size of a sample of pairs: pairs that share a prompt count once."""

from __future__ import annotations

import pytest

from analysis.prompts.pairs import Pair, Pairs


def pair(clean: str, corrupted: str, *positions: int) -> Pair:
    ids = (tuple(map(ord, text)) for text in (clean, corrupted))
    return Pair(*ids, positions=positions or (-1,))


CASES = {
    "distinct": ([("ab", "ac"), ("ba", "bc"), ("cb", "ca")], [0, 1, 2]),
    "repeated": ([("ab", "ac")] * 3, [0, 0, 0]),
    "reversed": ([("ab", "ac"), ("ba", "bc"), ("ac", "ab")], [0, 1, 0]),
    "one clean": ([("ab", "ac"), ("ab", "bc"), ("cb", "ca")], [0, 0, 1]),
    "one corrupted of some": ([("ab", "cc"), ("ba", "cc"), ("cb", "ca")], [0, 0, 1]),
    "a chain": ([("aa", "ab"), ("xx", "xy"), ("ac", "ad"), ("ad", "ab")], [0, 1, 0, 0]),
    "one baseline for all": ([("ab", "xx"), ("ba", "xx"), ("cb", "xx")], [0, 1, 2]),
    "a baseline, and a clean prompt twice": ([("ab", "xx"), ("ba", "xx"), ("ab", "xx")], [0, 1, 0]),
    "alike up to where they are read": ([("abc", "axc", 1), ("abd", "ayd", 1)], [0, 0]),
    "read at two places": ([("abc", "axc", 1), ("abc", "axc", 2)], [0, 0]),
    "other beyond what the first reads": ([("abc", "axc", 1), ("abd", "ayd")], [0, 1]),
    "one pair": ([("ab", "ac")], [0]),
}


@pytest.mark.parametrize("name", CASES)
def test_pairs_that_share_a_prompt_are_one_cluster(name: str) -> None:
    prompts, groups = CASES[name]
    pairs = Pairs([pair(*one) for one in prompts])
    assert pairs.groups == groups
    assert pairs.n_distinct == len(set(groups))


def test_target_and_foil_make_no_further_pair() -> None:
    assert Pairs([Pair((1, 2), (1, 3), *ids) for ids in ((4, 5), (5, 4), (4, 6))]).n_distinct == 1
