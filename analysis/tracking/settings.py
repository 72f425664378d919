"""Every key of `tracking`, declared once: its type, default and help.

The command lines show these (`headlab track --help`), Hydra's schema of a training run is made of
them, and the tracker takes its settings from them. They are in three parts, by who has them:

    CircuitKeys      how a circuit is found: tracker, commands and trainer
    TrackingOptions  with how heads are called: commands and trainer
    TrackingConfig   with when and where it is done: trainer

A key that shapes no record is `free`: a run that is resumed may change it. Nothing here needs torch
before a `TrackingSettings` is made.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from analysis.circuits.share import PER_HEAD, check_fraction
from analysis.cli import key
from analysis.ranges import COUNT, NATURAL, PART, POSITIVE, SEED, SHARE, Range

# points of analysis/attribution/refinement.py, edges of analysis/circuits/share.py, recompute of
# analysis/attribution/choosing.py
AUTO = "auto"
FREE = "free"  # a routing of analysis/models/routing.py


def free(help: str, default: object, range: Range | None = None) -> Any:
    """A `key` that shapes no record."""
    return field(default=default, metadata={"help": help, "range": range, "free": True})


def free_keys(schema: type[CircuitKeys]) -> set[str]:
    """The names of the free keys of a class below."""
    return {entry.name for entry in fields(schema) if entry.metadata.get("free")}


@dataclass
class CircuitKeys:
    """How a circuit is found; exactly one of `top_n`, `fraction` and `faithful` is its size."""

    method: str = key(
        "EAP, EAP-IG-inputs, EAP-IG-activations, EAP-IG-mean (of these two), clean-corrupted, "
        "CEAP, GIM (not with kl) or exact",
        "EAP-IG-inputs",
    )
    metric: str = key("kl, logit_diff (needs pairs with target and foil) or nll", "kl")
    # auto takes some 6 midpoints a pair on sums with SmolLM2-135M, 8 after SFT, and three times as
    # many on answer-style pairs, where 6 leave a quarter of the change; other models with cliffs in
    # their paths are like that (docs/LOG.md)
    ig_steps: Any = key(
        "points on the integration path: auto, 6 and more where a pair needs them (EAP-IG-inputs "
        "with quadrature=midpoint), or a number; circuit/completeness_gap tells whether they are "
        "enough (the EAP-IG package has 5, with quadrature=left)",
        AUTO,
        COUNT,
    )
    gap: float = key(
        "of ig_steps=auto: what a pair's path may miss, as a share of the metric's range on it",
        0.05,
        SHARE,
    )
    quadrature: str = key(
        "where the points lie: left, right, midpoint or gauss-legendre; auto places midpoints",
        "midpoint",
    )
    kv: str = key(
        "grouped: one edge into a key or value head that query heads share; ungrouped: one for "
        "each query head, as in the EAP-IG package",
        "grouped",
    )
    # both agree alike with exact patching of the model itself; frozen closes the completeness gap,
    # free leaves 1 to 10 % of it at any number of steps (docs/LOG.md)
    routing: str = key(
        "of a mixture of experts: free, every run of the attribution chooses, and what jumps where "
        "the choice changes is missed; frozen, all choose as the clean prompt does, and scores add "
        "up (circuits are always evaluated free)",
        FREE,
    )
    batch_size: int = free("pairs in one pass; changes memory and speed, not the result", 8, COUNT)
    recompute: Any = free(
        "run each layer twice, so that what all layers keep for their gradient is never there at "
        "once: true, false, or auto, where memory would not be enough; changes memory and time, "
        "not the result",
        AUTO,
    )
    check_dtype: bool = free(
        "of a model in bfloat16 or float16: score the first pairs in float32 too, once, and say "
        "how the top edges agree; twice the memory of the weights beside them",
        False,
    )
    patterns: int = free(
        "prompts whose attention patterns are kept at each checkpoint, from where the metric is "
        "read, for the report to show; a few kB each; 0: none",
        8,
        NATURAL,
    )
    top_n: int | None = key(
        "size of the circuit: a number of edges; fraction is then null", None, COUNT
    )
    # a share of the edges means something else in a model of every size (docs/LOG.md)
    fraction: Any = key(
        f"size of the circuit: auto, {PER_HEAD:g} edges for each head of the model, or a share of "
        "all edges",
        AUTO,
        PART,
    )
    faithful: float | None = key(
        "size of the circuit: the faithfulness that the smallest one has to reach, found anew at "
        "each checkpoint and in each resample of the pairs; fraction is then null",
        None,
        SHARE,
    )
    tau: float | None = key(
        "of these edges keep those whose signed score is at least this, in units of the metric",
        None,
        POSITIVE,
    )
    resamples: int = key(
        "bootstrap resamples of the pairs, for the intervals and calls", 1000, Range(2)
    )
    seed: int = key("of the resamples", 0, SEED)


@dataclass
class TrackingSettings(CircuitKeys):
    """How circuits are found, checked.

    One of three sizes is given: `top_n` edges, a `fraction` of all edges, or `faithful`, the
    faithfulness that the smallest circuit has to reach (sizes are scanned from below, anew at each
    checkpoint and in each resample of the pairs).
    `tau` keeps of these edges those whose signed score is at least that, in units of the metric.

    Raises:
        ValueError: a value is unknown or out of range, or plain EAP is asked for with the KL
            metric, whose gradient is 0 at the clean prompt so that the ranking would be noise.
    """

    def __post_init__(self) -> None:
        from analysis.attribution.eap import check_ranked, check_settings

        try:
            check_settings(
                *(self.method, self.metric, self.ig_steps, self.quadrature, self.kv),
                *(self.batch_size, self.routing, self.gap, self.recompute),
            )
        except ValueError as error:
            raise ValueError(f"tracking: {error}") from error
        check_ranked(self.method, self.metric)
        if self.fraction is not None:
            try:
                check_fraction(self.fraction)
            except ValueError as error:
                raise ValueError(f"tracking.{error}") from error
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

    def of_attribution(self) -> dict[str, Any]:
        """Those that `attribute` takes, by its names."""
        names = ("method", "metric", "ig_steps", "gap", "quadrature", "kv", "routing")
        return {name: getattr(self, name) for name in (*names, "batch_size", "recompute")}

    def of_record(self) -> dict[str, str | int | float | None]:
        """Those that shape a record, and must be equal for two records to be comparable.

        Without `routing` where that is free and `gap` where it does nothing, as in records that are
        older than the keys.
        """
        kept = [entry.name for entry in fields(self) if not entry.metadata.get("free")]
        found = {name: getattr(self, name) for name in kept}
        if found["routing"] == FREE:
            del found["routing"]
        if found["ig_steps"] != AUTO:
            del found["gap"]
        return found


@dataclass
class TrackingOptions(CircuitKeys):
    """The `tracking.*` keys of a command.

    Raises:
        ValueError: fdr, hysteresis or base_pairs is out of range.
    """

    fdr: float = free("false-discovery rate of the heads called emergent or pruned", 0.05, SHARE)
    hysteresis: int = free(
        "checkpoints in a row that must call a head before it counts as settled", 2, COUNT
    )
    needed: int | None = free(
        "at the end of the run, take so many of the called heads out of the last checkpoint and "
        "the base, beside random heads (headlab needed); null: all that leave fair random sets; "
        "0: none",
        None,
        NATURAL,
    )
    # in worlds of known truth 4 gives .06 to .09 more power at the same false-discovery rate for
    # what three more checkpoints cost (docs/LOG.md)
    base_pairs: int = free(
        "times as many pairs for the base, scored once, at step 0: further ones of the same source "
        "against which changes are tested; of a file NAME those in base_NAME beside it; 1: none",
        4,
        COUNT,
    )

    def __post_init__(self) -> None:
        if not 0 < self.fdr < 1:
            raise ValueError(f"tracking.fdr must lie in (0, 1), not {self.fdr}")
        if self.hysteresis < 1:
            raise ValueError(f"tracking.hysteresis must be at least 1, not {self.hysteresis}")
        if self.base_pairs < 1:
            raise ValueError(f"tracking.base_pairs must be at least 1, not {self.base_pairs}")

    def settings(self) -> TrackingSettings:
        """How the circuits are found (see there for what it raises)."""
        names = [entry.name for entry in fields(CircuitKeys)]
        return TrackingSettings(**{name: getattr(self, name) for name in names})


@dataclass
class _Switch:
    """A part of its own, so that `enabled` is the first key of a config.yaml."""

    enabled: bool = key("false: no head is tracked (tracking=none)", True)


@dataclass
class TrackingConfig(TrackingOptions, _Switch):
    """The `tracking.*` keys of a training run; train/config.py checks those that are its own."""

    where: str = free(
        "inline: the live model, its pairs shared by all processes; checkpoint: a copy of each "
        "saved checkpoint, loaded by the same processes; sidecar: nothing in the trainer, a "
        "process of its own (headlab sidecar run=DIR) reads the checkpoints",
        "inline",
    )
    schedule: Any = free(
        "which steps: saves (every checkpoint), every:N, exponential (1, 2, 4, ...) or a list; "
        "step 0 and the last step always; other than inline, a step that would not be saved is",
        "saves",
    )
    budget: float | None = free(
        "largest share of the wall-clock time that inline tracking may take; where it would take "
        "more, steps of the schedule are left out, which is said",
        None,
        SHARE,
    )
    on_error: str = free("warn: log a failure and go on; raise: stop the run", "warn")
