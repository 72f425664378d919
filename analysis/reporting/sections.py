"""What the report tells about one run below its first screen: texts and tables of its folds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.records.secrets import redact_yaml
from analysis.reporting.pages import Table, chart

if TYPE_CHECKING:
    from markupsafe import Markup

    from analysis.records.record import Record
    from analysis.trajectories.run import Run

VERDICTS = {  # of analysis/evaluation/scores.py
    "effect": "effect",
    "control": "random heads",
    "effect_minus_control": "effect − random",
    "base_effect": "in the base",
    "effect_minus_base": "effect − base",
}
INCLUSION = "with inclusion at base → final (* called)"


@dataclass(frozen=True)
class Summary:
    """What became of the heads of a run, as texts for sentences.

    counts: of the raw states. sample: what is to be said of the size of the sample, or empty.
    chance: empty if the pairs can't be resampled. called: None if no head is. lists: heads of each
    kind by its title.
    """

    step: int
    base: int
    inside: str
    counts: list[str]
    sample: str
    chance: str
    called: str | None
    settled: str
    lists: dict[str, str]


@dataclass(frozen=True)
class Asked:
    """Whether some heads are needed: a sentence, tables, and what their columns mean."""

    words: str
    tables: list[Table]
    legend: str


@dataclass(frozen=True)
class Section:
    """Everything that the page tells about one run; None or "" where there is nothing to tell.

    charts: by their titles. behaviour: how far the model has moved. needed: whether called heads
    are, by checkpoint. associations: of the signal with the curves. roles: what the roles in the
    table of heads rest on. sources, shared: what was measured with what, by checkpoint and for all
    of them. reference: the second model, in words. routing: of a mixture of experts, with how the
    attribution chose.
    """

    label: str
    summary: Summary | None
    charts: dict[str, Markup]
    checkpoints: Table
    legend: list[str]
    behaviour: Table | None
    behaviour_notes: list[str]
    tasks: Table | None
    interventions: Table | None
    needed: list[Asked]
    signal: str | None
    associations: Table | None
    heads: Table | None
    roles: str
    sources: Table | None
    shared: dict[str, str]
    config: str | None
    reference: str | None
    routing: Table | None
    routing_note: str


def summary(run: Run) -> Summary | None:
    """What became of the heads of a run; None if only its base was tracked."""
    from analysis.heads.changes import CHANGES
    from analysis.heads.sample import sample_note
    from analysis.reporting.same import changed_heads
    from analysis.reporting.text import chances, count, with_inclusion

    points = run.points
    if len(points) < 2:
        return None
    last = points[-1]
    counts = {name: count(estimate) for name, estimate in last.counts.items()}
    inside = counts.pop("in_circuit")
    called, settled = (
        " and ".join(f"{int(masks[name].sum())} {name}" for name in CHANGES)
        for masks in (last.change.called, last.settled)
    )
    lists = {f"{name.capitalize()}, {INCLUSION}": with_inclusion(run, name) for name in CHANGES}
    for name in ("retained", "transient"):
        lists[name.capitalize()] = ", ".join(run.final_heads(name)) or "none"
    if (changed := changed_heads(last)) is not None:
        names = last.names(last.masks["retained"] & changed)
        lists["Retained, but changed"] = ", ".join(names) or "none"
    for name in CHANGES:
        lists[f"Settled {name}"] = ", ".join(last.names(last.settled[name])) or "none"
    return Summary(
        step=last.step,
        base=points[0].step,
        inside=inside,
        counts=[f"{size} {name}" for name, size in counts.items()],
        sample=sample_note(last.record.n_pairs, last.record.distinct) or "",
        chance=chances(last.change.null),
        called=called if any(mask.any() for mask in last.change.called.values()) else None,
        settled=settled,
        lists=lists,
    )


def association_table(run: Run) -> Table | None:
    """How the loss or reward goes along with each curve that varies; None if none does."""
    from analysis.reporting.text import number, p_value

    found = run.associations if len(run.points) > 1 else {}
    rows = [
        [name.replace("_", " "), number(a.rho), p_value(a.p_value), str(a.n)]
        for name, a in found.items()
        if not math.isnan(a.p_value)
    ]
    return Table(("curve", f"rho with the {run.signal_name}", "p", "n"), rows) if rows else None


def spelled(values: Mapping[str, object]) -> str:
    """`key value, key value`."""
    return ", ".join(f"{key} {value}" for key, value in values.items())


def source_table(run: Run) -> Table:
    """What was measured at each checkpoint, with what and by what: hashes and versions."""

    def cells(record: Record) -> list[str]:
        model, code = (record.origin.get(part) or {} for part in ("model", "code"))
        name = spelled({k: model[k] for k in ("path", "type", "dtype") if k in model})
        hashes = [str(model.get(part) or "-") for part in ("weights", "adapter")]
        config = str(record.origin.get("config") or "-")
        ours = {key: code[key] for key in ("headlab", "commit") if key in code}
        others = {key: value for key, value in code.items() if key not in ours}
        versions = [spelled(ours), spelled(record.selection), name, spelled(others)]
        return [str(record.step), *hashes, config, *versions]

    hashes = ("weights", "adapter", "configuration")
    titles = ("step", *hashes, "code", "selection", "model", "libraries")
    return Table(titles, [cells(point.record) for point in run.points])


def _made_of(run: Run) -> str:
    """What the pairs were made of, where headlab made them of a trainer's rows."""
    from analysis.files import read_json

    try:
        about = read_json(run.path / "pairs.json", dict[str, object]).get("about")
    except (FileNotFoundError, ValueError):  # it is no part of what was measured
        return ""
    return f": {about}" if isinstance(about, str) else ""


