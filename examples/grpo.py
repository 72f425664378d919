"""GRPO with a reward function of your own, and one line that watches its heads.

python examples/grpo.py $(headlab recipe name=tiny_random)
"""

import sys

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from headlab import HeadTracking, generate, read_run

model, out = sys.argv[1], (sys.argv[2:] or ["runs/example-grpo"])[0]


def digits(completions, **columns):
    """The share of an answer that is digits: something that a model of a minute can learn."""
    texts = [completion[0]["content"] for completion in completions]
    return [sum(letter.isdigit() for letter in text) / max(len(text), 1) for text in texts]


def rows(size, split):
    return Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": p.question}], "answer": p.answer}
            for p in generate("arithmetic", size, split=split)
        ]
    )


trainer = GRPOTrainer(
    model=model,
    reward_funcs=digits,
    args=GRPOConfig(
        output_dir=out,
        max_steps=20,
        save_steps=10,
        logging_steps=5,
        learning_rate=1e-3,
        per_device_train_batch_size=16,
        num_generations=8,
        max_completion_length=8,
        bf16=False,  # so that it runs on a CPU
        report_to="none",
    ),
    train_dataset=rows(128, "train"),
    eval_dataset=rows(64, "held_out"),
)
trainer.add_callback(HeadTracking("auto", trainer=trainer, resamples=200))
trainer.train()
read_run(out).show()
