"""The pairs of a run stay those that it began with."""

from __future__ import annotations

import json

import pytest

from analysis.prompts.pairs import Pair, Pairs
from analysis.tracking.tracker import freeze_pairs


def test_pairs_hash_and_freezing(tmp_path):
    pairs = Pairs([Pair((1, 2), (1, 3), 4, 5), Pair((7,), (8,))])
    assert freeze_pairs(tmp_path, pairs).hash == pairs.hash
    assert Pairs.load(tmp_path / "pairs.jsonl").hash == pairs.hash
    assert json.loads((tmp_path / "pairs.json").read_text())["hash"] == pairs.hash
    changed = Pairs([Pair((1, 2), (1, 3), 4, 6), Pair((7,), (8,))])
    assert changed.hash != pairs.hash
    with pytest.raises(ValueError, match="holds other pairs"):
        freeze_pairs(tmp_path, changed)
