"""Whether heads are needed: on a model whose two heads must be used, beside ten that need not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from analysis.detection.detect import anatomy
from analysis.interventions.backups import NoAmounts, backups_of
from analysis.interventions.needed import effect_of, fair_controls, match_of, mean_z
from analysis.interventions.operations import Intervention, constants
from analysis.models.graph import Graph
from analysis.prompts.pairs import Pair, Pairs
from tests.support.known_circuit import HEADS, build_copier, copier_pairs


@pytest.fixture(scope="module")
def copier() -> Any:
    return build_copier()


@pytest.mark.parametrize("metric", ["kl", "logit_diff", "nll"])
def test_what_must_be_used_is_needed_and_random_heads_are_not(copier: Any, metric: str) -> None:
    graph = anatomy(copier).graph
    heads = [graph.parse_head(name) for name in (*HEADS, "L1H0")]
    some, random = fair_controls(heads, graph, 8)
    assert some == heads and len(random) == 8
    found = effect_of(copier, copier_pairs(6), heads, random, metric, batch_size=5)
    assert found.change.low is not None and found.change.low > 1
    assert max(map(abs, found.random)) < 0.01 * found.change.low
    assert found.p_value == pytest.approx(1 / 9)
    assert found.excess is not None and found.excess.low is not None and found.excess.low > 1
    assert found.right is not None and found.right.whole == min(found.right.random) == 1
    assert found.right.out < 0.3
    spare = effect_of(copier, copier_pairs(6), random[0], random[1:], metric)
    assert spare.p_value is not None and spare.p_value > 0.05
    assert spare.excess is not None and abs(spare.excess.estimate.value) < 0.5


def test_the_means_are_those_of_the_operation_whatever_the_batch(copier: Any) -> None:
    parts, some = anatomy(copier), copier_pairs(7)
    longer = Pair(some[0].clean_ids + some[1].clean_ids, some[0].clean_ids + some[2].clean_ids)
    some = Pairs([*some, longer])  # padding is no token
    every = Intervention("mean", tuple(parts.graph.heads))
    expected = constants(copier, every, [pair.clean_ids for pair in some])
    assert expected is not None
    for batch_size in (1, 3, 8):
        for (layer, _), mean in mean_z(parts, some, batch_size).items():
            torch.testing.assert_close(mean, expected.by_layer[layer][0].double(), check_dtype=0)


def test_copies_of_one_pair_give_no_interval(copier: Any) -> None:
    one = Pairs([copier_pairs(1)[0]] * 4)
    found = effect_of(copier, one, [(0, 1)], [[(0, 0)]])
    assert found.change.value is not None and found.change.low is None
    assert found.excess is not None and found.excess.high is None


def test_fair_controls_keep_as_many_heads_as_leave_some() -> None:
    graph = Graph(4, 8, 8)
    few = [(0, 1), (2, 3), (2, 4)]
    kept, sets = fair_controls(few, graph)
    assert kept == few and len(sets) == 20 and match_of(kept, sets).layers == 1
    many = [(layer, head) for head in range(5) for layer in range(3)]
    kept, sets = fair_controls(many, graph)
    assert kept == many[: len(kept)] and 0 < len(kept) < len(many)
    match = match_of(kept, sets)
    assert match.layers >= 0.75 and match.overlap <= 0.5
    alone = [(0, 0), (1, 0)]
    assert fair_controls(alone, Graph(2, 1, 1)) == (alone, [])  # there is no other head
    assert fair_controls(few, graph, count=0) == (few, [])
    one, other = match_of([(0, 1)], [[(0, 2)], [(1, 2)]]), match_of([(0, 1)], [[(0, 2)]] * 2)
    assert (one.layers, one.overlap) == (0.5, 0.0) and (other.layers, other.overlap) == (1.0, 1.0)


def test_a_head_that_takes_over_is_a_backup(copier: Any) -> None:
    """A copy of the last head at a fifth of its weight, saturated beside the original."""
    model = build_copier()
    with torch.no_grad():
        attention = model.model.layers[2].self_attn
        attention.q_proj.weight[48:64] = attention.q_proj.weight[32:48]
        attention.o_proj.weight[:, 48:64] = attention.o_proj.weight[:, 32:48] / 5
    settings = {"method": "EAP-IG-inputs", "metric": "kl", "ig_steps": 4, "quadrature": "midpoint"}
    settings |= {"resamples": 50, "seed": 0}
    found = backups_of(model, copier_pairs(8), [(2, 2)], settings)
    assert found[0].head == "L2H3"
    assert found[0].rise.low is not None and found[0].rise.low > 5
    assert all(one.rise.estimate.value < 0.01 for one in found[1:])  # they add next to nothing
    assert backups_of(copier, copier_pairs(8), [(2, 2)], settings) == []  # nobody takes over
    with pytest.raises(NoAmounts, match=r"the scores miss \d+% of the metric's change"):
        backups_of(copier, copier_pairs(8), [(2, 2)], settings | {"ig_steps": 1})
    one = Pairs([copier_pairs(1)[0]] * 3)
    assert backups_of(model, one, [(2, 2)], settings) == []  # can't be resampled