def shared_sources(run: Run) -> dict[str, str]:
    """What all checkpoints of a run were measured with: pairs, settings, thresholds."""
    from analysis.records.record_form import SCHEMA
    from analysis.reporting.tables import parts_note

    first = run.points[0].record
    size = f"{first.n_pairs} pairs"
    size += f", {first.distinct} distinct" if first.distinct < first.n_pairs else ""
    parts = parts_note(run.file)
    return {
        "pairs": f"{first.pairs_hash} ({size}{_made_of(run)})",
        **({"parts of the problems": parts[0]} if parts else {}),
        "settings": spelled(first.settings),
        "graph": str(first.graph),
        "schema of the records": str(SCHEMA),
        "calls": f"false-discovery rate {run.file.fdr}, hysteresis {run.file.hysteresis} "
        "checkpoints",
        "seed of the training": "-" if run.file.seed is None else str(run.file.seed),
    }


def checkpoint_table(run: Run) -> Table:
    """The table that a terminal shows."""
    from analysis.reporting.tables import SHOWN, table_cells

    counts = (name.replace("_", " ") for name in SHOWN)
    titles = ("checkpoint", f"mean {run.signal_name or 'signal'}", "held-out pass@1 %", *counts)
    return Table((*titles, "called"), table_cells(run.rows))


def behaviour(run: Run) -> Table | None:
    """What the model does and its circuit keeps at each checkpoint; None if it was not measured."""
    from analysis.reporting.behaviour import behaviour_table

    if not (found := behaviour_table(run.rows)):
        return None
    titles, *lines = found
    return Table(titles, lines)


def task_scores(run: Run) -> Table | None:
    """pass@1 on benchmarks at each checkpoint; None if there is none."""
    from analysis.reporting.tables import task_names, task_table

    if not task_names(run.rows):
        return None
    titles, *lines = task_table(run.rows)
    return Table(titles, lines)


def intervention_table(run: Run) -> Table | None:
    """What changing some heads did, against random heads and against the base; None if nothing."""
    from analysis.reporting.text import estimate_in, p_value, percent

    titles = ("task", "step", "change", "pass@1 %", "changed", *VERDICTS.values(), "p", "heads")
    lines = []
    for result in run.interventions.values():
        scores, verdicts = result["conditions"], result["comparisons"]
        cells = [percent(estimate_in(verdicts[v])) if v in verdicts else "-" for v in VERDICTS]
        task = result["task"] + (f", think {result['think']}" if result["think"] else "")
        change = re.sub(r"[^:,]*/", "", result["intervention"])  # of paths, the last part
        ends = [percent(estimate_in(scores[n], "pass_at_1")) for n in ("none", "intervention")]
        against = verdicts.get("effect_minus_control", verdicts["effect"]).get("p_value")
        p, heads = "-" if against is None else p_value(against), ", ".join(result["heads"])
        lines.append([task, str(result["step"]), change, *ends, *cells, p, heads])
    return Table(titles, lines) if lines else None


