"""Scores of heads: against eager models, hand-made patterns, scipy, and maps on the vocabulary."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from analysis import Pair, Pairs
from analysis.detection.detect import anatomy
from analysis.heads.attention import (
    PATTERN_SCORES,
    excess_kurtosis,
    pattern_scores,
    score_patterns,
    score_weights,
)
from analysis.heads.copying import copying
from analysis.heads.patterns import eager, see_patterns
from analysis.prompts.regions import Region
from tests.support.models import tiny_model


def patterns_of(model: Any, ids: torch.Tensor) -> list[torch.Tensor]:
    """By transformers' own output of a model that was built eager."""
    config = copy.deepcopy(model.config)
    config._attn_implementation = "eager"
    twin = type(model)(config).to(next(model.parameters()).dtype).eval()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        return list(twin(input_ids=ids, output_attentions=True, use_cache=False).attentions)


def defined_scores(pattern: np.ndarray, pair: Pair, region: Region) -> list[float]:
    """The sums of one head, token by token, as the docstring of attention.py says them."""
    ids, length = pair.clean_ids, len(pair.clean_ids)
    previous = [pattern[t, t - 1] for t in range(1, length)]
    earlier = {t: [j for j in range(t - 1) if ids[j] == ids[t]] for t in range(length)}
    induction = [sum(pattern[t, j + 1] for j in js) for t, js in earlier.items() if js]
    found = [previous, induction]
    for region_tokens in (region.operands, region.answer, region.think):
        reads = [position % length for position in pair.positions]
        below = {read: [k for k in region_tokens if k <= read] for read in reads}
        found.append([sum(pattern[read, k] for k in ks) for read, ks in below.items() if ks])
    return [float(np.mean(values)) if values else math.nan for values in found]


def published_kurtosis(pattern: np.ndarray, chunks: tuple[int, ...]) -> float:
    """With the sentence averages and NaNs of the code of Thought Anchors."""
    n = max(chunks) + 1
    tokens = [[t for t, chunk in enumerate(chunks) if chunk == j] for j in range(n)]
    average = np.array([[pattern[np.ix_(a, b)].mean() for b in tokens] for a in tokens])
    vertical = [average[j + 4 :, j].mean() if j + 4 < n else math.nan for j in range(n)]
    return float(stats.kurtosis(vertical, fisher=True, bias=True, nan_policy="omit"))


