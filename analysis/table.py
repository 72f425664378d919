"""The checkpoints of a run as rows, and those rows as a table of plain text for a terminal.

A row joins what a run wrote about one checkpoint: the training signal since the checkpoint before,
held-out pass@1, and the states of the heads (analysis/heads.py) against the base, which is
step 0. A run may have records without evaluations or evaluations without records.
"""

from __future__ import annotations

import logging
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from analysis.graph import short_head_name
from analysis.heads import COUNTS, Estimate, HeadStates, head_states
from analysis.records import Record, read_evaluations, read_metrics, read_records

log = logging.getLogger(__name__)

SIGNALS = {"sft": "loss", "grpo": "reward"}
WIDTH = 80
CHANGES = ("emergent", "retained", "pruned")
HEAD_TITLES = (
    *("head", "state", "first at step"),
    *("inclusion: base", "final", "importance: base", "final"),
)


@dataclass(frozen=True)
class Row:
    """One checkpoint.

    signal: mean of the loss or reward logged after the previous checkpoint, up to this one; None
        if there was none. evaluation: held-out pass@1 as written. states: heads against the base.
    """

    step: int
    signal: float | None
    evaluation: dict[str, Any] | None
    states: HeadStates | None


def read_config(run: Path) -> dict[str, Any]:
    """The configuration of a run.

    Raises:
        ValueError: the directory is missing or holds no run, or it trains in an unknown way.
    """
    path = run / "config.yaml"
    if not run.is_dir():
        raise ValueError(f"there is no run {run}; give a directory that training wrote")
    if not path.exists():
        raise ValueError(f"{run} holds no config.yaml, so it is not a run; give runs/NAME itself")
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    kind = (config.get("train") or {}).get("kind")
    if kind not in SIGNALS:
        raise ValueError(f"{path} has train.kind {kind!r}; it must be one of {', '.join(SIGNALS)}")
    return config


def signal_name(run: Path) -> str:
    """What the training of a run is followed by: `loss` for SFT, `reward` for GRPO."""
    return SIGNALS[read_config(run)["train"]["kind"]]


def tracked_records(run: Path) -> list[Record]:
    """The records of a run; none, with a warning, if the base is not among them."""
    records = read_records(run)
    if records and records[0].step != 0:
        log.warning("%s has no record of step 0, the base; no head's state is known", run)
        return []
    return records


def checkpoint_rows(run: Path, records: list[Record] | None = None) -> list[Row]:
    """Every checkpoint of a run that has a record or an evaluation, by step.

    `records` are the run's records, if they have been read already.

    Raises:
        ValueError: the directory holds no run, or the run has no checkpoint yet.
    """
    name = signal_name(run)
    measured = {r.step: r for r in (tracked_records(run) if records is None else records)}
    evaluations, metrics = read_evaluations(run), read_metrics(run)
    steps = sorted({*measured, *evaluations})
    if not steps:
        raise ValueError(
            f"{run} has neither heads/step-* nor evaluations/step-*; wait for a checkpoint, "
            "or switch on tracking or evaluation and train again"
        )
    base = measured.get(0)
    rows = []
    for previous, step in zip([0, *steps], steps, strict=False):
        logged = [v[name] for s, v in metrics.items() if previous < s <= step and name in v]
        signal = math.fsum(logged) / len(logged) if logged else None
        rows.append(Row(step, signal, evaluations.get(step), _states(base, measured.get(step))))
    return rows


def _states(base: Record | None, now: Record | None) -> HeadStates | None:
    if base is None or now is None:
        return None
    return head_states(base.heads, now.heads, base.bootstrap, now.bootstrap)


