"""The graph of a model whose weights are not loaded yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from analysis.detection.build import build
from analysis.detection.cache import kept
from analysis.detection.detect import anatomy
from analysis.models.configuration import empty_model
from analysis.models.loading import load_config, load_model

if TYPE_CHECKING:
    from analysis.models.graph import Graph


def graph_of(path: str | Path, base: str | None = None) -> Graph:
    """The graph of a model, or of an adapter's base, by its directory or hub name.

    A configuration says little of it. Where the parts of one like it were found before, in this
    process or in one whose findings are kept, they are taken; else the weights are read, to find
    them in a run, and dropped. base: as in `load_model`.

    Raises:
        ValueError: the model can't be read, or its anatomy is not supported.
    """
    empty = empty_model(load_config(path, base))
    plan = kept(empty)
    if plan is not None:
        return build(plan, empty).graph
    return anatomy(load_model(path, None, "cpu", base)).graph
