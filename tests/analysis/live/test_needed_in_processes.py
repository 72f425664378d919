"""At the end of a run of two processes that share its weights, called heads are taken out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from analysis.commands.needed import Options, needed
from analysis.records.needed import read_needed
from tests.support.known_circuit import PROBLEMS, build_copier, copier_pairs
from tests.support.launches import SMALL
from tests.support.warm import finished
from train.recipes.tiny import build_tokenizer

STEPS = 60


@pytest.mark.distributed
def test_zero_3_finds_what_one_process_finds_in_the_checkpoint(tmp_path: Path) -> None:
    """The base lacks the second of two heads of a circuit, so that the first is of no use there."""
    model = build_copier()
    with torch.no_grad():
        model.model.layers[2].self_attn.o_proj.weight[:, 32:48] = 0
    model.save_pretrained(tmp_path / "model")
    build_tokenizer().save_pretrained(tmp_path / "model")
    copier_pairs(12).save(tmp_path / "pairs.jsonl")
    rows = [{"problem": p.question, "answer": p.answer, "solution": p.answer} for p in PROBLEMS]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [*SMALL, "model=hub", "model.path=model", "data.source=file:rows.jsonl", "name=r"]
    words += ["pairs=file", "pairs.path=pairs.jsonl", "tracking.top_n=8", "tracking.fraction=null"]
    words += ["tracking.ig_steps=6", "tracking.resamples=50", "train.args.learning_rate=3e-3"]
    words += [f"train.args.max_steps={STEPS}", f"train.args.save_steps={STEPS}"]
    words += ["resources.processes=2", "deepspeed=zero3"]
    done = finished(["-m", "launch", *words], tmp_path)
    run = tmp_path / "runs" / "r"
    found = read_needed(run)[STEPS]
    assert "L0H1" in found.heads and found.base is not None and found.now is not None
    assert found.now.change.low is not None and found.now.change.low > 0.5
    assert f"Needed at step {STEPS}?" in done.stdout  # the end of the run shows it
    alone = needed(Options(str(run), backups=False))
    assert alone.heads == found.heads and alone.base is not None and alone.now is not None
    for one, other in ((alone.now, found.now), (alone.base, found.base)):
        assert one.change.value == pytest.approx(other.change.value, rel=1e-3)
        assert one.right == other.right
