"""The routing of a mixture of experts over checkpoints: measured, kept, compared and shown."""

from __future__ import annotations

import json
import re

import pytest
import torch

from analysis.heads.experts import Experts, Layer, as_experts, find_experts, name_of
from analysis.heads.resampling import resample_weights
from analysis.heads.routing_changes import compare_routing
from analysis.prompts.pairs import Pair, Pairs
from analysis.records.record_files import read_record, record_dir
from analysis.reporting.report import write_report
from analysis.reporting.rows import head_values
from analysis.reporting.run_view import read_run
from analysis.trajectories.run import Run
from tests.support.experts import tiny_mixture
from tests.support.models import random_pairs, tiny_model
from tests.support.planted_runs import BASE, PAIRS, configure, plant

WEIGHTS = resample_weights(range(4), 200, 0)


def experts(lengths: list[int], chosen: list[list[int]], n: int = 4) -> Experts:
    """Of one layer, 3, of n experts."""
    same = list(range(len(lengths)))
    tensors = {
        "lengths": torch.tensor(lengths, dtype=torch.int32),
        "same": torch.tensor(same, dtype=torch.int32),
        "experts": torch.tensor([n], dtype=torch.int32),
        name_of(3): torch.tensor(chosen, dtype=torch.int16),
    }
    return Experts({3: Layer(n, len(chosen[0]))}, tensors)


def test_shares_are_of_tokens_and_intervals_over_pairs():
    base = experts([1, 1, 1, 3], [[0, 1]] * 6)
    now = experts([1, 1, 1, 3], [[0, 1]] * 3 + [[0, 2], [0, 2], [0, 1]])
    change = compare_routing(base, now, WEIGHTS)
    assert change.changed[3].value == pytest.approx(2 / 6)
    assert change.changed[3].low == 0.0 and 0.4 < change.changed[3].high <= 2 / 3
    assert change.overall == change.changed[3]
    assert change.load[3][0].tolist() == pytest.approx([1, 4 / 6, 2 / 6, 0])
    assert change.busiest(3)[0] == 0 and change.unused(3) == 1
    assert change.load[3][1:, 0].tolist() == [1, 1]  # of every resample's tokens
    same = compare_routing(base, base, WEIGHTS).changed[3]
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_copies_of_one_prompt_have_no_interval_and_no_base_no_change():
    base = experts([1, 1, 1, 3], [[0, 1]] * 6)
    base.tensors["same"].zero_()
    change = compare_routing(None, base, WEIGHTS)
    assert change.load[3][0].tolist() == [1, 1, 0, 0] and change.load[3][1:].isnan().all()
    assert change.changed == {} and change.overall is None


@pytest.mark.parametrize("kind", ["plain", "a dense layer", "one expert a token"])
def test_a_changed_router_is_found_in_its_layer_and_nothing_else_is(kind):
    model, pairs = tiny_mixture(kind), random_pairs(4)
    base = find_experts(model, pairs, 2)
    again = find_experts(model, pairs, 4)
    assert list(base.layers) == ([1] if kind == "a dense layer" else [0, 1])
    weights = resample_weights(range(4), 50, 0)
    assert compare_routing(base, again, weights).overall.value == 0
    with torch.no_grad():  # the last layer's router has its experts in another order
        router = model.model.layers[1].mlp.gate.weight
        router.copy_(router.flip(0))
    change = compare_routing(base, find_experts(model, pairs, 3), weights)
    assert change.changed[1].value == pytest.approx(_flipped(base), abs=1e-9)
    assert change.changed[1].value > 0.3
    if 0 in base.layers:
        assert change.changed[0].value == 0
    for load in change.load.values():
        assert float(load[0].sum()) == pytest.approx(base.layers[1].chosen)


def _flipped(base: Experts) -> float:
    """Share of the tokens of layer 1 whose experts, counted from the end, are others."""
    chosen = base.chosen(1)
    flipped = (base.layers[1].experts - 1 - chosen).sort(-1).values
    return float((chosen != flipped).any(1).double().mean())


def test_scores_that_tie_choose_alike_again():
    model, pairs = tiny_mixture("plain"), random_pairs(4)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.gate.weight.zero_()
    base, again = (find_experts(model, pairs, size) for size in (1, 4))
    assert compare_routing(base, again, WEIGHTS).overall.value == 0


