"""One page about one run or several: which heads emerged, were retained and were pruned, and when.

The page is a single HTML file that needs no network: plotly.js is written into it. It is a pure
function of the run directories and of the code, so the same files give the same page. The charts
are in analysis/reporting/figures.py.

    headlab report runs/my-sft                       # -> runs/my-sft/report.html
    headlab report runs/my-sft runs/my-grpo --out compare.html
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.reporting.html import SCRIPT, STYLE, html_table

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from analysis.records.record import Record
    from analysis.trajectories.run import Run
    from analysis.trajectories.trajectory import Known

ASSOCIATION = """Spearman's rho over the checkpoints after the base, with a 95 % block bootstrap. p
is the share of circular shifts of one series against the other that correlate as strongly, so it is
at least 1/n, whatever the data. Curves that do not vary are left out."""

VERDICTS = {  # of analysis/evaluation/scores.py
    "effect": "effect",
    "control": "random heads",
    "effect_minus_control": "effect − random",
    "base_effect": "in the base",
    "effect_minus_base": "effect − base",
}
INTERVENTIONS = """Differences are in points of pass@1, with a 95 % bootstrap over problems, samples
and random sets of heads (as many in each layer, none of the set). p is that of the effect against
random heads: the share of sets, the one in question included, with an effect as large; without
random sets, an exact sign test over problems."""
INCLUSION = "with inclusion at base → final (* called)"
GUIDE = """
<p>A <em>circuit</em> is the set of strongest edges between attention heads, MLPs, embedding and
logits on a fixed set of prompt pairs. Against the circuit of the base, step 0, a head is
<b>emergent</b> if it is in the checkpoint's circuit but not in the base's, <b>retained</b> if it is
in both, <b>pruned</b> if it is in the base's only, and <b>transient</b> if it is in neither but was
emergent before. L3H2 is head 2 of layer 3, both counted from 0.</p>
<p>These are differences of thresholded sets of noisy scores: measured on other pairs they would
come out otherwise. So beside the <b>raw</b> counts there are stricter ones. A head is <b>called</b>
(a star in lists, a filled mark on the map) if its inclusion differs from the base beyond a
false-discovery rate and holds in 80 % of the resamples. It is <b>settled</b> from the second
checkpoint in a row that calls it (or as <code>tracking.hysteresis</code> says). <b>Intervals</b>
are 95 % bootstraps over the pairs. <b>By chance</b> is what two resamples of the base alone give,
with nothing changed.</p>
<p><b>Excess turnover</b> is the share of heads exchanged since the checkpoint before (1 − Jaccard),
less what resampling the pairs at one checkpoint gives: if its interval lies above 0, the circuit
has moved.
<b>Inclusion</b> is the share of resamples in which a head is in the circuit, <b>importance</b> I
its share of the attribution that leaves heads along the circuit's edges, <b>effect</b> E =
(I − I<sub>base</sub>) / (I + I<sub>base</sub>), and <b>weighted overlap</b> the sum of the smaller
importances over the sum of the larger ones. <b>Faithfulness</b> is 1 if the circuit alone does what
the model does and 0 if it does no better than no circuit. The <b>completeness gap</b> is the
share of the metric's change between the prompts of a pair that the scores leave unexplained.</p>
<p>The last columns of the table of heads describe attention A on the clean prompts at the last
record: means over pairs, <code>-</code> where a prompt has no such tokens. <b>Previous token</b>: A
from each token to the one before it (Olsson et al. 2022, arXiv 2209.11895). <b>Induction</b>: A
from each token that has come before to the tokens after its earlier occurrences (prefix matching,
as above). <b>To operands</b>, <b>to answer</b>, <b>to think tag</b>: A from the positions where the
metric is read to the tokens with a digit in the question (after what all prompts begin with; as
Stolfo et al. 2023, arXiv 2305.15054), to the part of the answer that the prompt gives, the reading
token included, and to &lt;think&gt; and &lt;/think&gt;. <b>Copying</b>: sum over absolute sum of
the eigenvalues of W<sub>U</sub>W<sub>OV</sub>W<sub>E</sub>, from the weights, so without an
interval (Elhage et al. 2021, A Mathematical Framework for Transformer Circuits). <b>Receiver
kurtosis</b>: excess kurtosis of the mean attention that a sentence gets from those four or more
further on (Bogdan et al. 2025, arXiv 2506.19143); where prompts have fewer than 12 sentences, of
single tokens, the first left out.</p>
"""


def summary(run: Run) -> str:
    """What became of the heads of a run, in sentences."""
    from analysis.heads.changes import CHANGES
    from analysis.reporting.text import chances, count, with_inclusion

    points = run.points
    if len(points) < 2:
        return f"<p>In <b>{escape(run.label)}</b> no checkpoint after the base was tracked.</p>"
    last = points[-1]
    counts = {name: count(estimate) for name, estimate in last.counts.items()}
    inside = counts.pop("in_circuit")
    called, settled = (
        " and ".join(f"{int(masks[name].sum())} {name}" for name in CHANGES)
        for masks in (last.change.called, last.settled)
    )
    verdict = f"Called, that is beyond noise of the pairs: <b>{called}</b>."
    if not any(mask.any() for mask in last.change.called.values()):
        verdict = (
            "No head is called: <b>no change of the circuit's heads is distinguishable from noise "
            "of the pairs</b>."
        )
    lists = {f"{name.capitalize()}, {INCLUSION}": with_inclusion(run, name) for name in CHANGES}
    for name in ("retained", "transient"):
        lists[name.capitalize()] = ", ".join(run.final_heads(name)) or "none"
    for name in CHANGES:
        lists[f"Settled {name}"] = ", ".join(last.names(last.settled[name])) or "none"
    items = "".join(f"<li>{title}: {heads}.</li>" for title, heads in lists.items())
    return f"""<p>In <b>{escape(run.label)}</b>, at step {last.step} against the base (step
    {points[0].step}), {inside} heads are in the circuit, raw counts with 95 % intervals:
    {", ".join(f"{size} {name}" for name, size in counts.items())}. By chance, two resamples of
    the base alone give {chances(last.change.null)}. {verdict} Settled: {settled}.</p>
    <ul>{items}</ul>"""


def association_table(run: Run) -> str:
    """How the loss or reward goes along with each curve."""
    from analysis.reporting.text import number

    found = run.associations if len(run.points) > 1 else {}
    rows = []
    for name, a in found.items():
        if not math.isnan(a.p_value):
            rows.append([name.replace("_", " "), number(a.rho), f"{a.p_value:.2g}", str(a.n)])
    if not rows:
        return (
            '<p class="note">There are too few checkpoints, or nothing varies, so the '
            f"{run.signal_name} can't be correlated with the heads.</p>"
        )
    table = html_table(("curve", f"rho with the {run.signal_name}", "p", "n"), rows)
    return f'{table}<p class="note">{ASSOCIATION}</p>'


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def traceability(run: Run) -> str:
    """What was measured, with what and by what: hashes, versions and settings."""
    from analysis.records.record import SCHEMA

    def cells(record: Record) -> list[str]:
        model, code = (record.origin.get(part) or {} for part in ("model", "code"))
        name = _pairs({k: model[k] for k in ("path", "type", "dtype") if k in model})
        hashes = [str(model.get(part) or "-") for part in ("weights", "adapter")]
        config = str(record.origin.get("config") or "-")
        ours = {key: code[key] for key in ("headlab", "commit") if key in code}
        others = {key: value for key, value in code.items() if key not in ours}
        versions = [_pairs(ours), _pairs(record.selection), name, _pairs(others)]
        return [str(record.step), *hashes, config, *versions]

    records = [point.record for point in run.points]
    hashes = ("weights", "adapter", "configuration")
    titles = ("step", *hashes, "code", "selection", "model", "libraries")
    shared = {
        "pairs": f"{records[0].pairs_hash} ({records[0].n_pairs} pairs)",
        "settings": _pairs(records[0].settings),
        "graph": str(records[0].graph),
        "schema of the records": str(SCHEMA),
        "calls": f"false-discovery rate {run.file.fdr}, hysteresis "
        f"{run.file.hysteresis} checkpoints",
        "seed of the training": "-" if run.file.seed is None else str(run.file.seed),
    }
    lines = "".join(f"<li>{key}: {escape(value)}</li>" for key, value in shared.items())
    return f"{html_table(titles, [cells(record) for record in records])}<ul>{lines}</ul>"


def checkpoint_table(run: Run) -> str:
    """The table that a terminal shows, with its legend."""
    from analysis.reporting.tables import SHOWN, legend, table_cells

    counts = (name.replace("_", " ") for name in SHOWN)
    titles = ("checkpoint", f"mean {run.signal_name or 'signal'}", "held-out pass@1 %", *counts)
    notes = "<br>".join(escape(note) for note in legend(run.rows))
    table = html_table((*titles, "called"), table_cells(run.rows))
    return f'{table}<p class="note">{notes}</p>'


def task_scores(run: Run) -> str:
    """pass@1 on benchmarks at each checkpoint."""
    from analysis.reporting.tables import task_table

    titles, *lines = task_table(run.rows)
    return html_table(titles, lines)


def intervention_table(run: Run) -> str:
    """What changing some heads did, against random heads and against the base."""
    from analysis.reporting.text import estimate_in, percent

    titles = ("task", "step", "change", "pass@1 %", "changed", *VERDICTS.values(), "p", "heads")
    lines = []
    for result in run.interventions.values():
        scores, verdicts = result["conditions"], result["comparisons"]
        cells = [percent(estimate_in(verdicts[v])) if v in verdicts else "-" for v in VERDICTS]
        task = result["task"] + (f", think {result['think']}" if result["think"] else "")
        change = re.sub(r"[^:,]*/", "", result["intervention"])  # of paths, the last part
        ends = [percent(estimate_in(scores[n], "pass_at_1")) for n in ("none", "intervention")]
        against = verdicts.get("effect_minus_control", verdicts["effect"])["p_value"]
        p, heads = f"{against:.2g}", ", ".join(result["heads"])
        lines.append([task, str(result["step"]), change, *ends, *cells, p, heads])
    return f'{html_table(titles, lines)}<p class="note">{INTERVENTIONS}</p>'


def roles_note(run: Run) -> str:
    """What the roles in the table of heads rest on; nothing without roles."""
    from analysis.reporting.roles import defining_pairs

    if run.roles is None:
        return ""
    unit = f"receiver kurtosis over {run.roles.unit}"
    counts = defining_pairs(run.roles)
    return f'<p class="note">Pairs that define each role: {counts}; {unit}.</p>'


def section(run: Run, name: str) -> str:
    """Everything about one run; `name` begins the ids of its figures and tables."""
    from analysis.reporting import figures
    from analysis.reporting.tables import HEAD_TITLES, head_cells

    def embed(figure: Figure, part: str) -> str:
        how: dict[str, Any] = {"include_plotlyjs": False, "full_html": False}
        config = {"displayModeBar": False, "responsive": True}
        return str(figure.to_html(**how, config=config, div_id=f"{name}-{part}"))

    parts = {"Over the checkpoints": embed(figures.trajectory_chart(run), "trajectory")}
    if run.points:
        parts["Cohorts"] = embed(figures.cohort_chart(run), "cohorts")
        parts["Heads at each checkpoint"] = embed(figures.head_map(run), "map")
        final = f"Sensitivity of the counts at step {run.points[-1].step}"
        parts[final] = embed(figures.sensitivity_chart(run), "sensitivity")
        parts["Faithfulness"] = embed(figures.faithfulness_chart(run), "faithfulness")
    parts["Checkpoints"] = checkpoint_table(run)
    if any(row.tasks for row in run.rows):
        parts["Benchmarks, pass@1 %"] = task_scores(run)
    if run.interventions:
        parts["Heads changed"] = intervention_table(run)
    if run.points and run.signal_name:
        parts[f"The {run.signal_name} and the heads"] = association_table(run)
    if run.points:
        parts["Heads"] = html_table(HEAD_TITLES, head_cells(run), f"{name}-heads") + roles_note(run)
        parts["Where the numbers come from"] = traceability(run)
    if run.config_text is not None:
        config = f"<summary>config.yaml</summary><pre>{escape(run.config_text)}</pre>"
        parts["Configuration"] = f"<details>{config}</details>"
    body = "\n".join(f"<h3>{title}</h3>{part}" for title, part in parts.items())
    return f"<h2>{escape(run.label)}</h2>\n{body}"


def write_report(runs: list[Path], out: Path, known: Known | None = None) -> Path:
    """Write the page about some runs, whole or not at all; the path it was written to.

    known: see `analysis.trajectories.trajectory.trajectory`.

    Raises:
        ValueError: a directory holds no run, or a run has no checkpoint yet.
    """
    from plotly.offline import get_plotlyjs

    from analysis.files import atomic_write
    from analysis.models.provenance import code_version
    from analysis.reporting.tables import comparison
    from analysis.trajectories.run import read_runs

    loaded = read_runs(runs, known)
    title = escape("headlab: " + " and ".join(run.label for run in loaded))
    shared = "".join(f"<li>{escape(line)}</li>" for line in comparison(loaded))
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>{STYLE}</style><script>{get_plotlyjs()}</script></head><body>
<h1>{title}</h1>
{"".join(summary(run) for run in loaded)}
{f"<p>Between the runs:</p><ul>{shared}</ul>" if shared else ""}
<h3>How to read this</h3>{GUIDE}
{"".join(section(run, f"run{index}") for index, run in enumerate(loaded))}
<p class="note">Page written by {escape(_pairs(code_version()))}.</p>
<script>{SCRIPT}</script></body></html>
"""
    with atomic_write(out) as draft:
        draft.write_text(page, encoding="utf-8")
    return out
