"""One page about one run or several: which heads emerged, were retained and were pruned, and when.

The page is a single HTML file that needs no network. It is a pure function of the run directories
and of the code, so the same files give the same page. Its words are in
analysis/reporting/templates, its charts in analysis/reporting/figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.reporting.pages import write_page
from analysis.reporting.sections import section, spelled

if TYPE_CHECKING:
    from analysis.trajectories.run import Run

TEMPLATE = "report.html.j2"


def write_report(runs: Sequence[Run], out: str | Path, findings: Sequence[str] = ()) -> Path:
    """Write the page about some runs, whole or not at all; the path it was written to.

    findings: sentences that it begins with.

    Raises:
        ValueError: a run has no checkpoint yet.
    """
    return write_page(Path(out), TEMPLATE, **report_values(runs, findings))


def report_values(
    runs: Sequence[Run], findings: Sequence[str] = (), live: str = "", state: str | None = None
) -> dict[str, Any]:
    """What the template of the page is told.

    live: on a page that a server shows, where it is sent what is new. state: of the run then.

    Raises:
        ValueError: a run has no checkpoint yet.
    """
    from markupsafe import Markup

    from analysis.models.provenance import code_version
    from analysis.reporting.dashboard.library import graph_library
    from analysis.reporting.dashboard.page import as_script, page_data
    from analysis.reporting.dashboard.terms import TERMS
    from analysis.reporting.tables import comparison
    from analysis.trajectories.run import checkpoint_rows

    for run in runs:
        checkpoint_rows(run)
    title, code = "headlab: " + " and ".join(run.label for run in runs), spelled(code_version())
    shown = page_data(runs, title, code, findings)
    followed = any(run.signal_name is not None for run in runs)
    for run_shown in shown["runs"]:
        run_shown["state"] = state
    return {
        "title": title,
        "verdict": shown["runs"][0]["judged"]["verdict"],
        "data": as_script(shown),
        "live": live,
        "vis": Markup(graph_library()),
        "sections": [section(run, f"run{index}") for index, run in enumerate(runs)],
        "findings": findings,
        "between": comparison(runs),
        "code": code,
        "terms": {term: TERMS[term] for term in TERMS if term != "signal" or followed},
    }
