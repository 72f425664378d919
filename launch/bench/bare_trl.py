"""The bare TRL script that headlab is timed against: what one writes without it.

    python -m launch.bench.bare_trl FILE

FILE is JSON: `kind` (sft or grpo), `model` (a directory), `rows` (a JSONL file of the data set),
`args` (of SFTConfig or GRPOConfig) and `rewards` (names in train/rewards.py); where it has
`tracking`, the keywords of HeadTracking, that one line is in the script too. Only the moments of
the logs are kept beside what TRL does, in memory, and written at the end to `metrics.jsonl` in the
output directory, in the form of headlab's own.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from analysis.files import to_json

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments
    from trl import GRPOTrainer, SFTTrainer


class Stamps(TrainerCallback):
    """Keeps each log and its moment."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        assert logs is not None, "a trainer hands over its log"
        numbers = {name: value for name, value in logs.items() if isinstance(value, int | float)}
        self.lines.append({"step": state.global_step, "time": time.time(), **numbers})


def train(spec: dict[str, Any]) -> None:
    """Train as a specification says (see above)."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

    from train.rewards import find_rewards

    rows = Path(spec["rows"]).read_text(encoding="utf-8").splitlines()
    dataset = Dataset.from_list([json.loads(row) for row in rows])
    stamps = Stamps()
    shared: dict[str, Any]
    shared = {"model": spec["model"], "train_dataset": dataset, "callbacks": [stamps]}
    trainer: SFTTrainer | GRPOTrainer
    if spec["kind"] == "sft":
        trainer = SFTTrainer(args=SFTConfig(**spec["args"]), **shared)
    else:
        shared["reward_funcs"] = find_rewards(spec["rewards"])
        trainer = GRPOTrainer(args=GRPOConfig(**spec["args"]), **shared)
    if "tracking" in spec:
        from headlab import HeadTracking

        trainer.add_callback(HeadTracking(**spec["tracking"]))
    trainer.train()
    assert trainer.args.output_dir is not None, "the specification names one"
    written = "".join(to_json(line) + "\n" for line in stamps.lines)
    (Path(trainer.args.output_dir) / "metrics.jsonl").write_text(written, encoding="utf-8")


if __name__ == "__main__":
    train(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
