"""The size of a circuit that is given as a share of the edges: a number, or AUTO.

Edges grow with the square of the heads. 5 % of them are two or three for each head of a tiny model,
thirteen in SmolLM2-135M and forty in a model of 8B, and the more edges a head has, the more heads
are in: the same share that cuts a circuit out of the one leaves most heads in the other. So the
default counts edges by heads.

For the numbers behind PER_HEAD see docs/LOG.md. Nothing here needs torch.
"""

from __future__ import annotations

AUTO = "auto"
PER_HEAD = 2.5  # edges for each head of the model


def check_fraction(fraction: object) -> None:
    """Raise ValueError unless it is a share of the edges, or AUTO."""
    is_number = isinstance(fraction, int | float) and not isinstance(fraction, bool)
    if fraction != AUTO and not (is_number and 0 < fraction <= 1):  # type: ignore[operator]
        raise ValueError(f"fraction must lie in (0, 1] or be {AUTO}, not {fraction}")


def share_of(fraction: float | str, n_edges: int, n_heads: int) -> int:
    """How many edges that is of a model with so many edges and heads: at least 1.

    Raises:
        ValueError: it is no share.

    >>> share_of(0.05, 70651, 270), share_of("auto", 70651, 270)
    (3533, 675)
    """
    check_fraction(fraction)
    wanted = PER_HEAD * n_heads if isinstance(fraction, str) else fraction * n_edges
    return min(n_edges, max(1, round(wanted)))
