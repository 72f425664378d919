"""Arrays for the page: small numbers in base64, and lists without NaN, which JSON does not know."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable

import numpy as np
import torch

from analysis.reporting.dashboard.form import Packed

_TYPES = {"u8": "<u1", "u16": "<u2", "u32": "<u4", "f16": "<f2", "f32": "<f4"}


def packed(values: torch.Tensor | np.ndarray, kind: str) -> Packed:
    """An array as `Packed`. kind: u8, u16, u32, f16 or f32.

    Raises:
        ValueError: a number does not go into that kind.
    """
    given = values.numpy() if isinstance(values, torch.Tensor) else values
    with np.errstate(over="ignore"):
        found = given.astype(_TYPES[kind])
    whole = kind.startswith("u")
    if (
        not np.array_equal(found, given)
        if whole
        else bool((np.isinf(found) ^ np.isinf(given)).any())
    ):
        raise ValueError(f"there are numbers that {kind} can't hold, up to {given.max()}")
    return {
        "d": kind,
        "s": list(found.shape),
        "b": base64.b64encode(np.ascontiguousarray(found).tobytes()).decode("ascii"),
    }


def unpacked(values: Packed) -> np.ndarray:
    """What `packed` was given, in the numbers it was packed in."""
    plain = np.frombuffer(base64.b64decode(values["b"]), _TYPES[values["d"]])
    return plain.reshape(values["s"])


def known(values: Iterable[float | None]) -> list[float | None]:
    """Numbers with six digits; None for what is none."""
    return [
        None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
        for value in values
    ]
