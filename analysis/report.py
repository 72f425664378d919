"""One page about one run or several: which heads emerged, were retained and were pruned, and when.

The page is a single HTML file that needs no network: plotly.js is written into it. It is a pure
function of the run directories, so the same files give the same page.

    python -m analysis.report runs/my-sft                       # -> runs/my-sft/report.html
    python -m analysis.report runs/my-sft runs/my-grpo --out compare.html
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from analysis.heads import HeadStates
    from analysis.records import Record
    from analysis.table import Run

RED, BLUE, BROWN, INK, GREY = "#d62f2f", "#1f6fd6", "#8a5a12", "#1f2933", "#8a929b"
LILAC, PURPLE, GREEN = "#c3b5e3", "#6b4fb3", "#1b7f5c"
COLOURS = {"in_circuit": INK, "retained": RED, "emergent": BLUE, "pruned": BROWN}
MARKS = {"retained": "circle-open", "emergent": "star", "pruned": "x-thin"}

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; background: #fbfbf9;
       max-width: 1000px; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; border-top: 1px solid #ddd; padding-top: 1rem; } h3 { margin: 1.6rem 0 0; }
table { border-collapse: collapse; background: #fff; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid #e2e2dd; padding: .2rem .6rem; text-align: right; }
th { background: #f2f2ee; position: sticky; top: 0; } .scroll { max-height: 32rem; overflow: auto; }
pre { background: #fff; border: 1px solid #e2e2dd; padding: .8rem; overflow: auto; }
.note { color: #5b6570; font-size: .88rem; } summary { cursor: pointer; }
"""

GUIDE = """
<p>A <em>circuit</em> is the set of strongest edges between attention heads, MLPs, embedding and
logits on a fixed set of prompt pairs. Against the circuit of the base, the first checkpoint, a head
is <b>emergent</b> if it is in the checkpoint's circuit but not in the base's, <b>retained</b> (a
base head) if it is in both, and <b>pruned</b> if it is in the base's only. L3H2 is head 2 of layer
3, both counted from 0.</p>
<p>These are differences of thresholded sets, so every count has a sampling error. The
<b>interval</b> is a 95 % bootstrap: the pairs are resampled, alike for base and checkpoint, and
both circuits are selected anew. Set differences are biased upwards under resampling, so a count can
lie below its own interval. <b>Chance</b> is the count that two independent resamples of the base
alone give, with nothing changed; it shares that bias, and a count whose interval does not lie above
it may be noise. <b>Inclusion</b> is the share of resamples in which a head is in the circuit.
<b>Importance</b> is a head's share of the attribution that leaves heads along the circuit's
edges.</p>
"""


