"""Files of pairs: what is malformed is named by its line."""

from __future__ import annotations

import pytest

from analysis.prompts.pairs import Pairs


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"clean_ids": [1], "corrupted_ids": [1, 2]}', "line 2: clean has 1 tokens"),
        ('{"clean_ids": [1]}', "line 2: needs clean and corrupted"),
        ('{"clean": "a", "corrupted": "b"}', "line 2: a pair given as text needs a tokenizer"),
        ('{"clean_ids": [1], "corrupted_ids": [2], "targte_id": 3}', "unknown fields"),
        ("[1, 2]", "line 2: not a JSON object"),
        ("{", "line 2"),
    ],
)
def test_malformed_pairs_are_named_by_line(tmp_path, line, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"clean_ids": [1], "corrupted_ids": [2]}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        Pairs.load(path)
