"""Preference training with TRL's DPO, and one line that watches its heads.

    python examples/dpo.py $(headlab recipe name=tiny_random)

The prompt pairs are made of the held-out rows: the chosen answer's first token against the
rejected one's.
"""

import sys

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from headlab import HeadTracking, generate, read_run

model, out = sys.argv[1], (sys.argv[2:] or ["runs/example-dpo"])[0]


def row(problem):
    right = int(problem.answer)
    return {
        "prompt": [{"role": "user", "content": problem.question}],
        "chosen": [{"role": "assistant", "content": f"<answer>{right}</answer>"}],
        "rejected": [{"role": "assistant", "content": f"<answer>{9 - right % 10}</answer>"}],
    }


trainer = DPOTrainer(
    model=model,
    args=DPOConfig(
        output_dir=out,
        max_steps=20,
        save_steps=10,
        logging_steps=5,
        learning_rate=1e-4,
        per_device_train_batch_size=8,
        bf16=False,  # so that it runs on a CPU
        report_to="none",
    ),
    train_dataset=Dataset.from_list([row(p) for p in generate("arithmetic", 256)]),
    eval_dataset=Dataset.from_list([row(p) for p in generate("arithmetic", 64, split="held_out")]),
)
trainer.add_callback(HeadTracking("auto", trainer=trainer, resamples=200))
trainer.train()
read_run(out).show()
