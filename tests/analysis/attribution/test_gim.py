"""GIM against a forward pass that is written out with its rules and differentiated as it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from analysis import TrackingSettings, attribute
from analysis.attribution.gim_rules import Rules, applied
from analysis.attribution.metrics import METRICS
from analysis.detection.detect import anatomy
from analysis.models.compat import set_attention_kind
from analysis.prompts.pairs import collate
from tests.support.families.build import build
from tests.support.families.proof import some_pairs
from tests.support.models import random_pairs, tiny_model
from tests.support.oracle import Oracle


def share(x: torch.Tensor, part: float) -> torch.Tensor:
    """x, of whose gradient a part arrives."""
    return part * x + (1 - part) * x.detach()


class GimOracle(Oracle):
    """The rules of GIM as sums of what is differentiated and what is held."""

    def norm(self, module, x):
        centred = x - x.mean(-1, keepdim=True) if isinstance(module, torch.nn.LayerNorm) else x
        bias = getattr(module, "bias", None)
        bias = torch.zeros(()) if bias is None else bias
        return centred * ((super().norm(module, x) - bias) / centred).detach() + bias

    def held(self, scale):
        return scale.detach()

    def softmax(self, x):
        warm = 2 * (x / 2).softmax(-1)
        return x.softmax(-1).detach() + warm - warm.detach()

    def factor(self, x):
        return share(x, 1 / 2)


def test_scores_are_the_gradients_of_a_pass_that_is_written_out(architecture):
    kv, metric = "grouped", "logit_diff"
    if architecture in ("qwen3", "gemma2", "mistral"):
        kv, metric = "ungrouped", "nll"
    model, pairs = tiny_model(architecture), random_pairs(3)
    oracle, batch, graph = GimOracle(model), collate(list(pairs)), anatomy(model, kv).graph
    with torch.no_grad():
        clean_logits, clean = oracle.forward(batch.clean, batch, {})
        _, corrupted = oracle.forward(batch.corrupted, batch, {})
    zeros = {
        name: torch.zeros_like(clean["input"]).requires_grad_() for name in graph.destination_names
    }
    logits, _ = oracle.forward(batch.clean, batch, zeros)
    assert (logits - Oracle(model).forward(batch.clean, batch, {})[0]).abs().max() < 1e-9
    total = METRICS[metric](logits, clean_logits, batch).sum()
    gradients = torch.stack(torch.autograd.grad(total, list(zeros.values())))
    moves = torch.stack([corrupted[u] - clean[u] for u in graph.source_names])
    moves = moves * batch.mask[..., None]
    expected = torch.einsum("sbtd,vbtd->bsv", moves, gradients) * graph.edge_mask
    scores = attribute(model, pairs, "GIM", metric, kv=kv, batch_size=2).per_pair
    assert (scores - expected).abs().max() < 1e-5 * expected.abs().max()
    plain = attribute(model, pairs, "EAP", metric, kv=kv).per_pair
    assert (scores - plain).abs().max() > 0.05 * plain.abs().max()


# fused rows; latent keys and values; experts; a mask that is made of the values
@pytest.mark.parametrize("kind", ["phi3", "deepseek_v3", "qwen3_moe", "doge"])
def test_one_function_of_attention_and_its_steps_give_one_score(kind):
    model, pairs = build(kind), some_pairs()
    found = []
    for way in ("sdpa", "eager"):
        set_attention_kind(model.config, way)
        found.append(attribute(model, pairs, "GIM", "logit_diff").per_pair)
    assert (found[0] - found[1]).abs().max() < 1e-6 * found[0].abs().max()


def gradients(compute, *values: float) -> list[float]:
    """Under the rules, of what is computed of numbers: d / d value."""
    given = [torch.tensor([float(value)], requires_grad=True) for value in values]
    with applied(set(), {}):
        return [float(g) for g in torch.autograd.grad(compute(*given), given)]


@pytest.mark.parametrize(
    ("compute", "values", "expected"),
    [
        (lambda x, y: x * y, (2, 3), (1.5, 1)),
        (lambda x, y: x * 2 * y.exp(), (2, 0), (1, 2)),
        (lambda x, y: torch.einsum("i,i->i", x, y), (2, 3), (1.5, 1)),
        (lambda x, y: torch.addcmul(x, x, y), (2, 3), (1 + 1.5, 1)),
        (lambda x, y: (x + 0).mul_(y), (2, 3), (1.5, 1)),
        (lambda x, y: torch.linalg.vecdot(x, y), (2, 3), (1.5, 1)),
        (lambda x, y: torch.linalg.multi_dot([x[None], y[:, None]]), (2, 3), (1.5, 1)),
        (lambda x, y: (0 * x).addcmul_(x, y), (2, 3), (1.5, 1)),
        (lambda x, y: torch.lerp(0 * x, x, y), (2, 3), (1.5, 1)),
        (lambda x, y: nn.functional.glu(torch.cat([x, y])), (2, 0), (0.25, 0.25)),
        # activations, written out
        (lambda x: x * x.sigmoid(), (0,), (0.5,)),
        (lambda x: 0.5 * x * (1 + torch.tanh(x + 0.1 * x.pow(3))), (0,), (0.5,)),
        (lambda x: x * x, (3,), (6,)),
        (lambda x, y: (x * x.sigmoid()) * y, (0, 1), (0.25, 0)),
    ],
)
def test_each_of_two_factors_gets_half_of_its_gradient(compute, values, expected):
    assert gradients(compute, *values) == pytest.approx(expected)


def test_what_gim_is_not_defined_for_is_refused():
    for make in (
        lambda: attribute(tiny_model("llama"), random_pairs(1), "GIM", "kl"),
        lambda: TrackingSettings(method="GIM"),
    ):
        with pytest.raises(ValueError, match="GIM takes its gradient on the clean prompt"):
            make()
    for kind, why in (("qwen3_5_text", "its attention is linear"), ("mamba", "a mixer of tokens")):
        with pytest.raises(ValueError, match=f"GIM is not defined of layer 0: .*{why}"):
            attribute(build(kind), some_pairs(), "GIM", "logit_diff")


def test_a_norm_that_is_no_module_is_refused(monkeypatch):
    """As its scale can't be held fixed; nor that of one whose gain differs from head to head."""
    model = tiny_model("llama")
    mlp = model.model.layers[1].mlp
    monkeypatch.setattr(mlp, "forward", lambda x: mlp.down_proj(normalize(mlp.up_proj(x), dim=-1)))
    with pytest.raises(ValueError, match="GIM: a norm .LinalgVectorNorm. is computed where no"):
        attribute(model, random_pairs(1), "GIM", "logit_diff")
    with pytest.raises(ValueError, match="GIM: a norm .Rsqrt. is computed where no module"):
        attribute(build("cohere"), some_pairs(), "GIM", "logit_diff")


class Joint(torch.autograd.Function):
    """A product that is written in another language, as a kernel's is."""

    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return x * y

    @staticmethod
    def backward(ctx, gradient):
        x, y = ctx.saved_tensors
        return gradient * y, gradient * x


def test_products_and_softmaxes_in_kernels_are_refused(monkeypatch):
    model, pairs = tiny_model("llama"), random_pairs(1)
    mlp = model.model.layers[1].mlp

    def forward(x):
        return mlp.down_proj(Joint.apply(mlp.act_fn(mlp.gate_proj(x)), mlp.up_proj(x)))

    with monkeypatch.context() as patch:
        patch.setattr(mlp, "forward", forward)
        with pytest.raises(ValueError, match="Joint is an autograd function of 2 values"):
            attribute(model, pairs, "GIM", "logit_diff")
    monkeypatch.setattr(Rules, "__torch_function__", plain)
    with pytest.raises(ValueError, match="GIM: layer .: LlamaAttention computes its softmax in a"):
        attribute(model, pairs, "GIM", "logit_diff")


def plain(self, func, types, args=(), kwargs=None):
    return func(*args, **(kwargs or {}))
