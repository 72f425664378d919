"""Files of pairs: what is malformed, or tells nothing apart, is named by its line."""

from __future__ import annotations

import json

import pytest

from analysis.prompts.pairs import Pairs, holds_text
from train.recipes.tiny import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def sentencepiece():
    """A tokenizer that, as SentencePiece's do, begins every text with a token of its own."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(["<unk>", "▁", "▁1", *"0123456789+=", "46"])}
    bare = Tokenizer(models.BPE(vocabulary, [("▁", "1"), ("4", "6")], unk_token="<unk>"))
    bare.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    bare.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    bare.decoder = decoders.Replace("▁", " ")
    return PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="<unk>")


def load(tmp_path, tokenizer, *rows: dict, metric: str | None = None) -> Pairs:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert holds_text(path) == any("clean" in row for row in rows)
    return Pairs.load(path, tokenizer, metric)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"clean_ids": [1], "corrupted_ids": [1, 2]}', "line 2: clean has 1 tokens"),
        ('{"clean_ids": [1]}', "line 2: needs clean and corrupted"),
        ('{"clean": "a", "corrupted": "b"}', "line 2: a pair given as text needs a tokenizer"),
        ('{"clean_ids": [1], "corrupted_ids": [2], "targte_id": 3}', "unknown fields"),
        ('{"clean_ids": [1], "corrupted_ids": [1]}', "line 2: clean and corrupted are the same"),
        ('{"clean_ids": [1], "corrupted_ids": [-2]}', "line 2: corrupted_ids has the token id -2"),
        ('{"clean_ids": [1.0], "corrupted_ids": [2]}', "line 2: clean_ids must hold integers"),
        ('{"clean_ids": [true], "corrupted_ids": [2]}', "line 2: clean_ids must hold integers"),
        (
            '{"clean_ids": [1], "corrupted_ids": [2], "target_id": "3"}',
            "line 2: target_id must hold integers",
        ),
        (
            '{"clean_ids": [1], "corrupted_ids": [2], "target_id": 3, "foil_id": 3}',
            "line 2: target and foil begin with the same token, and",
        ),
        ("[1, 2]", "line 2: not a JSON object"),
        ("{", "line 2"),
    ],
)
def test_malformed_pairs_are_named_by_line(tmp_path, line, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"clean_ids": [1], "corrupted_ids": [2]}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        Pairs.load(path, metric="logit_diff")


SUM = {"clean": "12+34=", "corrupted": "12+35=", "target": "46", "foil": "57"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": 52}, "target is 52, and has to be text, in quotation marks"),
        ({"foil": ["5"]}, r'foil is \["5"\], and has to be text'),
        ({"clean": 7}, "clean is 7, and has to be text"),
        ({"target": ""}, "target is empty"),
        ({"foil": "46"}, "target and foil are the same text, '46'"),
        ({"foil": "47"}, r"target and foil begin with the same token \('4'\)"),
        ({"corrupted": "12+34="}, "clean and corrupted are the same prompt"),
        ({"corrupted": "12+345="}, "clean has 6 tokens and corrupted 7"),
        ({"target_id": 3}, r"unknown fields \['target_id'\]"),
    ],
)
def test_pairs_of_text_that_tell_nothing_are_named_by_line(tmp_path, tokenizer, change, message):
    with pytest.raises(ValueError, match=f"pairs.jsonl, line 2: {message}"):
        load(tmp_path, tokenizer, SUM, SUM | change)


def test_targets_are_compared_where_the_metric_does(tmp_path, tokenizer):
    """The answers 46 and 47 are one token here, which matters only to what compares them."""
    assert load(tmp_path, tokenizer, SUM | {"foil": "47"}, metric="kl")[0].target_id is not None
    ids = {"clean_ids": [1], "corrupted_ids": [2], "target_id": 3, "foil_id": 3}
    assert load(tmp_path, None, ids)[0].foil_id == 3


def test_targets_are_what_follows_the_prompt(tmp_path, tokenizer, sentencepiece):
    (pair,) = load(tmp_path, tokenizer, SUM)
    assert [tokenizer.decode([i]) for i in (pair.target_id, pair.foil_id)] == ["4", "5"]
    (pair,) = load(tmp_path, sentencepiece, SUM)
    found = sentencepiece.convert_ids_to_tokens([pair.target_id, pair.foil_id])
    assert found == ["46", "5"]  # alone, each would begin with the same token
    (pair,) = load(tmp_path, sentencepiece, SUM | {"target": None, "foil": None})
    assert (pair.target_id, pair.foil_id) == (None, None)


def test_a_target_that_merges_with_the_prompt_is_named(tmp_path, sentencepiece):
    merging = {"clean": "12+4", "corrupted": "12+5", "target": "6", "foil": "7"}
    with pytest.raises(ValueError, match="line 1: target '6' does not follow clean as a token"):
        load(tmp_path, sentencepiece, merging)


def test_token_ids_stay_as_they_are(tmp_path):
    row = {"clean_ids": [1, 2], "corrupted_ids": [1, 3], "target_id": 0, "positions": [0, -1]}
    (pair,) = load(tmp_path, None, row | {"foil_id": None})
    assert (pair.clean_ids, pair.target_id, pair.foil_id) == ((1, 2), 0, None)
    with pytest.raises(ValueError, match="the model's vocabulary ends at 2"):
        Pairs([pair]).check_vocabulary(3)