def test_padding_is_no_token():
    model = tiny_mixture("plain")
    pairs = random_pairs(3)  # of 6, 4 and 5 tokens
    together = find_experts(model, pairs, 3)
    assert together.chosen(0).shape == (15, 2)
    for pair, chosen in zip(pairs, together.chosen(0).split([6, 4, 5]), strict=True):
        assert torch.equal(find_experts(model, Pairs([pair])).chosen(0), chosen)


def test_a_model_without_experts_has_no_routing():
    assert find_experts(tiny_model("llama"), random_pairs(2)) is None


PROMPTS = Pairs([Pair((5,) * (1 + i % 3), (6,) * (1 + i % 3)) for i in range(PAIRS)])


def planted(*chosen: int) -> Experts:
    """Layer 1: every token is given to expert 0 and, pair by pair, to one of `chosen`."""
    length = max(len(pair.clean_ids) for pair in PROMPTS)
    rows = torch.full((PAIRS, length * 2), -1)
    for index, pair in enumerate(PROMPTS):
        rows[index, : 2 * len(pair.clean_ids)] = torch.tensor(
            [0, chosen[index % len(chosen)]] * len(pair.clean_ids)
        )
    return as_experts(rows, {1: Layer(4, 2)}, PROMPTS)


@pytest.fixture
def run(tmp_path):
    path = configure(tmp_path / "r")
    plant(path, 0, BASE, experts=planted(1))
    plant(path, 10, BASE, experts=planted(1, 2))
    return path


def test_a_run_keeps_it_and_every_reader_has_it(run):
    read = Run.read(run)
    assert torch.equal(read_record(run, 10).experts.chosen(1), planted(1, 2).chosen(1))
    share = read.points[1].routing.changed[1]
    tokens = [len(pair.clean_ids) for pair in PROMPTS]
    assert share.value == pytest.approx(sum(tokens[1::2]) / sum(tokens))
    assert 0 < share.low < share.value < share.high < 1
    values = head_values(read.points)
    assert values["routing/changed/L01"] == share.value == values["routing/changed"]
    assert values["routing/changed/L01/lo"] == share.low
    assert values["routing/busiest/L01"] == 1.0 and values["routing/unused/L01"] == 1
    content = json.loads((record_dir(run, 10) / "record.json").read_text())
    assert content["experts"] == {
        "routing": "free",
        "tokens": sum(tokens),
        "layers": {"1": {"experts": 4, "chosen": 2}},
    }
    assert read_run(run).figure("routing").data


def write_page(run, tmp_path) -> str:
    return write_report([Run.read(run)], tmp_path / "page.html").read_text()


def test_the_report_shows_it_for_mixtures_only(run, tmp_path):
    page = write_page(run, tmp_path)
    assert "Routing to experts" in page and "<summary>Experts" in page
    dense = configure(tmp_path / "dense")
    plant(dense, 0, BASE)
    plant(dense, 10, BASE)
    content = json.loads((record_dir(dense, 10) / "record.json").read_text())
    assert "experts" not in content and sorted(content["tensors"]) == ["heads", "scores"]
    page = write_page(dense, tmp_path)
    assert not re.search(
        r"[Rr]outing|[Ee]xpert", re.sub(r"<script.*?</script>", "", page, flags=re.S)
    )
    assert not any(name.startswith("routing") for name in head_values(Run.read(dense).points))
    with pytest.raises(ValueError, match="experts"):
        read_run(dense).figure("routing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": 3}, "layer-001"),
        ({"layers": {"1": {"experts": 9, "chosen": 2}}}, "says otherwise of its experts"),
        ({"layers": {"1": {"experts": 4, "chosen": 5}}}, "no layer '1'"),
        ({"layers": {"x": {"experts": 4, "chosen": 2}}}, "no layer 'x'"),
        ({"layers": {"1": {"experts": 4}}}, "chosen"),
    ],
)
def test_a_damaged_one_is_one_line(run, change, message):
    path = record_dir(run, 10) / "record.json"
    content = json.loads(path.read_text())
    content["experts"] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_record(run, 10)
    assert [point.step for point in Run.read(run).points] == [0]
