"""On-policy distillation with TRL, and one line that watches the heads of the student.

    python examples/distillation.py $(headlab recipe name=tiny_random)

The teacher is made here: the same model after some fine-tuning. The report shows how like the
student's circuit becomes to the teacher's.
"""

import sys

from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import DistillationConfig, DistillationTrainer, SFTConfig, SFTTrainer

from headlab import HeadTracking, generate, read_run

model, out = sys.argv[1], (sys.argv[2:] or ["runs/example-distillation"])[0]
quick = {"learning_rate": 1e-3, "per_device_train_batch_size": 16, "report_to": "none"}
quick["bf16"] = False  # so that it runs on a CPU


def rows(size, split="train", answered=False):
    made = []
    for problem in generate("arithmetic", size, split=split):
        row = {"prompt": [{"role": "user", "content": problem.question}]}
        if answered:
            answer = f"<answer>{problem.answer}</answer>"
            row["completion"] = [{"role": "assistant", "content": answer}]
        made.append(row)
    return Dataset.from_list(made)


teaching = SFTTrainer(
    model=model,
    args=SFTConfig(output_dir=f"{out}-teacher", max_steps=100, save_strategy="no", **quick),
    train_dataset=rows(512, answered=True),
)
teaching.train()

trainer = DistillationTrainer(
    model=AutoModelForCausalLM.from_pretrained(model),
    teacher_model=teaching.model,
    args=DistillationConfig(
        output_dir=out, max_steps=30, save_steps=10, max_completion_length=12, **quick
    ),
    train_dataset=rows(256),
    processing_class=teaching.processing_class,
)
# what the student is like beside its teacher is in the report too: trainer= knows the teacher
trainer.add_callback(HeadTracking("auto", trainer=trainer, resamples=200))
trainer.train()
read_run(out).show()
