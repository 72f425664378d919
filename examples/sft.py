# %% [markdown]
# Supervised fine-tuning with TRL, and one line that watches its heads.
#     python examples/sft.py $(headlab recipe name=tiny_random)

# %%
import sys

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from headlab import HeadTracking, generate

model, out = sys.argv[1], (sys.argv[2:] or ["runs/example-sft"])[0]

# %% [markdown]
# Sums of three digits, asked and answered in chat.


# %%
def row(problem):
    return {
        "prompt": [{"role": "user", "content": problem.question}],
        "completion": [{"role": "assistant", "content": f"<answer>{problem.answer}</answer>"}],
    }


train = Dataset.from_list([row(p) for p in generate("arithmetic", 512)])
held_out = Dataset.from_list([row(p) for p in generate("arithmetic", 64, split="held_out")])

# %% [markdown]
# The trainer as you have it, and the line. The prompt pairs are made of the held-out rows.

# %%
trainer = SFTTrainer(
    model=model,
    args=SFTConfig(
        output_dir=out,
        max_steps=60,
        save_steps=20,
        logging_steps=10,
        learning_rate=1e-3,
        per_device_train_batch_size=16,
        bf16=False,  # so that it runs on a CPU
        report_to="none",
    ),
    train_dataset=train,
    eval_dataset=held_out,
)
tracking = HeadTracking("auto", trainer=trainer, resamples=200)
trainer.add_callback(tracking)
trainer.train()

# %% [markdown]
# Emergent, retained and pruned heads over the checkpoints, the map of heads, and the table.

# %%
tracking.show()