def html_table(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """An HTML table of plain text."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heading)
    rows = ["".join(f"<td>{escape(cell)}</td>" for cell in line) for line in lines]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>\n{body}</table></div>'


def summary(run: Run) -> str:
    """What became of the heads of a run, in sentences."""
    from analysis.table import above_chance, format_interval, with_inclusion

    if len(run.records) < 2:
        return f"<p>In <b>{escape(run.label)}</b> no checkpoint after the base was tracked.</p>"
    base, (last, states) = run.records[0].step, run.tracked[-1]
    emergent = states.counts["emergent"]
    verdict = "more than chance" if above_chance(emergent) else "not distinguishable from chance"
    found = {
        state: f"{count.value} (interval {format_interval(count)})"
        for state, count in states.counts.items()
    }
    return f"""<p>In <b>{escape(run.label)}</b>, from step {base} to step {last.step}, the number of
    heads that emerged is {found["emergent"]}. Two resamples of step {base} alone give
    {emergent.null_mean:.1f} on average and up to {emergent.null_high:.0f} in 97.5 % of draws, so
    this is <b>{verdict}</b>. Retained: {found["retained"]}; pruned: {found["pruned"]}.</p>
    <ul><li>Emergent, with inclusion at base → final: {with_inclusion(run, "emergent")}.</li>
    <li>Retained: {", ".join(run.final_heads("retained")) or "none"}.</li>
    <li>Pruned, with inclusion at base → final: {with_inclusion(run, "pruned")}.</li></ul>"""


def _band(figure: Figure, row: int, steps: list[int], ends: list[list[float]], colour: str) -> None:
    """Fill between two lines, `ends` (low, high)."""
    figure.add_scatter(
        x=steps + steps[::-1], y=ends[1] + ends[0][::-1], fill="toself", fillcolor=colour, row=row,
        line_width=0, opacity=0.15, hoverinfo="skip", showlegend=False, col=1, mode="lines",
    )  # fmt: skip


def _draw_counts(figure: Figure, run: Run, row: int, names: tuple[str, ...]) -> None:
    """Lines with interval bands; behind the emergent heads their chance level."""
    place: dict[str, Any] = {"row": row, "col": 1, "legend": f"legend{row}"}
    steps = [record.step for record in run.records]
    if "emergent" in names:
        chance = run.tracked[0][1].counts["emergent"]
        mean, high = ([float(x or 0)] * len(steps) for x in (chance.null_mean, chance.null_high))
        _band(figure, row, steps, [[0.0] * len(steps), high], GREY)
        dotted = {"color": GREY, "dash": "dot"}
        title = "chance, to 97.5 %"
        figure.add_scatter(x=steps, y=mean, mode="lines", name=title, line=dotted, **place)
    for name in names:
        counts = [states.counts[name] for _, states in run.tracked]
        ends = [[count.low for count in counts], [count.high for count in counts]]
        _band(figure, row, steps, ends, COLOURS[name])
        figure.add_scatter(
            x=steps, y=[c.value for c in counts], mode="lines+markers", name=name.replace("_", " "),
            line={"color": COLOURS[name], "dash": "dash" if name == "retained" else "solid"},
            customdata=list(zip(*ends, strict=True)),
            hovertemplate="%{y} [%{customdata[0]:.1f}-%{customdata[1]:.1f}]", **place,
        )  # fmt: skip
    figure.update_yaxes(title_text="heads", rangemode="tozero", row=row, col=1)


def _draw_signal(figure: Figure, run: Run, row: int) -> None:
    """The loss or reward as logged, and its mean since the checkpoint before."""
    place: dict[str, Any] = {"row": row, "col": 1, "legend": f"legend{row}"}
    means = [(checkpoint.step, checkpoint.signal) for checkpoint in run.rows]
    curves = (("logged", "lines", LILAC, run.logged), ("mean", "markers", PURPLE, means))
    for name, mode, colour, points in curves:
        steps, values = zip(*points, strict=True)
        figure.add_scatter(x=steps, y=values, mode=mode, name=name, marker_color=colour, **place)
    figure.update_yaxes(title_text=run.signal_name, row=row, col=1)


def _draw_scores(figure: Figure, run: Run, row: int) -> None:
    """Held-out pass@1 with its interval."""
    scored = [(r.step, r.evaluation) for r in run.rows if r.evaluation is not None]
    upper = [e["high"] - e["pass_at_1"] for _, e in scored]
    lower = [e["pass_at_1"] - e["low"] for _, e in scored]
    figure.add_scatter(
        x=[step for step, _ in scored], y=[e["pass_at_1"] for _, e in scored], name="held-out",
        error_y={"array": upper, "arrayminus": lower, "thickness": 1}, mode="lines+markers",
        marker_color=GREEN, legend=f"legend{row}", row=row, col=1,
    )  # fmt: skip
    figure.update_yaxes(title_text="pass@1", row=row, col=1)


def trajectory(run: Run) -> Figure:
    """Counts of heads, loss or reward, and pass@1 over checkpoints, one panel under another."""
    from functools import partial

    from plotly.subplots import make_subplots

    kinds = (("in_circuit", "retained"), ("emergent", "pruned")) if run.records else ()
    panels: list[Any] = [partial(_draw_counts, names=names) for names in kinds]
    if run.logged:
        panels.append(_draw_signal)
    if any(row.evaluation is not None for row in run.rows):
        panels.append(_draw_scores)
    figure = make_subplots(rows=len(panels), shared_xaxes=True, vertical_spacing=0.04)
    for row, draw in enumerate(panels, start=1):
        draw(figure, run, row)
        top = figure.get_subplot(row, 1).yaxis.domain[1]
        figure.update_layout({f"legend{row}": {"y": top, "yanchor": "top", "x": 1.01}})
    figure.update_xaxes(title_text="step", row=len(panels), col=1)
    figure.update_layout(height=180 * len(panels) + 60, margin={"l": 60, "r": 10, "t": 10, "b": 40})
    return figure.update_layout(template="plotly_white", hovermode="x unified")


def head_map(run: Run) -> Figure:
    """Layers x heads: colour is importance, marks are states, the slider selects a checkpoint."""
    from plotly.graph_objects import Figure

    graph, last = run.records[0].graph, len(run.records) - 1
    highest = max(float(record.importance.max()) for record in run.records)
    figure, steps = Figure(), []
    for index, (record, states) in enumerate(run.tracked):
        _draw_map(figure, record, states, highest, visible=index == last)
        visible = [i == index for i in range(last + 1) for _ in ("cells", *MARKS)] + [True]
        steps.append({"method": "restyle", "args": ["visible", visible], "label": str(record.step)})
    outline = {"symbol": "square-open", "size": 12, "color": "black"}
    figure.add_scatter(x=[None], y=[None], mode="markers", marker=outline, name="in final circuit")
    for place in run.records[-1].heads.nonzero().flatten().tolist():
        y, x = divmod(place, graph.n_heads)
        square = {"x0": x - 0.48, "x1": x + 0.48, "y0": y - 0.48, "y1": y + 0.48}
        figure.add_shape(**square, line={"width": 1.5, "color": "black"})
    axes: dict[str, Any] = {"dtick": 1, "showgrid": False, "zeroline": False}
    figure.update_xaxes(title_text="head", range=[-0.52, graph.n_heads - 0.48], **axes)
    figure.update_yaxes(title_text="layer", range=[-0.52, graph.n_layers - 0.48], **axes)
    title = {"prefix": "checkpoint "}
    slider = {"active": last, "steps": steps, "pad": {"t": 50}, "currentvalue": title}
    return figure.update_layout(
        template="plotly_white", height=26 * graph.n_layers + 260, sliders=[slider],
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        margin={"l": 60, "r": 10, "t": 40, "b": 10},
    )  # fmt: skip


def _draw_map(
    figure: Figure, record: Record, states: HeadStates, top: float, visible: bool
) -> None:
    """One checkpoint of the map: the coloured cells, then one trace of marks for each state."""
    from analysis.graph import short_head_name
    from analysis.table import head_state

    width = record.graph.n_heads
    hover = [
        f"{short_head_name(name)}: {head_state(states, i) or 'in neither circuit'}<br>inclusion "
        f"{states.inclusion[i]:.2f}<br>importance {record.importance[i]:.4f}"
        for i, name in enumerate(record.graph.head_names)
    ]
    figure.add_heatmap(
        z=record.importance.view(-1, width).tolist(), zmin=0, zmax=top, visible=visible,
        text=[hover[start : start + width] for start in range(0, len(hover), width)],
        hovertemplate="%{text}<extra></extra>", xgap=2, ygap=2,
        colorscale=[[0, "#f2f2ee"], [1, "#f0a830"]], colorbar_title="importance",
        colorbar_lenmode="pixels", colorbar_len=min(200, 26 * record.graph.n_layers + 60),
        colorbar_y=1, colorbar_yanchor="top",
    )  # fmt: skip
    for state, symbol in MARKS.items():
        places = states.masks[state].nonzero().flatten().tolist()
        figure.add_scatter(
            x=[place % width for place in places] or [None],
            y=[place // width for place in places] or [None],
            marker={"symbol": symbol, "color": COLOURS[state], "size": 10},
            marker_line={"width": 0 if state == "emergent" else 2, "color": COLOURS[state]},
            mode="markers", visible=visible, hoverinfo="skip",
            name="retained (base head)" if state == "retained" else state,
        )  # fmt: skip


def section(run: Run, name: str) -> str:
    """Everything about one run; `name` begins the ids of its figures."""
    from analysis.table import HEAD_TITLES, head_cells, legend, table_cells, table_titles

    def embed(figure: Figure, part: str) -> str:
        how: dict[str, Any] = {"include_plotlyjs": False, "full_html": False}
        config = {"displayModeBar": False, "responsive": True}
        return str(figure.to_html(**how, config=config, div_id=f"{name}-{part}"))

    notes = "<br>".join(escape(note) for note in legend(run.rows))
    curves = embed(trajectory(run), "trajectory")
    parts = [f"<h2>{escape(run.label)}</h2>\n<h3>Over the checkpoints</h3>{curves}"]
    if run.records:
        parts.append(f"<h3>Heads at each checkpoint</h3>{embed(head_map(run), 'map')}")
    checkpoints = html_table(table_titles(run.signal_name), table_cells(run.rows))
    parts.append(f'<h3>Checkpoints</h3>{checkpoints}<p class="note">{notes}</p>')
    if run.records:
        parts.append(f"<h3>Heads</h3>{html_table(HEAD_TITLES, head_cells(run))}")
    config = f"<summary>config.yaml</summary><pre>{escape(run.config_text)}</pre>"
    return "\n".join([*parts, f"<h3>Configuration</h3><details>{config}</details>"])


def write_report(runs: list[Path], out: Path) -> Path:
    """Write the page about some runs, whole or not at all; the path it was written to.

    Raises:
        ValueError: a directory holds no run, or a run has no checkpoint yet.
    """
    from plotly.offline import get_plotlyjs

    from analysis.records import atomic_write
    from analysis.table import comparison, read_runs

    loaded = read_runs(runs)
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
</body></html>
"""
    with atomic_write(out) as draft:
        draft.write_text(page, encoding="utf-8")
    return out


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's directory")
    parser.add_argument("--out", type=Path, help="default: report.html in RUN, or beside the runs")
    options = parser.parse_args()
    runs: list[Path] = options.runs
    home = runs[0] if len(runs) == 1 else runs[0].parent
    try:
        print(write_report(runs, options.out or home / "report.html"))
    except ValueError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
