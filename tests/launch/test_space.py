"""The estimate of what the checkpoints of a run will take."""

from __future__ import annotations

import pytest

from launch.space import checkpoint_bytes, checkpoints_kept


@pytest.mark.parametrize("peft", ["none", "lora"])
def test_the_estimate_of_a_checkpoint_is_its_size(compose, tiny_dir, tmp_path, peft):
    """Against the files of a model and an AdamW that made a step."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    options = [f"peft={peft}", *(["peft.args.r=16"] if peft == "lora" else [])]
    cfg = compose("sft", "model=hub", f"model.path={tiny_dir}", *options)
    model = AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32)
    if peft == "lora":
        model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    model.save_pretrained(tmp_path / "checkpoint")
    torch.save(optimizer.state_dict(), tmp_path / "checkpoint" / "optimizer.pt")
    size = sum(path.stat().st_size for path in (tmp_path / "checkpoint").iterdir())
    assert checkpoint_bytes(cfg, str(tiny_dir)) == pytest.approx(size, rel=0.1)
    if peft == "none":
        assert checkpoint_bytes(compose("sft", "model=tiny_random"), None) == pytest.approx(
            size, rel=0.1
        )


@pytest.mark.parametrize(
    ("kind", "overrides", "count"),
    [
        ("sft", ["max_steps=100", "save_steps=30"], 4),
        ("sft", ["max_steps=100", "save_steps=30", "save_total_limit=2"], 2),
        ("sft", ["max_steps=100", "save_steps=0.1"], 10),
        ("sft", ["num_train_epochs=3", "save_steps=4"], 6),  # 3 epochs of 64 / 8 steps
        ("grpo", ["num_generations=8", "per_device_train_batch_size=8", "save_steps=16"], 4),
        ("sft", ["num_train_epochs=3", "save_strategy=epoch"], 3),
        ("sft", ["save_strategy=no"], 1),
    ],
)
def test_the_number_of_checkpoints(compose, kind, overrides, count):
    args = [f"train.args.{word}" for word in overrides]
    assert checkpoints_kept(compose(kind, "data.size=64", "resources.gpus=0", *args)) == count
