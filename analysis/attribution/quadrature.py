"""Where the gradient is taken on the integration path, and with what weight.

The path of EAP-IG-inputs runs from the corrupted embedding (alpha 0) to the clean one (alpha 1):

    left            alpha = k/m, k = 0 .. m-1    the EAP-IG package (Hanna et al., arXiv 2403.17806)
    right           alpha = k/m, k = 1 .. m      the sum as papers print it
    midpoint        alpha = (k + 1/2)/m
    gauss-legendre  the m-point Gauss-Legendre rule on [0, 1]

Error of the first two O(1/m), of the midpoint O(1/m^2), of Gauss-Legendre exponential in m where
the gradient is smooth along the path. On real weights and at few steps the midpoint is the most
accurate (docs/LOG.md). How many points: a number, or `auto` (analysis/attribution/refinement.py).
"""

from __future__ import annotations

import numpy

from analysis.attribution.refinement import START

AUTO = "auto"
AT_ENDS = {"EAP": 1, "GIM": 1, "clean-corrupted": 2}  # points, in the runs of the prompts
QUADRATURES = ("left", "right", "midpoint", "gauss-legendre")


def path_points(quadrature: str, steps: int) -> list[tuple[float, float]]:
    """(alpha, weight) of every step; the weights add up to 1.

    >>> path_points("midpoint", 2)
    [(0.25, 0.5), (0.75, 0.5)]

    Raises:
        ValueError: the quadrature is unknown or there is no step.
    """
    if quadrature not in QUADRATURES:
        raise ValueError(f"unknown quadrature {quadrature!r}; known: {', '.join(QUADRATURES)}")
    if steps < 1:
        raise ValueError(f"ig_steps is {steps}; the path needs at least one")
    if quadrature == "gauss-legendre":
        nodes, weights = numpy.polynomial.legendre.leggauss(steps)
        return [(float(x + 1) / 2, float(w) / 2) for x, w in zip(nodes, weights, strict=True)]
    shift = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[quadrature]
    return [((k + shift) / steps, 1 / steps) for k in range(steps)]


def fewest_points(method: str, steps: int | str) -> int:
    """Points at which the gradient is taken along a pair's path, at the least.

    More than that only `auto` takes, of EAP-IG-inputs. steps: a number, or `auto`.

    >>> [fewest_points(name, 5) for name in ("EAP-IG-inputs", "GIM", "clean-corrupted", "exact")]
    [5, 1, 2, 0]
    """
    own = AT_ENDS | {"exact": 0}
    return own.get(method, START if isinstance(steps, str) else steps)


def check_path(quadrature: str, steps: int | str, method: str, gap: float) -> None:
    """Raise ValueError for points of the path that can't be had.

    steps: a number, or `auto`, which places midpoints and needs a path whose sum is known.
    """
    if isinstance(steps, int) and not isinstance(steps, bool):
        path_points(quadrature, steps)
        return
    if steps != AUTO:
        raise ValueError(f"ig_steps is {steps!r}; give a whole number of at least 1, or auto")
    path_points(quadrature, 1)
    if method in ("EAP-IG-activations", "EAP-IG-mean", "CEAP"):
        raise ValueError(
            f"ig_steps=auto is of EAP-IG-inputs; give {method} a number of points, such as 6"
        )
    if quadrature != "midpoint":
        raise ValueError(
            f"ig_steps=auto places midpoints; give quadrature=midpoint, or a number of points with "
            f"quadrature={quadrature}"
        )
    if not 0 < gap < 1:
        raise ValueError(f"gap is {gap}; it must lie in (0, 1)")
