"""The audits of what layers give: logits, causal, outside."""

from __future__ import annotations

import torch

from analysis.detection.closeness import Closeness
from analysis.detection.probe import CLEAN, LAST, OTHER, PADDED, Layerwise
from analysis.models.anatomy import Unsupported


def check_logits(close: Closeness, own: torch.Tensor, ours: torch.Tensor) -> None:
    """Raise Unsupported unless the engine's run gives the model's own logits: [T, V] each."""
    if own.shape != ours.shape:
        raise Unsupported(
            f"logits audit: the model itself gives logits {list(own.shape)}, and its layers, run "
            f"on the same prompt, {list(ours.shape)}; something is put before the prompt, or after"
        )
    off = float(close.off(ours, own, own).max())
    if off > close.tolerance:
        raise Unsupported(
            f"logits audit: those of the model's own call and of its layers' run differ (off by "
            f"{off:.2g} of them); something around the layers changes what they give, such as a "
            "learned prompt"
        )


def check_streams(
    close: Closeness, seen: Layerwise, logits: torch.Tensor, alone: torch.Tensor
) -> None:
    """Raise Unsupported unless every layer gives each of the four prompts what it has to.

    logits: of two tokens of each, [4, 2, V]. alone: those of the prompt by itself, [T, V].
    """
    short = seen.alone[0].shape[1]
    before = torch.zeros_like(seen.arrived[0])
    for layer, x in enumerate(seen.arrived):
        added = x - before.to(x.device)
        where = f"layer {layer - 1}" if layer else "the embedding"
        _check_causal(close, where, x[:, :-1], added[:, :-1])
        _check_padding(close, where, x[PADDED, :short], seen.alone[layer][0], added[PADDED, :short])
        if layer:
            _check_outside(close, where, x, added)
        before = seen.given[layer].detach()
    _check_causal(close, "the logits", logits, logits)
    _check_padding(close, "the logits", logits[PADDED], alone[[0, short - 1]], logits[PADDED])
    _check_outside(close, "the logits", logits, logits)


def _check_causal(close: Closeness, where: str, x: torch.Tensor, added: torch.Tensor) -> None:
    """x [4, T - 1, d], to which a layer has added `added`."""
    off = float(close.off(x[LAST], x[CLEAN], added[CLEAN]).max())
    if off > close.tolerance:
        raise Unsupported(
            f"causal audit: {where}: a token sees those behind it (with another last token, those "
            f"before it are off by {off:.2g} of what is added there); batches are padded on the "
            "right, which needs causal attention"
        )


def _check_padding(
    close: Closeness, where: str, x: torch.Tensor, alone: torch.Tensor, added: torch.Tensor
) -> None:
    """A prompt in a padded row and by itself: [T, d] each."""
    shares = close.off(x, alone, added)
    # where rounding differs, a token on the edge between two experts may be sent to the other one
    off = float(shares.max() if close.sharp else shares.median())
    if off > close.tolerance:
        raise Unsupported(
            f"causal audit: {where}: a prompt that is padded on the right gives something else "
            f"than by itself (off by {off:.2g} of what is added there); batches are padded so"
        )


def _check_outside(close: Closeness, where: str, x: torch.Tensor, added: torch.Tensor) -> None:
    off = float(close.off(x[OTHER], x[CLEAN], added[CLEAN]).max())
    if off > close.tolerance:
        raise Unsupported(
            f"outside audit: {where}: other tokens with the same residual stream give something "
            f"else (off by {off:.2g} of what is added there); something goes around the stream, "
            "such as embeddings of the layer's own"
        )