@dataclass(frozen=True)
class Run:
    """Everything read from a run. `label` is its name, with its path where names are equal.

    logged: step and value of the loss or reward, as the trainer logged it.
    """

    label: str
    signal_name: str
    config_text: str
    rows: list[Row]
    records: list[Record]
    logged: list[tuple[int, float]]

    @property
    def tracked(self) -> list[tuple[Record, HeadStates]]:
        """Every record with its states."""
        states = [row.states for row in self.rows if row.states is not None]
        return list(zip(self.records, states, strict=True))

    def final_heads(self, state: str) -> list[str]:
        """Heads in a state at the last record, as L3H2; none if no head was tracked."""
        if not self.records:
            return []
        record, states = self.tracked[-1]
        mask: torch.Tensor = states.masks[state]
        names = zip(record.graph.head_names, mask.tolist(), strict=True)
        return [short_head_name(name) for name, kept in names if kept]


def with_inclusion(run: Run, state: str) -> str:
    """Heads in a state at the last record, with inclusion at base and then: `L3H2 (0.02 → 0.97)`"""
    _, states = run.tracked[-1]
    before, after = (x[states.masks[state]] for x in (states.base_inclusion, states.inclusion))
    heads = zip(run.final_heads(state), before.tolist(), after.tolist(), strict=True)
    return ", ".join(f"{name} ({base:.2f} → {now:.2f})" for name, base, now in heads) or "none"


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read runs from their directories (see `checkpoint_rows` for what it raises)."""
    names = [str(read_config(path).get("name", path.name)) for path in paths]
    runs = []
    for path, name in zip(paths, names, strict=True):
        signal, records = signal_name(path), tracked_records(path)
        metrics = sorted(read_metrics(path).items())
        run = Run(
            label=name if names.count(name) == 1 else f"{name} ({path})",
            signal_name=signal,
            config_text=(path / "config.yaml").read_text(encoding="utf-8"),
            rows=checkpoint_rows(path, records),
            records=records,
            logged=[(step, values[signal]) for step, values in metrics if signal in values],
        )
        runs.append(run)
    return runs


def comparison(runs: Sequence[Run]) -> list[str]:
    """Sentences on which heads, emergent at the last record, tracked runs share or have alone.

    The last sentences name what two runs measured differently, if their heads can't be compared.
    """
    runs = [run for run in runs if run.records]
    if len(runs) < 2:
        return []
    everywhere = range(len(runs))
    emergent = [run.final_heads("emergent") for run in runs]
    groups: dict[tuple[int, ...], list[str]] = {tuple(everywhere): []}
    groups.update({(i,): [] for i in everywhere})
    for name in dict.fromkeys(name for names in emergent for name in names):
        groups.setdefault(tuple(i for i in everywhere if name in emergent[i]), []).append(name)
    lines = []
    for where, names in groups.items():
        scope = "in" if len(where) > 1 else "only in"
        labels = " and ".join(runs[i].label for i in where)
        lines.append(f"Emergent {scope} {labels}: {', '.join(names) or 'none'}.")
    first = runs[0].records[0]
    for run in runs[1:]:
        what = ("graph", "pairs_hash", "settings")
        if differ := [w for w in what if getattr(first, w) != getattr(run.records[0], w)]:
            lines.append(
                f"Take care: {runs[0].label} and {run.label} differ in {', '.join(differ)}, so "
                "their heads do not answer the same question."
            )
    return lines


def above_chance(estimate: Estimate) -> bool:
    """Whether a count's interval lies above what two resamples of the base alone give."""
    return estimate.null_high is not None and estimate.low > estimate.null_high


def format_interval(estimate: Estimate) -> str:
    """`12-16`."""
    return f"{estimate.low:.0f}-{estimate.high:.0f}"


def format_estimate(estimate: Estimate) -> str:
    """`14 [12-16]`, with a star if it is above chance."""
    return f"{estimate.value} [{format_interval(estimate)}]" + "*" * above_chance(estimate)


def format_score(evaluation: dict[str, Any]) -> str:
    """pass@1 in per cent with its interval: `41.2 [38-45]`."""
    value, low, high = (100 * evaluation[key] for key in ("pass_at_1", "low", "high"))
    return f"{value:.1f} [{low:.0f}-{high:.0f}]"


