"""Models whose layers are not alike are tracked; one without heads is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from analysis import attribute, read_graph, select_circuit, write_graph
from analysis.live.reference import ReferenceModel
from analysis.records.record_files import read_record
from analysis.tracking.settings import TrackingSettings
from analysis.tracking.tracker import HeadTracker
from tests.support.families.build import build
from tests.support.models import random_pairs

SETTINGS = TrackingSettings(resamples=20, ig_steps=2, fraction=0.3)


def test_layers_with_and_without_heads(tmp_path: Path) -> None:
    pairs = random_pairs(answers=False)
    record = HeadTracker(tmp_path, pairs, SETTINGS).track(build("lfm2"), 0, False)
    assert record is not None
    assert [record.graph.heads_in(layer) for layer in range(4)] == [0, 4, 0, 4]
    again = read_record(tmp_path, 0)
    assert again is not None
    assert again.graph == record.graph
    assert record.in_circuit.any() and torch.equal(again.in_circuit, record.in_circuit)
    assert {layer for layer, _ in record.graph.heads} == {1, 3}
    assert record.faithfulness().value > 0


def test_a_model_without_heads_is_attributed_and_not_tracked(tmp_path: Path) -> None:
    model, pairs = build("mamba"), random_pairs()
    with pytest.raises(ValueError) as caught:
        HeadTracker(tmp_path / "run", pairs, SETTINGS).track(model, 0, False)
    said = "MambaForCausalLM has no attention heads to track; its edges can be attributed (headlab "
    assert str(caught.value) == f"{said}attribute)"
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="has no attention heads to track"):
        ReferenceModel(model, None)
    scores = attribute(model, pairs, "exact")
    assert scores.source_names == ["input", "x0", "x1"]
    circuit = select_circuit(scores, top_n=2)
    assert circuit.heads == []
    write_graph(tmp_path / "g.json", circuit, scores.mean, 16)
    assert torch.equal(read_graph(tmp_path / "g.json")[0].edges, circuit.edges)
