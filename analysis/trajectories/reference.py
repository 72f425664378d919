"""A second model that a run is measured against, such as the teacher of a distillation.

It is measured on the run's pairs with the run's settings, once, and its record lies in
RUN/reference, a run of its own (`headlab compare a=RUN@last b=RUN/reference@0` has the rest). How
like its heads those of each checkpoint are is the Jaccard index of the two sets and the weighted
overlap of analysis/heads/changes.py, with their intervals. The controls: the value of the base, and
`ceiling`, the Jaccard index that two resamples of the pairs have at one and the same checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.heads.changes import compare
from analysis.intervals import Estimate
from analysis.models.unlike import unlike_heads
from analysis.records.record import COMPARABLE, Record
from analysis.records.record_files import read_record
from analysis.records.run_file import RunFile

DIRECTORY = "reference"


@dataclass(frozen=True)
class Reference:
    """What is known of a run's reference.

    jaccard, overlap: with the heads of each record, in their order.  ceiling: see the top.
    unlike: why the two can't be compared head by head; the lists are empty then.
    """

    name: str
    jaccard: list[Estimate]
    overlap: list[Estimate]
    ceiling: list[float]
    unlike: str | None = None


def read_reference(run: Path, records: Sequence[Record]) -> Reference | None:
    """That of a run, against its records; None if it has none.

    Raises:
        ValueError: it is damaged.
    """
    directory = run / DIRECTORY
    if not directory.is_dir() or (found := read_record(directory, 0)) is None:
        return None
    name = RunFile.read(directory).name
    if records and (reason := _unlike(found, records[0])) is not None:
        return Reference(name, [], [], [], reason)
    changes = [compare(found.heads, record.heads) for record in records]
    return Reference(
        name,
        [change.jaccard for change in changes],
        [change.overlap for change in changes],
        [1 - change.null_turnover for change in changes],
    )


def _unlike(reference: Record, record: Record) -> str | None:
    """Why a reference's heads can't be compared with a record's; None if they can."""
    if (unlike := unlike_heads(reference.graph, record.graph)) is not None:
        return f"it has {unlike[0]}, and the trained model {unlike[1]}: no head is another one's"
    differ = [what for what in COMPARABLE if getattr(reference, what) != getattr(record, what)]
    words = {
        "pairs_hash": "it was measured on other pairs",
        "groups": "its pairs were resampled one by one, those of the run by shared prompts",
        "settings": "it was measured with other settings",
        "graph": "its key and value heads are shared otherwise",
    }
    return words[differ[0]] if differ else None
