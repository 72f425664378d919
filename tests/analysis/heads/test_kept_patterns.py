"""Attention patterns that are kept: what the model attends to, in bytes, and back from a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from analysis import Pair, Pairs
from analysis.heads.kept_patterns import (
    MOST,
    as_kept,
    head_patterns,
    measure_patterns,
    patterns_path,
    read_patterns,
    rows_to_keep,
    write_patterns,
)
from analysis.tracking.settings import TrackingSettings
from analysis.tracking.tracker import HeadTracker
from tests.support.models import random_pairs, tiny_model
from train.recipes.tiny import build_tokenizer


def test_patterns_are_those_of_the_model_where_the_metric_is_read() -> None:
    model = tiny_model("qwen2")
    [first, second] = random_pairs(2, (6, 9))
    pairs = Pairs([Pair(first.clean_ids, first.corrupted_ids, positions=(2, -1)), second])
    found = measure_patterns(model, pairs, 2, 10)
    model.set_attn_implementation("eager")
    for pair, table in zip(pairs, found, strict=True):
        ids = torch.tensor([pair.clean_ids])
        layers = model(ids, output_attentions=True).attentions
        whole = torch.cat([layer[0] for layer in layers])  # [A, T, T]
        expected = whole[:, list(pair.read_at)].mean(1).float()
        torch.testing.assert_close(table[:, : len(pair.clean_ids)], expected)
        assert (table[:, len(pair.clean_ids) :] == 0).all()
    torch.testing.assert_close(found.sum(2), torch.ones(2, found.shape[1]))


def test_prompts_that_are_the_same_are_kept_once() -> None:
    one, two, three = random_pairs(3)
    again = Pair(one.clean_ids, one.clean_ids[::-1])
    assert rows_to_keep(Pairs([one, again, two, three]), 2) == [0, 2]
    assert rows_to_keep(Pairs([one]), 0) == []


def test_a_file_gives_back_what_was_kept(tmp_path: Path) -> None:
    pairs = Pairs([Pair((4, 5, 6, 7), (4, 5, 6, 8)), Pair((4, 5, 9), (4, 5, 8))])
    measured = torch.rand(2, 8, 4)
    measured[:, 5] = torch.nan  # a head without a pattern
    kept = as_kept(measured, pairs, [0, 1], build_tokenizer())
    write_patterns(tmp_path, 40, kept)
    found = read_patterns(tmp_path, 40)
    assert found is not None
    assert (found.prompts, found.pairs_hash) == (kept.prompts, pairs.hash)
    assert found.seen.tolist() == [head != 5 for head in range(8)]
    assert [tuple(table.shape) for table in found.weights] == [(8, 4), (8, 3)]
    assert (found.weights[0][5] == 0).all()
    assert (found.weights[1].float() / 255 - measured[1, :, :3].nan_to_num()).abs().max() < 0.002
    assert read_patterns(tmp_path, 41) is None
    assert as_kept(measured, pairs, [0, 1], None).prompts[1].tokens == ["#4", "#5", "#9"]


def test_the_first_tokens_of_a_long_prompt_share_a_column() -> None:
    ids = tuple(range(MOST + 40))
    measured = torch.full((1, 3, len(ids)), 1 / len(ids))
    kept = as_kept(measured, Pairs([Pair(ids, (1, *ids[1:]))]), [0], None)
    assert kept.weights[0].shape == (3, MOST)
    assert kept.prompts[0].tokens[:2] == ["(41 tokens before)", "#41"]
    assert kept.weights[0][0, 0] == round(255 * 41 / len(ids))


@pytest.mark.parametrize("damage", ["cut", "other", "schema"])
def test_a_damaged_file_is_one_line(tmp_path: Path, damage: str) -> None:
    from safetensors.torch import save

    path = patterns_path(tmp_path, 0)
    kept = as_kept(torch.rand(1, 2, 3), Pairs([Pair((1, 2, 3), (1, 2, 4))]), [0], None)
    write_patterns(tmp_path, 0, kept)
    about = {"schema": "9" if damage == "schema" else "1", "prompts": "[]"}
    tensors = {"seen": torch.ones(2, dtype=torch.bool), "0": torch.ones(2, 3)}
    path.write_bytes(path.read_bytes()[:-9] if damage == "cut" else save(tensors, about))
    with pytest.raises(ValueError, match=r"step-000000\.safetensors .*headlab roles") as error:
        read_patterns(tmp_path, 0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("asked", [0, 3])
def test_tracking_keeps_them_beside_the_record(tmp_path: Path, asked: int) -> None:
    settings = TrackingSettings(fraction=0.1, resamples=2, ig_steps=1, patterns=asked)
    pairs, model = random_pairs(4, (6, 8)), tiny_model("qwen2")
    HeadTracker(tmp_path, pairs, settings).track(model, 3, show_progress=False)
    found = read_patterns(tmp_path, 3)
    if asked == 0:
        assert found is None
        return
    assert found is not None
    expected = head_patterns(model, pairs, most=3)
    assert found.prompts == expected.prompts
    for one, other in zip(found.weights, expected.weights, strict=True):
        assert torch.equal(one, other)
    assert "patterns" not in settings.of_record()
