"""The card of a run on the hub: what was measured, how, and what is not claimed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.reporting.tables import format_table
from analysis.version import __version__

if TYPE_CHECKING:
    from analysis.trajectories.run import Run

LIMITS = """\
- A circuit is the set of the strongest edges under the settings above, found by a gradient
  approximation (EAP-IG); another method, metric, size or set of pairs may give other heads.
- Counts have sampling errors over the pairs only: the intervals (95 %, bootstrap) say nothing of
  other training seeds, of other data, or of behaviours that the pairs do not ask for.
- "Called" heads are controlled for the false-discovery rate above over all heads and checkpoints
  of the run; a head that is not called may still have changed.
- Faithfulness is that of the circuit with the other edges patched, on the same pairs. Heads that
  come or go are associated with the training; that they cause what the model does is not shown.
"""


def card(run: Run, name: str, pictures: list[str]) -> str:
    """README.md of a data set ORG/NAME; pictures: their paths in it."""
    from huggingface_hub import DatasetCardData

    head = DatasetCardData(
        pretty_name=f"Attention heads of {run.label}",
        tags=["headlab", "interpretability", "circuits", "attention-heads"],
        viewer=False,
    ).to_yaml()
    parts = [f"---\n{head}\n---", f"# Attention heads of {run.label}", _about(run)]
    if run.rows:
        parts.append(f"## Checkpoints\n\n```text\n{format_table(run).strip()}\n```")
    parts += [f"![{path.rpartition('/')[2].removesuffix('.png')}]({path})" for path in pictures]
    parts += [_settings(run), f"## What is not claimed\n\n{LIMITS}"]
    parts.append(
        "## Use\n\n```sh\npip install headlab\n"
        f"headlab compare a=hub:{name} b=runs/mine\nheadlab report runs=hub:{name}\n```"
    )
    return "\n\n".join(parts) + "\n"


def _about(run: Run) -> str:
    steps = [str(point.step) for point in run.points]
    what = f"a run of kind `{run.file.kind}`"
    where = f" at steps {', '.join(steps)}" if steps else ""
    origin = run.points[0].record.origin.get("model", {}) if run.points else {}
    base = origin.get("path") or run.file.base
    began = f" It began with `{base}`." if base and not str(base).startswith("/") else ""
    return (
        f"Which edges between attention heads carry a behaviour, in {what}{where}, tracked by "
        f"headlab {__version__}.{began} `heads/step-*` has a record and the scores of all pairs "
        "for each checkpoint, `pairs.jsonl` the pairs of prompts, `report.html` the whole report."
    )


def _settings(run: Run) -> str:
    """The settings as a table, with how heads are called."""
    settings = dict(run.points[0].record.settings) if run.points else dict(run.file.tracking or {})
    settings |= {"fdr": run.file.fdr, "hysteresis": run.file.hysteresis}
    if run.points:
        record = run.points[0].record
        settings |= {"pairs": record.n_pairs, "different pairs": record.n_distinct}
        settings["hash of the pairs"] = record.pairs_hash
    rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
    return f"## Settings\n\n| | |\n|---|---|\n{rows}"
