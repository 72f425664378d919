"""`headlab agreement`: a run's checkpoints tracked again, under a second metric."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from analysis.cli import parse
from analysis.commands.agreement import Options, act, check_pairs
from analysis.comparison.agreement import Agreement, Overlap, format_agreement
from analysis.models.loading import load_model
from analysis.prompts.pairs import Pairs
from analysis.records.record_files import read_record
from analysis.records.run_file import RunFile
from analysis.tracking.tracker import HeadTracker
from tests.support.models import random_pairs, tiny_model
from tests.support.tracked import SETTINGS


def answered(model, pairs: Pairs) -> Pairs:
    """The pairs with what the model says to each prompt as target and foil: it has a behaviour."""

    def says(ids: tuple[int, ...]) -> int:
        return int(model(torch.tensor([ids])).logits[0, -1].argmax())

    return Pairs(
        [
            replace(
                pair,
                target_id=says(pair.clean_ids),
                foil_id=says(pair.corrupted_ids),
                positions=(-1,),
            )
            for pair in pairs
        ]
    )


def test_a_run_is_tracked_under_a_second_metric_and_compared(tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    RunFile("mine", "sft", "loss").write(run)
    model = tiny_model("qwen2", torch.float32)
    tracker = HeadTracker(run, answered(model, random_pairs(6)), SETTINGS)
    places = {0: tmp_path / "base", 5: run / "checkpoint-5", 9: run / "checkpoint-9"}
    for step, place in places.items():
        with torch.no_grad():
            model.model.layers[0].self_attn.q_proj.weight.mul_(1 + step / 10)
        model.save_pretrained(place)
        tracker.track(load_model(str(place), "float32"), step, show_progress=False)
    shutil.rmtree(places[9])
    act(parse(Options, [f"run={run}"]))
    text = " ".join(capsys.readouterr().out.split())
    assert "step 5 under logit_diff" in text
    assert "mine under kl and mine under logit_diff, 8 heads" in text
    out = run / "metrics" / "logit_diff"
    found = json.loads((out / "agreement.json").read_text())
    assert set(found["steps"]) == {"0", "5"}  # of 9 the checkpoint is gone
    one, two = read_record(run, 5), read_record(out, 5)
    assert one is not None and two is not None
    assert two.settings == {**one.settings, "metric": "logit_diff"}
    overlap = found["steps"]["5"]["in_circuit"]
    both = (one.in_circuit & two.in_circuit).sum()
    assert len(overlap["both"]) == both
    assert overlap["jaccard"] == pytest.approx(
        float(both / (one.in_circuit | two.in_circuit).sum())
    )
    act(parse(Options, [f"run={run}"]))
    assert "step 5 under" not in capsys.readouterr().out  # not measured again
    for wrong, line in (("kl", "is tracked under kl itself"), ("klx", "unknown metric 'klx'")):
        with pytest.raises(ValueError, match=line):
            act(parse(Options, [f"run={run}", f"metric={wrong}"]))


def test_pairs_that_a_metric_can_not_read_are_refused() -> None:
    bare = Pairs([replace(pair, foil_id=None) for pair in random_pairs(2)])
    check_pairs(bare, "nll", Path("r/pairs.jsonl"))
    with pytest.raises(
        ValueError, match="pair 0 of r/pairs.jsonl has no foil_id, which logit_diff"
    ):
        check_pairs(bare, "logit_diff", Path("r/pairs.jsonl"))


def test_the_table_fits_a_terminal() -> None:
    each = Overlap(1152, 1024, ["L1H2"], 0.08, 0.06, 0.18, 3.1e-05)
    overlaps = {1_000_000: {"in_circuit": each, "emergent_called": each, "pruned_called": each}}
    text = format_agreement(Agreement(("run", "run"), ("kl", "logit_diff"), 2048, overlaps))
    assert max(map(len, text.splitlines())) <= 80
