"""Small training runs, and when two of them are the same."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from analysis.heads.same import FIGURES
from analysis.records.record_files import read_records, read_scores

SMALL = [
    "model=hub",
    "data=arithmetic",
    "data.size=64",
    "logger=none",
    "pairs=answer_style",  # without a right answer, which random weights don't have: circuits
    "pairs.size=4",
    "tracking.resamples=10",
    "tracking.ig_steps=2",
    "tracking.base_pairs=1",
    "evaluation.size=3",
    "evaluation.samples=2",
    "evaluation.max_new_tokens=6",
    "train.args.max_steps=4",
    "train.args.save_steps=2",
    "train.args.logging_steps=1",
    "train.args.per_device_train_batch_size=4",
    "train.args.disable_tqdm=true",
    "train.args.learning_rate=1e-3",
]
GRPO = ["train.args.num_generations=2", "train.args.max_completion_length=6"]


def small(kind: str, model: Path, directory: Path, *more: str) -> list[str]:
    extra = GRPO if kind == "grpo" else []
    return [*SMALL, *extra, f"model.path={model}", f"run_dir={directory}", *more]


def final_state(directory: Path) -> dict[str, torch.Tensor]:
    """Weights, optimizer state and random state of the last checkpoint."""
    checkpoint = directory / "checkpoint-4"
    state = load_file(checkpoint / "model.safetensors")
    optimizer = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    for index, values in optimizer["state"].items():
        state |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    rng = torch.load(
        checkpoint / "rng_state.pth", weights_only=False
    )  # our own file of a moment ago
    return state | {"rng": rng["cpu"]}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different


def assert_equal_records(found: Path, expected: Path, exact: bool = False) -> None:
    records, wanted = read_records(found), read_records(expected)
    assert [record.step for record in records] == [record.step for record in wanted]
    for record, other in zip(records, wanted, strict=True):
        assert torch.equal(record.circuit, other.circuit)
        assert record.settings == other.settings
        assert record.pairs_hash == other.pairs_hash
        assert record.origin["model"]["weights"] == other.origin["model"]["weights"]
        a, b = read_scores(found, record.step), read_scores(expected, record.step)
        assert torch.equal(a, b) if exact else (a - b).abs().max() <= 1e-5 * b.abs().max()
        assert (record.same is None) == (other.same is None)
        if record.same is not None:
            assert torch.equal(record.same.changed, other.same.changed)
            for figure in FIGURES:
                c, d = getattr(record.same, figure), getattr(other.same, figure)
                assert torch.allclose(c, d, atol=0 if exact else 1e-4, rtol=0, equal_nan=True)
