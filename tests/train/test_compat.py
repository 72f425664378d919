"""What other packages do not promise is used in four modules only, and is there."""

from __future__ import annotations

import ast

import torch

from tests.support.models import tiny_model
from tests.support.places import ROOT

COMPAT = (
    "analysis/live/compat.py",
    "analysis/models/compat.py",
    "analysis/reporting/workspace.py",
    "train/compat.py",
)
OURS = ("analysis", "train", "launch")
INNER = (
    "transformers.integrations",
    "transformers.pytorch_utils",
    "trl.models",
    "trl.import_utils",
)


def private_uses(tree: ast.AST) -> list[str]:
    """Names with an underscore of what is not the module's own, and inner modules of libraries."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr[0] == "_" and node.attr[-2:] != "__":
            its = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not its and node.attr not in own and ast.unparse(node) != "os._exit":
                found.append(f"{node.lineno}: {node.attr}")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(INNER):
            found.append(f"{node.lineno}: {node.module}")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] not in OURS:
            names = [name.name for name in node.names if name.name[0] == "_"]
            found += [f"{node.lineno}: {name}" for name in names]
    return found


def test_private_names_are_used_in_the_compat_modules_only():
    uses = {
        path.relative_to(ROOT).as_posix(): private_uses(ast.parse(path.read_text()))
        for package in OURS
        for path in (ROOT / package).rglob("*.py")
    }
    assert all(uses[name] for name in COMPAT)  # else this test sees nothing
    assert not {name: found for name, found in uses.items() if found and name not in COMPAT}


def test_attention_computes_as_its_configuration_says():
    from analysis.models.compat import attention_kind, set_attention_kind

    model = tiny_model("qwen2", torch.float32)
    ids = torch.tensor([[3, 4, 5]])
    assert attention_kind(model.config) == "sdpa"
    assert model(ids, output_attentions=False).attentions is None
    set_attention_kind(model.config, "eager")
    assert len(model(ids, output_attentions=True).attentions) == 2


def test_what_deepspeed_transformers_and_trl_keep_is_still_there():
    import deepspeed
    from transformers.integrations import deepspeed as integration
    from trl.models.utils import add_hooks, remove_hooks

    assert hasattr(integration, "_hf_deepspeed_config_weak_ref")
    assert isinstance(deepspeed.ops.__compatible_ops__, dict)
    assert callable(add_hooks) and callable(remove_hooks)


def test_a_resume_takes_the_order_of_its_epoch():
    """TRL's sampler draws an order each time that it is gone through, and begins anew."""
    from transformers import Trainer
    from trl import GRPOTrainer
    from trl.trainer.utils import RepeatSampler

    from train.compat import with_orders_of_passed_epochs

    class Resumed:
        def _get_train_sampler(self, dataset=None):
            return RepeatSampler(range(8), mini_repeat_count=2, batch_size=2, seed=0)

        def _init_training_state(self):
            return 2, 1

    assert all(hasattr(GRPOTrainer, name) for name in vars(Resumed) if name.startswith("_get"))
    assert hasattr(Trainer, "_init_training_state")
    unbroken = Resumed()._get_train_sampler()
    orders = [list(unbroken) for _ in range(3)]
    assert orders[2] != orders[0]
    trainer = Resumed()
    with_orders_of_passed_epochs(trainer)
    sampler = trainer._get_train_sampler()
    assert trainer._init_training_state() == (2, 1)
    assert list(sampler) == orders[2]
