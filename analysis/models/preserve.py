"""Look at a model that is being trained, and leave it exactly as it was found."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import torch
from torch import nn


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Eval mode and frozen parameters inside; outside, nothing has changed.

    Restored afterwards, also on an exception: the train/eval mode of every module, `requires_grad`
    of every parameter, and the random states of Python, NumPy, torch and CUDA. Gradients are not
    touched because nothing inside can reach a parameter.
    """
    modes = [(module, module.training) for module in model.modules()]
    trainable = {name for name, parameter in _parameters(model) if parameter.requires_grad}
    python_state, numpy_state = random.getstate(), numpy.random.get_state()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    cuda_state = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        model.eval()
        for name, parameter in _parameters(model):
            if name in trainable:
                parameter.requires_grad_(False)
        yield
    finally:
        for name, parameter in _parameters(model):
            if name in trainable:
                parameter.requires_grad_(True)
        for module, training in modes:
            module.training = training
        random.setstate(python_state)
        numpy.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)
        if cuda_state:
            torch.cuda.set_rng_state_all(cuda_state)


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """All of them by name: one that is offloaded is another object after each pass."""
    return model.named_parameters(remove_duplicate=False)
