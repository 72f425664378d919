"""The anatomy of a model: its parts, found in the model itself and built into types."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from analysis.detection.build import build
from analysis.detection.cache import plan_of
from analysis.models.adapters import check_live
from analysis.models.anatomy import Anatomy, base_model
from analysis.models.onload import check_there
from analysis.models.quantised import check_dense, check_quantised


def anatomy(model: nn.Module, kv: str = "grouped", anew: bool = False) -> Anatomy:
    """Find the parts of a model.

    Nothing is known of any architecture: the model is run on a few tokens and left as it was, or,
    unless they are to be found `anew`, what was found of one like it is taken
    (analysis/detection/cache.py). They are not proved yet (`analysis.detection.audits.proved`).

    Raises:
        Unsupported: its parts are of a kind that is not known here; the layer and why.
        ValueError: the weights are elsewhere or quantised in a way that is not read, an adapter is
            of a kind that is not served, or `kv` is unknown.
    """
    check_live(model)
    causal_lm: Any = base_model(model)
    check_there(causal_lm)
    kind = type(causal_lm).__name__
    check_quantised(causal_lm.config, kind)
    check_dense(causal_lm, kind)
    plan, kept = plan_of(causal_lm, anew)
    try:
        return replace(build(plan, causal_lm, kv), kept=kept)
    except AttributeError:  # a module that the plan names is not there
        if not kept:
            raise
        return anatomy(model, kv, anew=True)
