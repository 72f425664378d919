"""All that one comparison found, and what a reader has to know before believing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from analysis.comparison.definitions import Cell, Comparison, Profile, Subject
from analysis.comparison.matching import Matched
from analysis.heads.sample import sample_note
from analysis.reporting.behaviour import lacking_note
from analysis.reporting.sums import sums_note

NO_INTERVALS = (
    "A graph file holds no scores of single pairs, so what is compared with one has no intervals, "
    "no null and no calls."
)

NO_SCORES = "the file says which edges are in and gives no scores, so nothing ranks its heads."
NO_GAP = (
    "a file does not say whether its scores add up (their completeness gap), so importance and "
    "effect are an order, and no amounts."
)
SHARED = (
    "the file has a k and a v edge for every query head. Those into one shared head are taken as "
    "one edge, which is in if any of them is; its score is their sum."
)


@dataclass(frozen=True)
class Findings:
    """All that one command found. profiles: by subject.  made_with: models and pairs of `cells`.

    matched: both runs where they have come as far, where that is asked for.
    """

    subjects: list[Subject]
    comparisons: list[Comparison]
    profiles: dict[str, Profile]
    cells: list[Cell]
    notes: list[str]
    made_with: dict[str, Any]
    q: float
    seed: int
    matched: Matched | None = None

    @property
    def warnings(self) -> list[str]:
        """What a reader has to know before believing the rest."""
        found = list(self.notes)
        if any(subject.record is None for subject in self.subjects):
            found.append(NO_INTERVALS)
        sizes = {(s.record.n_pairs, s.record.distinct) for s in self.subjects if s.record}
        found += [note for size in sorted(sizes) if (note := sample_note(*size))]
        found += [f"{s.name}: {SHARED}" for s in self.subjects if s.shared]
        found += [
            f"{s.name}: {NO_SCORES}"
            for s in self.subjects
            if s.file is not None and not s.file.has_scores
        ]
        found += [
            f"{s.name}: {NO_GAP}" for s in self.subjects if s.file is not None and s.file.has_scores
        ]
        found += [
            f"{s.name} has no circuit: {lacking_note(s.record)}"
            for s in self.subjects
            if s.record is not None and s.record.lacks_behaviour
        ]
        records = [s.record for s in self.subjects if s.record is not None]
        if note := sums_note(records):
            found.append(note)
        for c in self.comparisons:
            if c.bases is None or c.a.base is None or c.b.base is None:
                continue
            one, two = (base_weights(s) for s in (c.a, c.b))
            kinds = {(s.origin.get("model") or {}).get("dtype") for s in (c.a.base, c.b.base)}
            if one is None or two is None or len(kinds) > 1:
                found.append(
                    f"{c.a.name} and {c.b.name}: the records of step 0 name no weights, or weights "
                    "of different dtypes, so whether they start from one base is not known."
                )
            elif one != two:
                found.append(
                    f"{c.a.name} and {c.b.name} start from different bases (weights {one} and "
                    f"{two}): what they gained is not gained from the same model."
                )
        return found


def base_weights(subject: Subject) -> str | None:
    """Hash of the weights of a run's base, if its record has one."""
    base = subject.base
    return None if base is None else (base.origin.get("model") or {}).get("weights")
