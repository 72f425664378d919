"""How circuits are found when a checkpoint is tracked."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.cli import key


@dataclass(frozen=True)
class TrackingSettings:
    """How circuits are found.

    One of three sizes is given: `top_n` edges, a `fraction` of all edges, or `faithful`, the
    faithfulness that the smallest circuit has to reach (by bisection, anew at each checkpoint).
    `tau` keeps of these edges those whose signed score is at least that, in units of the metric.

    Raises:
        ValueError: a value is unknown or out of range, or plain EAP is asked for with the KL
            metric, whose gradient is 0 at the clean prompt so that the ranking would be noise.
    """

    method: str = "EAP-IG-inputs"
    metric: str = "kl"
    ig_steps: int = 6
    quadrature: str = "midpoint"
    kv: str = "grouped"
    batch_size: int = 8
    top_n: int | None = None
    fraction: float | None = 0.05
    faithful: float | None = None
    tau: float | None = None
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        from analysis.attribution.eap import check_settings

        try:
            check_settings(
                self.method, self.metric, self.ig_steps, self.quadrature, self.kv, self.batch_size
            )
        except ValueError as error:
            raise ValueError(f"tracking: {error}") from error
        if self.method == "EAP" and self.metric == "kl":
            raise ValueError("EAP with kl scores every edge 0; use EAP-IG-inputs, or logit_diff")
        sizes = {name: getattr(self, name) for name in ("top_n", "fraction", "faithful")}
        if sum(size is not None for size in sizes.values()) != 1:
            given = ", ".join(f"tracking.{name}={size}" for name, size in sizes.items())
            raise ValueError(
                f"give exactly one size of the circuit and set the others null: {given}"
            )
        if self.faithful is not None and not 0 < self.faithful < 1:
            raise ValueError(f"tracking.faithful must lie in (0, 1), not {self.faithful}")
        if self.tau is not None and self.tau <= 0:
            raise ValueError(f"tracking.tau must be above 0 (or null), not {self.tau}")
        if self.resamples < 2:
            raise ValueError(
                f"tracking.resamples is {self.resamples}; an interval needs at least 2"
            )


@dataclass
class TrackingOptions:
    method: str = key("as in conf/tracking/fraction.yaml, this and the following", "EAP-IG-inputs")
    metric: str = key("kl, logit_diff or nll", "kl")
    ig_steps: int = key("points on the path", 6)
    quadrature: str = key("left, right, midpoint or gauss-legendre", "midpoint")
    kv: str = key("grouped or ungrouped", "grouped")
    batch_size: int = key("pairs in one pass; does not change the result", 8)
    top_n: int | None = key("size of the circuit in edges", None)
    fraction: float | None = key("size of the circuit as a share of all edges", 0.05)
    faithful: float | None = key("size of the circuit by the faithfulness it reaches", None)
    tau: float | None = key("smallest signed score of an edge in the circuit", None)
    resamples: int = key("bootstrap resamples of the pairs", 1000)
    seed: int = key("of the resamples", 0)
    fdr: float = key("false-discovery rate of called heads", 0.05)
    hysteresis: int = key("checkpoints in a row that settle a call", 2)
