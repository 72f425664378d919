"""The form of record.json and of the tensors beside it: what is read back is checked against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from analysis.files import as_form, check_schema, read_json
from analysis.heads.experts import Layer, name_of
from analysis.heads.resampling import SWEEP
from analysis.models.graph import Graph
from analysis.models.graph_form import GraphForm
from analysis.records.same_files import KeptForm, SameForm
from analysis.records.stored import Shapes

SCHEMA = 2
BESIDE = ("kl", "held_out", "gap", "sizes")  # small tensors that a record may lack


@dataclass(frozen=True)
class _Settings:
    """Of the settings, those that are read again."""

    resamples: int
    seed: int
    metric: str = ""


@dataclass(frozen=True)
class _Selection:
    """analysis.heads.resampling.Selection, with all keys."""

    top_n: int
    tau: float | None


@dataclass(frozen=True)
class _Origin:
    """Of the origin, what is read again."""

    model: dict[str, Any] | None = None
    code: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Experts:
    """How many experts each layer with experts has and chooses; tokens: of all clean prompts."""

    tokens: int
    layers: dict[str, Layer]


@dataclass(frozen=True)
class _Estimate:
    """analysis.intervals.Estimate; null stands for what is no number."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class _File:
    """The form of record.json, as far as it is read again; null stands for what is no number."""

    step: int
    graph: GraphForm
    pairs_hash: str
    settings: _Settings
    origin: _Origin
    selection: _Selection
    completeness_gap: float | None
    metric_clean: float | None
    metric_corrupted: float | None
    n_pairs: int
    seconds: float
    tensors: dict[str, str]
    n_distinct: int | None = None
    points: float | None = None
    groups: list[int] | None = None
    kl_from_base: _Estimate | None = None
    log_probs: list[int] | None = None
    gap_metric: str | None = None
    beside: list[str] = field(default_factory=list)
    further_pairs: int | None = None
    experts: _Experts | None = None
    same: SameForm | None = None
    kept: KeptForm | None = None


@dataclass(frozen=True)
class _Invalid:
    """The form of record.json of a step that could not be measured."""

    step: int
    invalid: str
    origin: dict[str, Any]


def read_content(path: Path, step: int) -> dict[str, Any] | None:
    """What the record.json of a step holds, in the form that it must have; None without one.

    Raises:
        ValueError: it is damaged, or of another schema.
    """
    try:
        content = read_json(path, dict[str, Any])
    except FileNotFoundError:
        return None
    mend = "use the version that wrote it, or track its checkpoint again (headlab track)"
    check_schema(content, SCHEMA, path, mend)
    found: _File | _Invalid
    if "invalid" in content:
        found = as_form(content, _Invalid, path)
    else:
        found = as_form(content, _File, path)
    if found.step != step:
        raise ValueError(f"{path} is of step {found.step}")
    if isinstance(found, _File):
        found.graph.graph(path)
        if min(found.n_pairs, found.settings.resamples) < 1:
            raise ValueError(f"{path}: it has no pairs or no resamples")
        if found.groups is not None and not _are_groups(found.groups, found.n_pairs):
            raise ValueError(f"{path}: groups must give each of the pairs a cluster, from 0 on")
        if unknown := set(found.beside) - set(BESIDE):
            raise ValueError(f"{path}: nothing is called {min(unknown)!r} beside the heads")
        needed = {"heads", "scores"} | ({"experts"} if found.experts else set())
        needed |= {"logprobs"} if found.log_probs else set()
        needed |= {"wide"} if found.further_pairs else set()
        needed |= {name for name in ("same", "kept") if getattr(found, name) is not None}
        if missing := needed - set(found.tensors):
            raise ValueError(f"{path} names no tensors of {min(missing)}; track this step again")
    return content


def _are_groups(groups: list[int], n_pairs: int) -> bool:
    return len(groups) == n_pairs and set(groups) == set(range(max(groups) + 1))


def shapes_of(graph: Graph, n_pairs: int, beside: Sequence[str] = ()) -> Shapes:
    """The tensors of the heads, with those of BESIDE; rows of resamples may be any number."""
    of_pairs = (torch.float32, (n_pairs,))
    others: Shapes = {
        **dict.fromkeys(("kl", "held_out", "gap"), of_pairs),
        "sizes": (torch.int32, (None,)),
    }
    table = (None, graph.n_heads_total)
    return {
        "circuit": (torch.bool, (graph.n_edges,)),
        "mean": (torch.float32, (graph.n_edges,)),
        "evaluation": (torch.float32, (3, n_pairs)),
        **{name: others[name] for name in beside},
        **dict.fromkeys(("strength", "signed", "importance"), (torch.float32, table)),
        **dict.fromkeys(("out_degree", "in_degree"), (torch.int16, table)),
        "threshold": (torch.float32, (None,)),
        "sweep": (torch.float32, (None, len(SWEEP))),
    }


def layers_of(content: dict[str, Any], path: Path) -> dict[int, Layer]:
    """The layers with experts of a record.json that has any, by their numbers."""
    layers = {}
    for name, about in content["experts"]["layers"].items():
        layer = as_form(about, Layer, path)
        if not name.isdecimal() or not 0 < layer.chosen <= layer.experts:
            raise ValueError(f"{path}: there is no layer {name!r} with {about}")
        layers[int(name)] = layer
    return layers


def shapes_of_experts(layers: Mapping[int, Layer], n_pairs: int, tokens: int) -> Shapes:
    """The tensors of what the tokens are given to (analysis/heads/experts.py)."""
    of_pairs: Shapes = dict.fromkeys(("lengths", "same"), (torch.int32, (n_pairs,)))
    of_layers = {
        name_of(layer): (torch.int16, (tokens, about.chosen)) for layer, about in layers.items()
    }
    return {**of_pairs, "experts": (torch.int32, (len(layers),)), **of_layers}
