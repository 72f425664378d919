"""A training script of a user's, in one process or in several: OUTPUT and pairs are arguments.

It is run under the name train.py, which is a package of the project's too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    EarlyStoppingCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from headlab import HeadTracking

model, pairs, output = sys.argv[1:]
set_seed(0)
tokenizer = AutoTokenizer.from_pretrained(model)
rows = [tokenizer(f"{i % 9} + {i % 7} = ")["input_ids"] for i in range(16)]
dataset = Dataset.from_list([{"input_ids": row, "labels": row} for row in rows])
trainer = Trainer(
    model=AutoModelForCausalLM.from_pretrained(model),
    args=TrainingArguments(
        output_dir=output,
        max_steps=2,
        save_steps=1,
        eval_steps=1,
        eval_strategy="steps",
        logging_steps=1,
        per_device_train_batch_size=2,
        metric_for_best_model="circuit/metric_corrupted",
        load_best_model_at_end=True,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    ),
    train_dataset=dataset,
    eval_dataset=dataset.select(range(2)),
    processing_class=tokenizer,
    callbacks=[EarlyStoppingCallback(3)],
)
trainer.add_callback(HeadTracking(pairs, resamples=10, ig_steps=2, on_error="raise"))
trainer.train()
if trainer.is_world_process_zero():
    Path(output, "best.json").write_text(json.dumps(trainer.state.best_metric))
