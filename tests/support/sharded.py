"""Started by torchrun: trainings that accelerate shards over the processes, on the CPU.

    torchrun --nproc-per-node 2 tests/support/sharded.py HOME JOB ...

HOME holds `model`, with its tokenizer, and `pairs.jsonl`; each job (see JOBS) is trained twice,
into HOME/JOB-tracked and HOME/JOB-plain. accelerate shards on accelerators only, and falls back to
DDP on a CPU without a word; so it is told that the processes have some. All else is as in use.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from accelerate.state import AcceleratorState
from datasets import Dataset
from peft import LoraConfig
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from trl import SFTConfig, SFTTrainer

from analysis import HeadTracking
from analysis.tracking import distributed

OLD = {"version": 1, "sync_module_states": False}
UNSAVED = {"save_strategy": "no"}  # FSDP1 frees what it saves where that is on the CPU already
CHECKPOINTED = {"activation_checkpointing": True}
JOBS: dict[str, dict[str, Any]] = {
    "fsdp2": {"fsdp_config": {"version": 2}},
    "fsdp1": {"fsdp_config": {**OLD, "use_orig_params": True}, **UNSAVED},
    "fsdp2-lora": {"fsdp_config": {"version": 2, **CHECKPOINTED}, "bf16": True, "lora": True},
    "fsdp1-flat": {
        "fsdp_config": {**OLD, "use_orig_params": False, **CHECKPOINTED},
        "bf16": True,
        **UNSAVED,
    },
}
SETTINGS = {"ig_steps": 2, "quadrature": "midpoint", "resamples": 5, "schedule": "every:2"}
SETTINGS |= {"on_error": "raise", "logger": "none"}


_wrap = FullyShardedDataParallel.__init__


def wrap_on_cpu(self: Any, *args: Any, **options: Any) -> None:
    """FSDP1 knows no cpu:0, as accelerate calls the device."""
    _wrap(self, *args, **{**options, "device_id": torch.device("cpu")})


class Watched(HeadTracking):
    """Compares model and optimizer before a look and after it, object by object."""

    optimizer: Any = None

    def look(self, state: Any, model: Any, tokenizer: Any) -> None:
        before = seen(model, self.optimizer)
        super().look(state, model, tokenizer)
        after = seen(model, self.optimizer)
        if differs := [name for name in before | after if before.get(name) != after.get(name)]:
            raise AssertionError(f"looking has changed {differs[:9]}")

    def observe(self, step: int, model: Any, tokenizer: Any) -> None:
        assert not any(isinstance(parameter, DTensor) for parameter in model.parameters())
        super().observe(step, model, tokenizer)
        if distributed.rank() == 0:
            torch.save(model.state_dict(), self.tracker.run / f"whole-{step}.pt")

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.optimizer = kwargs["optimizer"]
        super().on_train_begin(*args, **kwargs)


def seen(model: Any, optimizer: Any) -> dict[str, Any]:
    """What there is of a model and its optimizer on this rank, by name."""
    found: dict[str, Any] = {"random": torch.get_rng_state().tolist()}
    for name, part in model.named_modules():
        if isinstance(part, FSDPModule):
            part.reshard()  # an evaluation leaves some whole, until the next pass
        hooks = [*part._forward_hooks.items(), *part._forward_pre_hooks.items()]
        held = [] if isinstance(part, FullyShardedDataParallel) else sorted(vars(part))
        found[f"{name} module"] = type(part), part.training, hooks, held
        found[f"{name} methods"] = part.forward.__func__, vars(part).get("generate")
    for name, parameter in model.named_parameters():
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        found[name] = id(parameter), parameter.requires_grad, id(parameter.grad)
        found[f"{name} values"] = local.data_ptr(), local.detach().tolist()
    for name, buffer in model.named_buffers():
        found[f"{name} buffer"] = buffer.bfloat16().tolist()  # FSDP1 rounds them before any pass
    if optimizer is not None:
        found["optimizer"] = [id(p) for group in optimizer.param_groups for p in group["params"]]
    return found


def train(home: Path, job: str, tracked: bool) -> None:
    run = home / f"{job}-{'tracked' if tracked else 'plain'}"
    options = dict(JOBS[job])
    lora = LoraConfig(task_type="CAUSAL_LM", r=2) if options.pop("lora", False) else None
    AcceleratorState._reset_state(reset_partial_state=True)
    words = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "bf16": False, **options}
    words["gradient_checkpointing"] = False  # FSDP has its own
    args = SFTConfig(
        str(run),
        **words,
        fsdp=True,
        max_steps=4,
        save_steps=2,
        eval_strategy="steps",
        eval_steps=1,
        logging_steps=1,
        learning_rate=1e-3,
        per_device_train_batch_size=2,
        max_length=64,
    )
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    rows = [{"prompt": f"{a}+{b}=", "completion": str(a + b)} for a in range(4) for b in range(4)]
    trainer = SFTTrainer(
        str(home / "model"),
        args=args,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows[:2]),
        peft_config=lora,
    )
    if tracked:
        trainer.add_callback(Watched(home / "pairs.jsonl", **SETTINGS))
    trainer.train()
    assert trainer.is_fsdp_enabled
    parts = {
        name: (p.to_local() if isinstance(p, DTensor) else p.data).clone()
        for name, p in trainer.model.named_parameters()
    }
    rank = distributed.rank()
    end = {"weights": parts, "optimizer": trainer.optimizer.state_dict()["state"]}
    run.mkdir(exist_ok=True)
    torch.save({**end, "random": torch.get_rng_state()}, run / f"end-{rank}.pt")


if __name__ == "__main__":
    FullyShardedDataParallel.__init__ = wrap_on_cpu
    for name in sys.argv[2:]:
        for way in (True, False):
            train(Path(sys.argv[1]), name, way)
