"""ig_steps=auto: points where a pair's path needs them, until its sum misses little."""

from __future__ import annotations

import math

import pytest
import torch

from analysis import attribute
from analysis.attribution.quadrature import path_points
from analysis.attribution.refinement import MOST, START, Cell, Path, points_of
from tests.support.experts import tiny_mixture
from tests.support.models import random_pairs, tiny_model

AUTO = {"ig_steps": "auto", "quadrature": "midpoint"}


def confident(name: str, times: float = 40.0):
    """A model with a cliff in its path."""
    model = tiny_model(name)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(times)
    return model


def refined(value, slope, gap=0.05):
    """The path of one pair whose metric is a function of alpha, to the end."""

    def at(alpha):
        return value(alpha), slope(alpha)

    path = Path(
        (value(0), value(1)), [Cell(a, w, *at(a)) for a, w in path_points("midpoint", START)]
    )
    places = 0
    while not path.closed(gap) and (worst := path.worst()):
        for cell in worst:
            found = [(*at(alpha), places + i) for i, alpha in enumerate(points_of(cell))]
            places += len(found)
            path.cut(cell, found)
    return path


def cliff(at: float, width: float):
    """A metric that falls from 1 to 0 at a place, and minus its derivative."""

    def value(alpha):
        return 1 / (1 + math.exp(min((alpha - at) / width, 500)))

    def slope(alpha):
        return value(alpha) * (1 - value(alpha)) / width

    return value, slope


@pytest.mark.parametrize("width", [0.1, 0.03, 0.01, 0.003])
@pytest.mark.parametrize("place", [0.15, 0.5, 0.62])
def test_a_cliff_is_found_and_smooth_parts_are_left(place, width):
    path = refined(*cliff(place, width))
    total = sum(cell.slope * cell.width for cell in path.cells)
    change = path.ends[0] - path.ends[1]
    assert total == pytest.approx(change, abs=0.05)
    assert sum(cell.width for cell in path.cells) == pytest.approx(1)
    fine = min(cell.width for cell in path.cells)
    assert path.spent <= (12 if width == 0.1 else 50)  # evenly it were 1 / fine
    assert width > 0.01 or 1 / fine > 2 * path.spent


def test_errors_that_cancel_are_not_taken_for_none():
    up_and_down = Path((0.0, 0.0), [Cell(0.25, 0.5, 3.0, 0.0), Cell(0.75, 0.5, 0.0, 0.0)])
    assert sum(up_and_down.errors()) == 0
    assert not up_and_down.closed(0.05)


def test_a_jump_costs_no_more_than_the_most():
    path = refined(lambda alpha: float(alpha < 0.4), lambda alpha: 0.0)
    assert not path.closed(0.05)
    assert path.spent <= MOST


@pytest.mark.parametrize(("name", "metric"), [("qwen3", "kl"), ("gemma2", "logit_diff")])
def test_a_confident_model_adds_up(name, metric):
    model, pairs = confident(name), random_pairs(4)
    fixed, found, reference = (
        attribute(model, pairs, metric=metric, **how)
        for how in (AUTO | {"ig_steps": START}, AUTO, AUTO | {"ig_steps": 60})
    )
    more = found.points > START
    assert more.any()
    assert torch.equal(found.per_pair[~more], fixed.per_pair[~more])

    def off(scores):
        left = (scores.per_pair - reference.per_pair).flatten(1).norm(dim=1)
        return left / reference.per_pair.flatten(1).norm(dim=1)

    assert (off(found)[more] < 0.5 * off(fixed)[more]).float().mean() >= 0.5
    assert off(found).mean() < 0.15
    change = found.metric_corrupted - found.metric_clean
    missed = (found.per_pair[:, 0].sum(-1) - change).abs()
    assert (missed <= 0.051 * change.abs().clamp(min=float(missed.max()))).all()


def test_scores_do_not_depend_on_the_company():
    model, pairs = confident("llama"), random_pairs(3, (4, 6, 8))
    one, three = (attribute(model, pairs, batch_size=size, **AUTO) for size in (1, 3))
    assert torch.equal(one.points, three.points)
    assert (one.points > START).any()
    assert torch.allclose(one.per_pair, three.per_pair, atol=1e-6 * float(one.per_pair.abs().max()))


def test_a_frozen_routing_is_held_for_the_rows_that_go_on():
    model, pairs = tiny_mixture("plain", seed=3), random_pairs(3)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    found, reference = (
        attribute(model, pairs, metric="logit_diff", routing="frozen", **AUTO | how)
        for how in ({"gap": 0.002}, {"ig_steps": 60})
    )
    assert (found.points > START).any()
    assert torch.allclose(found.mean, reference.mean, atol=0.02 * float(reference.mean.abs().max()))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"ig_steps": "many"}, "ig_steps is 'many'; give a whole number of at least 1, or auto"),
        ({"ig_steps": True}, "ig_steps is True"),
        ({"quadrature": "left"}, "ig_steps=auto places midpoints; give quadrature=midpoint"),
        ({"method": "EAP-IG-activations"}, "ig_steps=auto is of EAP-IG-inputs"),
        ({"gap": 0.0}, r"gap is 0.0; it must lie in \(0, 1\)"),
    ],
)
def test_what_can_not_be_had_is_said(how, message):
    with pytest.raises(ValueError, match=message):
        attribute(tiny_model("llama"), random_pairs(), **AUTO | how)
