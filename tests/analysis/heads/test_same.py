"""Whether heads are the same: columns and patterns against oracles, and changes that are known."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from analysis.detection.detect import anatomy
from analysis.heads import columns as columns_module
from analysis.heads.attention import PATTERN_SCORES, pattern_scores
from analysis.heads.columns import Columns, alike, columns, cosines, cosines_among, sketch
from analysis.heads.pattern_rows import (
    PatternRows,
    Patterns,
    correlations,
    correlations_among,
    counts_kept,
    queries,
)
from analysis.heads.resampling import resample_weights
from analysis.heads.same import Kept, by_chance, compare_heads
from analysis.prompts.regions import find_regions
from tests.support.families.build import build
from tests.support.models import random_pairs, tiny_model

PAIRS = random_pairs(4, (9, 6, 7, 1))
LENGTHS = [len(pair.clean_ids) for pair in PAIRS]
LAYERS = [0] * 4 + [1] * 4
PLENTY = 10**6


def patterns_of(model: Any, most: int = PLENTY, batch_size: int = 3) -> Patterns:
    """What is kept of a model's patterns, as the tracker keeps it."""
    counts = counts_kept(LENGTHS, most)
    kept = PatternRows(PAIRS, anatomy(model).graph.n_heads_total, most, max(counts))
    regions = find_regions(PAIRS, None)
    found = pattern_scores(model, PAIRS, regions.each, batch_size, kept=kept)
    assert found.shape[1] == len(PATTERN_SCORES)
    own = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    return Patterns(kept.rows[own], LENGTHS, most)


def seen_by_transformers(model: Any) -> list[torch.Tensor]:
    """The patterns of each prompt by transformers itself: [A, T, T] each."""
    model.set_attn_implementation("eager")
    found = []
    for pair in PAIRS:
        with torch.no_grad():
            output = model(torch.tensor([pair.clean_ids]), output_attentions=True)
        found.append(torch.cat([layer[0] for layer in output.attentions]))
    return found


def rows_of(model: Any, kind: str, layer: int = 0) -> torch.Tensor:
    return getattr(model.model.layers[layer].self_attn, f"{kind}_proj").weight.data


@pytest.mark.parametrize("architecture", ["qwen2", "gemma2", "gpt2"])
def test_columns_are_compared_as_they_are_used(architecture: str) -> None:
    base = tiny_model(architecture)
    before = columns(base)
    _, heads = anatomy(base).heads[0]
    block = heads.W_O[1, : heads.head_width].flatten()
    torch.testing.assert_close(
        before.heads[1], block / block.abs().max(), rtol=1e-3, atol=1e-3, check_dtype=False
    )
    assert cosines(before, before).eq(1).all()
    with torch.no_grad():
        weight = heads.o_proj.weight if architecture != "gpt2" else heads.o_proj.weight.T
        old = weight.clone()
        weight[:, 0:8] = -old[:, 0:8]  # negated
        weight[:, 8:16], weight[:, 16:24] = old[:, 16:24], old[:, 8:16]  # exchanged
        weight[:, 24:32] = 7 * old[:, 24:32]  # scaled
    value, low, high = cosines(before, columns(base))
    other = alike(before.heads[1], before.heads[2])
    assert value[:4].tolist() == pytest.approx([-1, float(other), float(other), 1], abs=1e-6)
    assert value[4:].eq(1).all() and torch.equal(low, value) and torch.equal(high, value)


def test_columns_of_an_adapter_are_those_of_its_merged_copy() -> None:
    from peft import LoraConfig, get_peft_model

    base = tiny_model("llama")
    before = columns(base)
    config = LoraConfig(r=2, target_modules=["o_proj"], init_lora_weights=False)
    model = get_peft_model(base, config).double()
    found = columns(model)
    wanted = columns(copy.deepcopy(model).eval().merge_and_unload())
    torch.testing.assert_close(found.values, wanted.values, rtol=1e-3, atol=1e-3)
    with model.disable_adapter():
        assert cosines(before, columns(model))[0].eq(1).all()
    assert cosines(before, found)[0].lt(1).all()


