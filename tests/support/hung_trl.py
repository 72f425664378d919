"""Small trainings by TRL's trainers, for `HeadTracking` to hang on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.support.hung import PLAIN, load, tokenizer_of

GENERATING = {"num_generations": 2, "max_completion_length": 6}


def length_of(completions: list[Any], **kwargs: Any) -> list[float]:
    """A reward: how many different characters a completion has."""
    return [float(len(set(str(text)))) for text in completions]


def _data(kind: str) -> Any:
    from datasets import Dataset

    made = []
    for i in range(16):
        a, b = i % 9, i % 7
        prompt, right, wrong = f"{a}+{b}=", f"{a + b}", f"{a + b + 1}"
        made.append(
            {
                "sft": {"text": prompt + right},
                "preferences": {"prompt": prompt, "chosen": right, "rejected": wrong},
                "judged": {"prompt": prompt, "completion": right, "label": i % 2 == 0},
                "prompts": {"prompt": prompt},
                "conversations": {"prompt": [{"role": "user", "content": prompt}]},
            }[kind]
        )
    return Dataset.from_list(made)


def trl_trainer(kind: str, model_dir: Path, out: Path, **more: Any) -> Any:
    """A trainer of TRL by the short name of its class."""
    import trl
    from transformers import AutoModelForSequenceClassification, set_seed

    set_seed(0)
    own: dict[str, Any] = {name: more.pop(name) for name in ("peft_config",) if name in more}
    own |= {"model": load(model_dir), "processing_class": tokenizer_of(model_dir)}
    options: dict[str, Any] = {"output_dir": str(out), **PLAIN, **more}
    classes = trl
    data = "preferences"
    if kind == "SFT":
        data = "sft"
        options["max_length"] = 16
    elif kind in ("GRPO", "RLOO"):
        data = "prompts"
        options |= GENERATING
        own["reward_funcs"] = length_of
    elif kind == "KTO":
        data = "judged"
        options["max_length"] = 16
    elif kind == "Distillation":
        data = "conversations"
        options["max_completion_length"] = 6
        own["teacher_model"] = load(model_dir)
        with torch.no_grad():
            for parameter in own["teacher_model"].parameters():
                parameter.mul_(1.1)
    elif kind == "Reward":
        own["model"] = AutoModelForSequenceClassification.from_pretrained(
            model_dir, num_labels=1, dtype=torch.float32
        )
        options["max_length"] = 16
    elif kind == "ORPO":
        import trl.experimental.orpo as classes  # type: ignore[no-redef]

        options["max_length"] = 16
    else:
        options["max_length"] = 16
    args = getattr(classes, f"{kind}Config")(**options)
    return getattr(classes, f"{kind}Trainer")(args=args, train_dataset=_data(data), **own)