def asked(run: Run) -> list[Asked]:
    """Whether the heads of the checkpoints are needed, where that was measured."""
    from analysis.reporting.needed import (
        RIGHT,
        TITLES,
        backup_words,
        legend,
        right_rows,
        rows,
        sentence,
    )

    found = []
    for one in run.needed.values():
        tables = [
            Table(titles, lines)
            for titles, lines in ((TITLES, rows(one)), (RIGHT, right_rows(one)))
            if lines
        ]
        found.append(Asked(f"{sentence(one)} {backup_words(one)}", tables, legend(one)))
    return found


def roles_note(run: Run) -> str:
    """What the roles in the table of heads rest on; nothing without roles."""
    from analysis.reporting.roles import defining_pairs

    if run.roles is None:
        return ""
    return f"{defining_pairs(run.roles)}; receiver kurtosis over {run.roles.unit}"


def reference_note(run: Run) -> str | None:
    """How like its reference a run became, in words; None if it has none."""
    from analysis.reporting.text import number

    reference = run.reference
    if reference is None:
        return None
    if reference.unlike is not None or not reference.jaccard:
        why = reference.unlike or "no checkpoint is measured yet"
        return f"The reference {reference.name} is not compared head by head: {why}."
    first, last = reference.jaccard[0], reference.jaccard[-1]
    whose = f"the heads of the reference {reference.name}"
    said = f"Jaccard index with {whose}: {number(first)} at the base"
    if len(reference.jaccard) > 1:
        said += f", {number(last)} at step {run.points[-1].step}"
    if math.isnan(ceiling := reference.ceiling[-1]):
        return f"{said}."
    return f"{said}; two samples of one model would have {ceiling:.2f}."


def routing_table(run: Run) -> Table | None:
    """The layers of a mixture of experts; None for other models."""
    from analysis.reporting.routing import TITLES, routing_rows

    rows = routing_rows(run.points) if run.points else []
    return Table(TITLES, rows) if rows else None


def charts(run: Run, name: str) -> dict[str, Markup]:
    """The charts of a run by their titles."""
    from analysis.reporting.figures.routing import routing_content, routings
    from analysis.reporting.figures.sensitivity import sensitivity_content
    from analysis.reporting.figures.trajectory import (
        cohort_content,
        faithfulness_content,
        trajectory_content,
    )

    found = {"Over the checkpoints": ("trajectory", trajectory_content(run))}
    if run.points:
        final = f"Sensitivity of the counts at step {run.points[-1].step}"
        found |= {
            "Cohorts": ("cohorts", cohort_content(run)),
            final: ("sensitivity", sensitivity_content(run)),
            "Faithfulness": ("faithfulness", faithfulness_content(run)),
        }
    if routings(run):
        found["Routing to experts"] = ("routing", routing_content(run))
    return {
        title: chart(content, f"{name}-{part}", f"{run.label}: {title}")
        for title, (part, content) in found.items()
    }


def head_table(run: Run, name: str) -> Table:
    """Every head that was in some circuit."""
    from analysis.reporting.tables import head_cells, head_titles

    return Table(head_titles(run.points[0].record.graph), head_cells(run), f"{name}-heads")


def section(run: Run, name: str) -> Section:
    """Everything about one run; `name` begins the ids of its figures and tables."""
    from analysis.reporting.behaviour import behaviour_notes
    from analysis.reporting.routing import routing_note
    from analysis.reporting.tables import legend

    there, routing = bool(run.points), routing_table(run)
    return Section(
        label=run.label,
        summary=summary(run),
        charts=charts(run, name),
        checkpoints=checkpoint_table(run),
        legend=legend(run.rows),
        behaviour=behaviour(run),
        behaviour_notes=behaviour_notes(run.rows),
        tasks=task_scores(run),
        interventions=intervention_table(run),
        needed=asked(run),
        signal=run.signal_name,
        associations=association_table(run),
        heads=head_table(run, name) if there else None,
        roles=roles_note(run),
        sources=source_table(run) if there else None,
        shared=shared_sources(run) if there else {},
        config=run.config_text and redact_yaml(run.config_text),
        reference=reference_note(run),
        routing=routing,
        routing_note="" if routing is None else routing_note(run.points[-1].record),
    )