def test_large_models_keep_a_sketch_whose_error_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 200, 3000, generator=generator, dtype=torch.float64)
    y = 0.5 * x + (1 - 0.25) ** 0.5 * y
    exact = alike(x, y)
    error = (alike(sketch(x, 300), sketch(y, 300)) - exact) * 300**0.5 / (1 - exact.square())
    assert float(error.std()) == pytest.approx(1, abs=0.15)
    assert abs(float(error.mean())) < 0.2
    assert sketch(x, 3000) is x
    base, later = tiny_model("qwen2"), tiny_model("qwen2", seed=1)
    monkeypatch.setattr(columns_module, "MOST", 2 * 8 * 64)
    kept, now = columns(base), columns(later)
    assert kept.sketched and kept.lengths.tolist() == [64] * 8
    assert cosines(kept, columns(base)).eq(1).all()
    value, low, high = cosines(kept, now)
    torch.testing.assert_close(high - value, 1.96 * (1 - value.square()) / 8, rtol=1e-6, atol=0)
    assert (low < value).all()
    monkeypatch.undo()
    with pytest.raises(ValueError, match="of another size"):
        cosines(kept, columns(later))


def test_a_head_without_weights_is_the_same_only_as_another() -> None:
    zero, one = torch.zeros(3), torch.ones(3)
    assert [float(alike(a, b)) for a, b in ((zero, zero), (zero, one), (one, zero))] == [1, 0, 0]


def test_queries_are_spread_evenly_and_fit() -> None:
    assert queries(5, 100) == [0, 1, 2, 3, 4]
    assert queries(9, 22) == [2, 5, 8]
    assert queries(50, 3) == [49]  # the last at least
    for length in range(1, 60):
        for most in (1, 30, 200, 1000):
            found = queries(length, most)
            assert found[-1] == length - 1 and len(set(found)) == len(found)
            assert len(found) == 1 or sum(query + 1 for query in found) <= most


@pytest.mark.parametrize("most", [PLENTY, 20])
def test_correlations_are_those_of_the_definition(most: int) -> None:
    """Pearson's, of the shares less the mean of the layer's heads in the base, prompt by prompt."""
    base, later = tiny_model("qwen2", torch.float32), tiny_model("qwen2", torch.float32, seed=1)
    kept, now = patterns_of(base, most), patterns_of(later, most, batch_size=1)
    found = correlations(kept, now, LAYERS)
    assert found[3].isnan().all()  # a prompt of one token
    assert correlations(kept, kept, LAYERS)[:3].eq(1).all()
    patterns = [seen_by_transformers(model) for model in (base, later)]
    for row, length in enumerate(LENGTHS[:3]):
        a, b = (
            torch.stack([A[:, q, k] for q in queries(length, most) for k in range(q + 1)], 1)
            for A in (patterns[0][row], patterns[1][row])
        )
        usual = a.view(2, 4, -1).mean(1, keepdim=True).expand(2, 4, -1).reshape_as(a)
        for head in range(8):
            both = torch.stack([a[head] - usual[head], b[head] - usual[head]])
            wanted = float(torch.corrcoef(both)[0, 1])
            assert float(found[row, head]) == pytest.approx(wanted, abs=5e-3)
    with pytest.raises(ValueError, match="of other prompts"):
        correlations(kept, Patterns(now.shares, [9, 6, 7, 2], most), LAYERS)


def test_a_usual_head_that_moves_next_to_nothing_is_the_same() -> None:
    """All attend to the first token: what is left beyond that is noise."""
    at = [(q, k) for q in range(6) for k in range(q + 1)]
    first = torch.tensor([float(k == 0) for _, k in at])
    even = torch.tensor([1 / (q + 1) for q, _ in at])
    base = torch.stack([first, first, first, even], 1)
    for much, wanted in ((0.005, 1.0), (0.9, 0.0)):
        now = base.clone()
        now[:, 0] = (1 - much) * first + much * even
        found = correlations(*(Patterns(x.half(), [6], 99) for x in (base, now)), [0] * 4)
        assert found[0, 1:].eq(1).all()
        assert float(found[0, 0]) == 1 if wanted else float(found[0, 0]) < 0


