"""Plans that are kept: what they depend on, and that no fault in a file is more than a search."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
import torch

from analysis.attribution.eap import attribute
from analysis.detection import cache
from analysis.detection.build import build as build_anatomy
from analysis.detection.cache import file_of, key_of, plan_of
from analysis.detection.detect import anatomy
from analysis.models.anatomy import Unsupported
from tests.support.families.build import build
from tests.support.families.float64 import Float64
from tests.support.models import random_pairs, tiny_model


@pytest.fixture
def searches(tmp_path, monkeypatch):
    """How often a plan was looked for in a model, with an empty cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "_WORTH_A_FILE", 0.0)
    monkeypatch.setattr(cache, "_PLANS", {})
    count, find = [], cache.find
    monkeypatch.setattr(cache, "find", lambda model: (count.append(1), find(model))[1])
    return count


def another_process():
    cache._PLANS.clear()


def test_a_plan_is_found_once(searches):
    (first, kept), (again, kept_again) = (
        plan_of(tiny_model("llama", seed=seed)) for seed in (0, 1)
    )
    assert first is again
    assert (kept, kept_again) == (False, True)
    another_process()
    read, _ = plan_of(tiny_model("llama"))
    assert msgspec.to_builtins(read) == msgspec.to_builtins(first)
    assert len(searches) == 1


@pytest.mark.parametrize("kind", ["gemma4_unified_text", "doge", "falcon_h1"])
def test_a_plan_of_a_file_builds_the_same_anatomy(searches, kind):
    """Also where it names what a layer multiplies the stream with."""
    model = build(kind)
    with Float64():
        first = anatomy(model)
        another_process()
        again = anatomy(model)
    assert again.graph == first.graph
    for one, other in zip(first.nodes, again.nodes, strict=True):
        assert [str(scale) for _, scale in one[2].writes] == [str(s) for _, s in other[2].writes]
    assert len(searches) == 1


def test_a_kept_plan_whose_proof_fails_is_found_anew(searches):
    """It may be of a model whose weights hid something, such as a value that was 0."""
    model, pairs = tiny_model("llama"), random_pairs(2)
    right = attribute(model, pairs, "EAP")
    whole = cache._PLANS[key_of(model)]
    layer = whole.layers[0]
    reading = replace(layer.readings[0], sides=layer.readings[0].sides[:2])
    layers = replace(layer, readings=(reading,)), *whole.layers[1:]
    cache._PLANS[key_of(model)] = replace(whole, layers=layers)
    other = tiny_model("llama")
    found = attribute(other, pairs, "EAP")
    assert found.graph == right.graph
    assert torch.equal(found.per_pair, right.per_pair)
    with pytest.raises(Unsupported, match="gradient audit: layer 0: .*v_proj"):
        broken = replace(build_anatomy(replace(whole, layers=layers), other), kept=False)
        attribute(other, pairs, "EAP", parts=broken)
    assert len(searches) == 2


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\x00"])
def test_a_file_that_can_not_be_read_is_written_anew(searches, content):
    model = tiny_model("llama")
    plan_of(model)
    file = file_of(key_of(model))
    whole = file.read_bytes()
    file.write_bytes(content)
    another_process()
    plan_of(model)
    assert len(searches) == 2
    assert file.read_bytes() == whole


def test_a_place_where_nothing_can_be_written_is_no_error(searches, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    plan_of(tiny_model("llama"))
    another_process()
    plan_of(tiny_model("llama"))
    assert len(searches) == 2


def test_a_plan_is_of_one_configuration_class_code_and_set_of_modules(monkeypatch):
    from peft import LoraConfig, get_peft_model

    keys = {key_of(tiny_model("llama")), key_of(tiny_model("llama", seed=1))}
    assert len(keys) == 1
    other = tiny_model("llama")
    other.config.num_key_value_heads = 4
    keys |= {key_of(tiny_model("mistral")), key_of(other)}
    adapted = get_peft_model(tiny_model("llama"), LoraConfig(target_modules=["q_proj"]))
    keys.add(key_of(adapted.get_base_model()))
    monkeypatch.setattr(cache, "_code", lambda: "other code")
    keys.add(key_of(tiny_model("llama")))
    assert len(keys) == 5


def test_numbers_that_nothing_names_are_solved_for_each_time(searches):
    model = build("beam")
    plan_of(model)
    plan_of(model)
    assert len(searches) == 2
    assert not file_of(key_of(model)).exists()