def some_pairs() -> tuple[Pairs, list[Region]]:
    """Two prompts of unequal length with repeated tokens, and regions in them."""
    generator = torch.Generator().manual_seed(3)
    clean = [tuple(torch.randint(3, 9, (n,), generator=generator).tolist()) for n in (25, 19)]
    pairs = Pairs([Pair(clean[0], clean[0][::-1]), Pair(clean[1], clean[1], positions=(3, -1))])
    sentences = tuple(t // 2 for t in range(25))
    return pairs, [
        Region((2, 3, 9), (20, 21, 24), (5,), sentences),
        Region((5, 6), (), (1, 2), tuple(range(-1, 18))),
    ]


def test_patterns_are_those_of_an_eager_model(architecture: str) -> None:
    model = tiny_model(architecture)
    ids = torch.randint(3, 50, (3, 9), generator=torch.Generator().manual_seed(1))
    seen: dict[int, torch.Tensor] = {}
    see_patterns(anatomy(model), ids, lambda layer, heads, A: seen.update({layer: A}))
    expected = patterns_of(model, ids)
    assert list(seen) == list(range(len(expected)))
    for layer, pattern in enumerate(expected):
        torch.testing.assert_close(seen[layer], pattern, atol=1e-6, rtol=0)


def test_the_implementation_of_attention_comes_back(architecture: str) -> None:
    model = tiny_model(architecture)
    ids = torch.randint(3, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    before = model.config._attn_implementation
    with torch.no_grad():
        logits = model(input_ids=ids).logits

    def fail(layer: int, heads: Any, pattern: torch.Tensor) -> None:
        raise KeyError(layer)

    with pytest.raises(KeyError):
        see_patterns(anatomy(model), ids, fail)
    with eager(model):
        assert model.config._attn_implementation == "eager"
    assert model.config._attn_implementation == before
    assert not any(module._forward_hooks for module in model.modules())
    with torch.no_grad():
        assert model(input_ids=ids).logits.equal(logits)


def test_scores_are_those_of_the_definitions(architecture: str) -> None:
    model = tiny_model(architecture)
    pairs, regions = some_pairs()
    found = pattern_scores(model, pairs, regions, batch_size=2)
    assert found.shape == (2, len(PATTERN_SCORES), 8)
    torch.testing.assert_close(
        pattern_scores(model, pairs, regions, batch_size=1), found, equal_nan=True
    )
    for row, (pair, region) in enumerate(zip(pairs, regions, strict=True)):
        patterns = torch.cat(patterns_of(model, torch.tensor([pair.clean_ids])), 1)[0].numpy()
        for head, pattern in enumerate(patterns.astype(float)):
            wanted = defined_scores(pattern, pair, region)
            np.testing.assert_allclose(found[row, :5, head], wanted, atol=2e-6)
            kurtosis = published_kurtosis(pattern, region.chunks)
            if np.isfinite(kurtosis):
                np.testing.assert_allclose(found[row, 5, head], kurtosis, rtol=1e-3)
            else:  # a window so short that no attention reaches four chunks back
                assert found[row, 5, head].isnan()


def hand_made(kind: str, ids: tuple[int, ...]) -> torch.Tensor:
    """[1, 1, T, T]"""
    length = len(ids)
    A = torch.zeros(length, length, dtype=torch.float64)
    for t in range(length):
        after = [j + 1 for j in range(t - 1) if ids[j] == ids[t]]
        A[t, {"previous": max(t - 1, 0), "induction": after[-1] if after else 0}[kind]] = 1
    return A[None, None]


def test_a_planted_head_scores_one_in_its_role_alone() -> None:
    repeated = tuple(range(3, 13))
    pair = Pair(repeated * 2, repeated * 2)
    W = score_weights(pair, Region((), (), (), tuple(range(-1, 19))))[None]
    on = torch.tensor([[19, *range(19)]]), torch.tensor([15])
    previous, induction = (
        score_patterns(hand_made(kind, pair.clean_ids), W, *on)[0, :, 0]
        for kind in ("previous", "induction")
    )
    assert previous[:2].tolist() == pytest.approx([1, 0])
    assert induction[:2].tolist() == pytest.approx([1 / 19, 1])  # t = 1 looks at the first token
    assert previous[2:].isnan().all()  # no regions, and nothing is seen four tokens on
    single = score_weights(Pair((3, 4, 5), (3, 4, 5)), Region((), (), (), (-1, 0, 1)))
    assert not single[1].any()
    assert not single[5].any()


def test_a_head_that_reads_the_operands() -> None:
    pair = Pair(tuple(range(3, 13)), tuple(range(3, 13)), positions=(4, -1))
    region = Region((2, 3), (8, 9), (), tuple(range(-1, 9)))
    A = torch.zeros(1, 1, 10, 10, dtype=torch.float64)
    A[0, 0, 4, 2], A[0, 0, 4, 0] = 0.5, 0.5
    A[0, 0, 9, 2], A[0, 0, 9, 3], A[0, 0, 9, 9] = 0.25, 0.5, 0.25
    chunks = torch.tensor([[9, *range(9)]])
    scores = score_patterns(A, score_weights(pair, region)[None], chunks, torch.tensor([5]))
    operands, answer, think, receiver = scores[0, 2:, 0].tolist()
    assert operands == pytest.approx((0.5 + 0.75) / 2)
    assert answer == pytest.approx(0.25)  # position 4 comes before the answer
    assert math.isnan(think)
    assert math.isnan(receiver)  # too few chunks


def test_kurtosis_is_scipys() -> None:
    x = torch.randn(4, 3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inside = torch.arange(12) < 9
    wanted = stats.kurtosis(x[..., :9].numpy(), axis=-1)
    np.testing.assert_allclose(excess_kurtosis(x, inside).numpy(), wanted)
    assert excess_kurtosis(torch.ones(12), inside).isnan()


def test_copying_is_that_of_the_map_on_the_vocabulary(architecture: str) -> None:
    """Eigenvalues of the whole [V, V] map, with each gain put on by hand."""
    model = tiny_model(architecture)
    parts, found = anatomy(model), copying(model)
    V, groups = 50, parts.graph.n_heads // parts.graph.n_kv_heads
    with torch.no_grad():
        E = parts.embedding(torch.arange(V))
        U = model.lm_head.weight
    centre = architecture == "gpt2"

    def flat(x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(-1, keepdim=True) if centre else x

    for index, score in enumerate(found.tolist()):
        block = parts.blocks[index // 4]
        head = index % 4
        read = flat(E) * block.readings[0].norm.gain
        written = torch.stack(
            [
                v @ block.readings[0].sides[2].weight[head // groups].T @ block.heads[0].W_O[head]
                for v in read
            ]
        )
        logits = (flat(written) * parts.final_norm.gain) @ U.T
        e = np.linalg.eigvals(logits.detach().numpy())
        assert score == pytest.approx(e.sum().real / np.abs(e).sum(), abs=1e-6)


def test_a_head_that_copies_and_one_that_suppresses() -> None:
    model = tiny_model("llama")
    parts = anatomy(model)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)
        for norm in (parts.final_norm, *(block.readings[0].norm for block in parts.blocks)):
            norm.module.weight.fill_(1)
        attention = model.model.layers[1].self_attn
        W_V = attention.v_proj.weight[:8]  # shared by heads 0 and 1
        attention.o_proj.weight[:, :8] = W_V.T
        attention.o_proj.weight[:, 8:16] = -W_V.T
    assert copying(model)[4:6].tolist() == pytest.approx([1, -1])