def table_titles(signal_name: str) -> list[str]:
    """The heading of `table_cells`."""
    return ["checkpoint", f"mean {signal_name}", "held-out pass@1 %", "heads in circuit", *CHANGES]


def table_cells(rows: list[Row]) -> list[list[str]]:
    """The table without its heading, as text; `-` stands for what was not measured."""
    return [
        [
            str(row.step),
            "-" if row.signal is None else f"{row.signal:.3f}",
            "-" if row.evaluation is None else format_score(row.evaluation),
            *("-" if row.states is None else format_estimate(row.states.counts[c]) for c in COUNTS),
        ]
        for row in rows
    ]


def head_state(states: HeadStates, index: int) -> str | None:
    """`emergent`, `retained`, `pruned`, or None for a head in neither circuit."""
    return next((state for state in CHANGES if states.masks[state][index]), None)


def head_cells(run: Run) -> list[list[str]]:
    """Every head that was in some circuit of a run, the emergent ones first, then by importance.

    Name, state at the last record, step of its first circuit, inclusion and importance at the base,
    and the same at the last record. A head in passing was in a circuit between the two only.
    """
    base, (last, states) = run.records[0], run.tracked[-1]
    ranks = (*CHANGES, None)
    present = torch.stack([s.masks["in_circuit"] for _, s in run.tracked])  # [records, L * H]
    found = []
    for index in present.any(0).nonzero().flatten().tolist():
        state = head_state(states, index)
        first = run.records[int(present[:, index].int().argmax())].step
        shares = [float(record.importance[index]) for record in (base, last)]
        kept = [float(share[index]) for share in (states.base_inclusion, states.inclusion)]
        values = [*(f"{x:.2f}" for x in kept), *(f"{x:.4f}" for x in shares)]
        name = short_head_name(last.graph.head_names[index])
        cells = [name, state or "in passing", str(first), *values]
        found.append((ranks.index(state), -shares[1], index, cells))
    return [cells for *_, cells in sorted(found)]


def legend(rows: list[Row]) -> list[str]:
    """What the brackets and stars of a table mean."""
    lines = ["[low-high]: 95 % bootstrap interval, over pairs (heads) or problems (pass@1)."]
    if base := next((row for row in rows if row.states is not None), None):
        assert base.states is not None
        chance = " and ".join(
            f"{count.null_mean:.1f} {name} (97.5 % point {count.null_high:.0f})"
            for name, count in base.states.counts.items()
            if count.null_mean is not None and count.null_high is not None
        )
        of_base = f"two resamples of step {base.step}"
        lines.append(f"By chance, {of_base} give {chance}; *: above that point.")
    return lines


def format_table(rows: list[Row], signal_name: str) -> str:
    """The table of `checkpoint_rows` in plain text with its legend.

    It fits 80 columns, unless hundreds of heads emerge and hundreds are pruned at one checkpoint.
    """
    upper = ["check-", "mean", "held-out", "heads in", "", "", ""]
    lower = ["point", signal_name, "pass@1 %", "circuit", "emergent", "retained", "pruned"]
    lines = [upper, lower, *table_cells(rows)]
    # A star hangs to the right of its column, so that the brackets stay aligned.
    starred = [any(line[i].endswith("*") for line in lines) for i in range(len(lower))]
    padded = [
        [c + " " * (star and not c.endswith("*")) for c, star in zip(line, starred, strict=True)]
        for line in lines
    ]
    widths = [max(map(len, column)) for column in zip(*padded, strict=True)]
    gap = "  " if sum(widths) + 2 * (len(widths) - 1) <= WIDTH else " "
    text = [gap.join(map(str.rjust, line, widths)).rstrip() for line in padded]
    rule = "-" * (sum(widths) + len(gap) * (len(widths) - 1))
    notes = [part for line in legend(rows) for part in textwrap.wrap(line, WIDTH)]
    return "\n".join([*text[:2], rule, *text[2:], rule, *notes]) + "\n"
