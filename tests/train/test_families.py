"""The tiny models of other families: what each is there to show, and their experiment in whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from analysis.detection.detect import anatomy
from analysis.models.graph import Graph
from analysis.records.record_files import read_records
from tests.support.warm import finished
from train.recipes.registry import build_recipe
from train.recipes.tiny_families import FAMILIES

BRIEF = (
    *("pairs.size=4", "tracking.resamples=10", "tracking.ig_steps=2", "evaluation=none"),
    *("train.args.max_steps=4", "train.args.save_steps=2", "train.args.disable_tqdm=true"),
)


def graph_of(name: str) -> Graph:
    return anatomy(AutoModelForCausalLM.from_pretrained(build_recipe(name, seed=0))).graph


def test_experts_are_one_node_of_a_layer_of_the_usual_shape():
    assert graph_of("tiny_moe") == Graph(4, 8, 4)


def test_the_hybrid_has_linear_heads_and_gated_ones():
    graph = graph_of("tiny_hybrid")
    assert [set(shape.kinds) for shape in graph.shapes] == [{"linear"}, {"softmax"}] * 2
    assert [graph.heads_in(layer) for layer in range(4)] == [8] * 4
    gates = {f"a{layer}.h{head}<g>" for layer in (1, 3) for head in range(8)}
    assert {name for name in graph.destination_names if "<g>" in name} == gates


def test_attention_and_mlp_of_the_neox_are_side_by_side():
    graph = graph_of("tiny_neox")
    edges = {graph.edge_name(edge) for edge in range(graph.n_edges)}
    assert "input->m0" in edges and "a0.h2->m1" in edges and "a0.h2->m0" not in edges


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_follow_from_the_seed_and_no_random_state_is_touched(name, tmp_path):
    from safetensors.torch import load_file

    from train.recipes.tiny_families import build_family

    before = torch.get_rng_state()
    weights = []
    for directory, seed in (("a", 0), ("b", 0), ("c", 1)):
        build_family(name, tmp_path / directory, seed)
        weights.append(load_file(tmp_path / directory / "model.safetensors"))
    first, same, other = weights
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_run_is_named_after_its_model(compose, name):
    cfg = compose("sft", "experiment=tiny_families", f"model={name}", "seed=3")
    assert cfg.run_dir == f"runs/{name}-seed3"
    assert cfg.tracking.enabled and cfg.model.seed == 3


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("tiny_hybrid", "Linear attention or state space"),
        pytest.param("tiny_moe", "Routing to experts", marks=pytest.mark.slow),
    ],
)
def test_the_experiment_runs_in_whole(tmp_path, name, shown):
    """As a user starts it, W&B offline."""
    words = ["experiment=tiny_families", f"model={name}", *BRIEF]
    done = finished(["-m", "train.sft", *words], tmp_path)
    said = (done.stdout + done.stderr).count("no attention pattern is seen of")
    assert said == (name == "tiny_hybrid")  # once, not at each checkpoint
    run: Path = tmp_path / "runs" / f"{name}-seed0"
    assert [record.step for record in read_records(run)] == [0, 2, 4]
    assert shown in (run / "report.html").read_text()
    assert json.loads((run / "wandb-published.json").read_text())
    assert list(run.glob("wandb/offline-run-*"))