def test_a_head_that_stands_alone_is_compared_beyond_even_attention() -> None:
    generator = torch.Generator().manual_seed(0)
    A, B = (torch.rand(2, 5, 5, generator=generator).tril() for _ in range(2))
    A, B = (x / x.sum(-1, keepdim=True) for x in (A, B))
    at = [(q, k) for q in range(5) for k in range(q + 1)]
    a, b = (torch.stack([x[:, q, k] for q, k in at]).half() for x in (A, B))
    b[:, 1] = torch.nan  # another without a pattern
    found = correlations(Patterns(a, [5], 99), Patterns(b, [5], 99), [0, 1])
    even = torch.tensor([1 / (q + 1) for q, _ in at])
    wanted = float(torch.corrcoef(torch.stack([a[:, 0] - even, b[:, 0] - even]))[0, 1])
    assert float(found[0, 0]) == pytest.approx(wanted, abs=1e-3)
    assert found[0, 1].isnan()


def same(base: Kept, now: Kept) -> Any:
    groups = [0, 1, 2, 3]
    return compare_heads(base, now, LAYERS, resample_weights(groups, 100, 0), groups)


def kept_of(model: Any) -> Kept:
    return Kept(columns(model), patterns_of(model))


def test_what_was_rewritten_is_told_and_nothing_else() -> None:
    model = tiny_model("qwen2", torch.float32)
    base = kept_of(model)
    unchanged = same(base, kept_of(model))
    assert unchanged.o_proj.eq(1).all() and unchanged.attention.eq(1).all()
    assert not unchanged.changed.any()
    assert (unchanged.below.value, unchanged.below.low, unchanged.below.high) == (0, 0, 0)
    with torch.no_grad():
        rows_of(model, "v", 1)[:] *= 3  # values only
    assert not same(base, kept_of(model)).changed.any()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        q = rows_of(model, "q", 1)[0:8]
        q.copy_(torch.randn(q.shape, generator=generator) * 3)  # of L1H0
        rows_of(model, "o", 1)[:, 8:16] *= -1  # of L1H1
    now = same(base, kept_of(model))
    assert now.changed.tolist() == [False] * 4 + [True, True, False, False]
    assert now.o_proj[0].tolist() == pytest.approx([1, 1, 1, 1, 1, -1, 1, 1])
    assert float(now.attention[2, 4]) < 0.5 and now.attention[0, 5:].eq(1).all()
    assert now.below.value == 2
    # one prompt has no interval, so only columns can tell
    one = compare_heads(base, kept_of(model), LAYERS, resample_weights([0] * 4, 9, 0), [0] * 4)
    assert one.attention[1:].isnan().all()
    assert one.changed.tolist() == [False] * 5 + [True, False, False]


def test_heads_of_linear_attention_have_columns_and_no_pattern() -> None:
    model = build("qwen3_next")
    graph = anatomy(model).graph
    kept = kept_of(model)
    layers = [layer for layer, _ in graph.heads]
    found = compare_heads(kept, kept, layers, resample_weights(range(4), 20, 0), range(4))
    linear = torch.tensor([kind == "linear" for kind in graph.head_kinds])
    assert found.o_proj.eq(1).all()
    assert torch.equal(found.attention[0].isnan(), linear) and not found.changed.any()


def test_chance_is_of_different_heads_of_one_layer() -> None:
    model = tiny_model("qwen2", torch.float32)
    kept = kept_of(model)
    among = cosines_among(kept.columns, LAYERS)
    assert len(among) == 12
    heads = kept.columns.heads
    assert float(among[0]) == pytest.approx(float(alike(heads[0], heads[1])))
    assert float(among[-1]) == pytest.approx(float(alike(heads[6], heads[7])))
    exchanged = Patterns(kept.patterns.shares[:, [1, 0, *range(2, 8)]], LENGTHS, PLENTY)
    pairs = correlations_among(kept.patterns, LAYERS)
    moved = correlations(kept.patterns, exchanged, LAYERS)
    assert float(pairs[0]) == pytest.approx(float(moved[:3, 0].mean()))
    level = by_chance(kept, LAYERS)
    assert level["o_proj"] == pytest.approx(
        (float(among.mean()), float(torch.quantile(among, 0.975)))
    )
    assert level["attention"][0] == pytest.approx(float(pairs.mean()))
    alone = by_chance(kept, list(range(8)))
    assert all(number != number for both in alone.values() for number in both)


def test_sketches_of_other_sizes_are_told() -> None:
    small = Columns(torch.zeros(4).half(), torch.tensor([2, 2], dtype=torch.int32), False)
    with pytest.raises(ValueError, match="of another size"):
        cosines(small, Columns(torch.zeros(4).half(), torch.tensor([1, 3]).int(), False))
