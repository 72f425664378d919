"""Rows of files and data sets, and their values: what is text, what a number, what neither.

A number of a text file is a `Number`, whose text is that of the file: 39, 39.0 and
1208925819614629174706176 stay what they are. A typed column (Parquet, the hub) has no text. There
an integer is its digits, and a float is written in decimal, as short as it can be, and without a
point if it is whole: readers make integers floats where a column has gaps, and 39.0 is then 39.
Beyond 2^53, where floats no longer tell integers apart, a whole one is an error where it is used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyarrow import DataType, Schema

EXACT = 2**53  # integers up to here have floats of their own


class Number(str):
    """A number, as its text."""


@dataclass(frozen=True)
class Row:
    """Columns and their values, and where they stand: `FILE, line 3`."""

    values: dict[str, Any]
    place: str


def typed(value: object) -> Any:
    """A value of a typed column, its numbers as `Number`; what is neither stays.

    >>> typed([39.0, 2.5, 7, None, float("inf")])
    ['39', '2.5', '7', None, inf]
    """
    if isinstance(value, dict):
        return {name: typed(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [typed(entry) for entry in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | Decimal):
        return Number(format(value, "f") if isinstance(value, Decimal) else value)
    if isinstance(value, float) and math.isfinite(value):
        whole = value.is_integer()
        if whole and abs(value) >= EXACT:
            return value
        return Number(int(value) if whole else format(Decimal(repr(value)), "f"))
    return value


def check_names(schema: Schema, place: str) -> None:
    """Raise ValueError if two columns have one name, of which a row would keep the last."""
    names = list(schema.names)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{place} has the column {twice!r} twice")


def typed_row(values: dict[str, Any], schema: Schema, place: str) -> Row:
    """A row of typed columns."""
    kinds = {field.name: field.type for field in schema}
    return Row({name: typed(_widened(v, kinds[name])) for name, v in values.items()}, place)


def _widened(value: Any, kind: DataType) -> Any:
    """Floats of less than 64 bits as the shortest of 64 that they stand for, also inside.

    0.1 in 32 bits is 0.10000000149 in 64.
    """
    import numpy as np
    from pyarrow import types

    if value is None or types.is_primitive(kind) and not types.is_floating(kind):
        return value
    if types.is_float16(kind) or types.is_float32(kind):
        return float(str((np.float16 if types.is_float16(kind) else np.float32)(value)))
    if isinstance(value, dict):
        return {f.name: _widened(value[f.name], f.type) for f in kind if f.name in value}
    if isinstance(value, list) and hasattr(kind, "value_type"):
        return [_widened(entry, kind.value_type) for entry in value]
    return value


def native(value: object) -> Any:
    """`typed` undone: numbers of text and of typed columns alike as Python's."""
    if isinstance(value, dict):
        return {name: native(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [native(entry) for entry in value]
    if isinstance(value, Number):
        return int(value) if value.lstrip("+-").isdigit() else float(value)
    return value


def said(value: object) -> str:
    """What a value is that is neither text nor a number, for an error.

    >>> said(None), said({"b": 1, "a": 2}), said("  ")
    ('null', 'an object of a, b', 'blank')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, float):
        if math.isfinite(value):
            return f"{value!r}, a float too large to be exact"
        return "NaN" if math.isnan(value) else "infinite"
    if isinstance(value, dict):
        return f"an object of {', '.join(sorted(value)) or 'nothing'}"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, Number):
        return f"the number {value}"
    if isinstance(value, str):
        return "text" if value.strip() else "blank"
    return f"of type {type(value).__name__}"
