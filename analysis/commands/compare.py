"""Compare runs, checkpoints or circuits: heads, edges, layers, and each circuit in each model.

    headlab compare a=runs/my-sft b=runs/my-grpo out=comparison
    headlab compare a=runs/my-sft b=runs/my-grpo match=kl
    headlab compare seeds='runs/my-sft-seed*' against='runs/my-grpo-seed*'

Each of a to h is a run (its last record), a record in a run (RUN@40, RUN/checkpoint-40 or
RUN/heads/step-000040), or a graph file of the EAP-IG package or of MIB (.json, .pt), which has no
scores of single pairs and so no intervals. Every pair is compared in order, a -> b, a -> c, b -> c;
analysis/comparison/definitions.py has the definitions. OUT gets comparison.json and
comparison.html.

With `match` two runs are compared where they have come as far (analysis/comparison/matching.py): at
equal KL from the base, held-out score or step. Their counts are set side by side over all that both
have, and the checkpoints that lie nearest head by head. Ranges that do not overlap are refused.

`seeds` counts heads over runs of one training, with intervals over the seeds, and `against` over
those of another (analysis/comparison/seeds.py); with `match` at one value that all have.

Two runs that differ in tracking.metric only are compared by what heads both metrics find
(analysis/comparison/agreement.py; `headlab agreement` makes the second one).

Cross-faithfulness: the circuit of one in the model of another, (m(C) - m(empty)) / (m(full) -
m(empty)) with the other edges patched (analysis/attribution/patching.py), with a 95 % bootstrap
over pairs. The control is a random circuit of the same size: edges are ranked at random (as
`headlab faithfulness` does), and the n edges of largest entry strength under that ranking
(analysis/heads/widest_paths.py) are taken, so that all of them lie on paths from the input to the
logits; ties may add a few. A model is RUN/checkpoint-STEP, or the path that the record names, and
must have the weights that were recorded; model_a=... names another.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.comparison.cross_faithfulness import cross_faithfulness
from analysis.comparison.subjects import (
    Options,
    check_options,
    checked,
    locate,
    read_given,
    read_subjects,
    run_named,
    runs_named,
)

if TYPE_CHECKING:
    from analysis.comparison.definitions import Subject
    from analysis.comparison.matching import Matched


def act(options: Options) -> None:
    """Compare, print and write."""
    from transformers.utils import logging as transformers_logging

    check_options(options)
    transformers_logging.disable_progress_bar()
    if options.seeds is not None:
        over_seeds(options)
    elif options.match is not None:
        matched, options = match(options)
        circuits(options, read_subjects(options), matched)
    else:
        subjects = read_given(options)
        if differ_in_metric_only(subjects):
            under_two_metrics(options, subjects)
        else:
            circuits(options, checked(subjects))


def match(options: Options) -> tuple[Matched, Options]:
    """Two runs where they have come as far, and the options that name the nearest checkpoints.

    Raises:
        ValueError: they were measured otherwise, or have no value in common.
    """
    from analysis.comparison.courses import Course
    from analysis.comparison.matching import match_runs
    from analysis.trajectories.run import Run

    assert options.a is not None and options.b is not None and options.match is not None
    paths = [run_named(name, given) for name, given in (("a", options.a), ("b", options.b))]
    read_subjects(options)  # that they measure the same thing
    a, b = (Course.of(Run.read(path), options.match) for path in paths)
    found = match_runs(a, b)
    at = [f"{path}@{place.nearest}" for path, place in zip(paths, found.best.places, strict=True)]
    return found, replace(options, a=at[0], b=at[1])


def over_seeds(options: Options) -> None:
    """Print and write the counts over seeds."""
    from analysis.comparison.seeds import compare_seeds
    from analysis.comparison.seeds_text import format_seeds, seeds_json
    from analysis.files import write_json
    from analysis.trajectories.run import read_runs

    given = {"seeds": options.seeds, "against": options.against}
    places = [runs_named(name, text) for name, text in given.items() if text is not None]
    runs = read_runs([place for group in places for place in group])
    first = len(places[0])
    groups = [runs[:first], *([runs[first:]] if len(places) > 1 else [])]
    found = compare_seeds(groups, options.match, options.at)
    out = Path(options.out)
    write_json(out / "seeds.json", seeds_json(found))
    print(format_seeds(found))
    print(f"wrote {out / 'seeds.json'}")


def differ_in_metric_only(subjects: list[Subject]) -> bool:
    """Whether two circuits of runs were found alike but for the metric."""
    from analysis.comparison.agreement import differ_in_metric

    records = [subject.record for subject in subjects if subject.record is not None]
    return len(subjects) == len(records) == 2 and differ_in_metric(records[0], records[1])


def under_two_metrics(options: Options, subjects: list[Subject]) -> None:
    """Print and write what heads two metrics find."""
    from analysis.comparison.agreement import agree, agreement_json, format_agreement
    from analysis.files import write_json
    from analysis.trajectories.run import read_runs

    steps = [locate(str(getattr(options, subject.name)))[1] for subject in subjects]
    named = {step for step in steps if step is not None}
    if len(named) > 1:
        raise ValueError(
            f"a is at step {steps[0]} and b at step {steps[1]}; two metrics are compared at "
            "the same steps, so name one step, or none"
        )
    a, b = read_runs([subject.source for subject in subjects])
    found = agree(a, b, sorted(named) or None)
    out = Path(options.out)
    write_json(out / "agreement.json", agreement_json(found))
    print(format_agreement(found))
    print(f"wrote {out / 'agreement.json'}")


def circuits(options: Options, subjects: list[Subject], matched: Matched | None = None) -> None:
    """Print and write everything about some circuits."""
    from itertools import combinations

    from analysis.comparison.findings import Findings
    from analysis.comparison.json import to_json
    from analysis.comparison.page import write_comparison
    from analysis.comparison.pairs import compare_subjects, profile
    from analysis.comparison.text import format_findings
    from analysis.files import write_json
    from analysis.records.record_files import read_scores

    # each pair in order; edges are resampled where both have scores of single pairs
    comparisons = []
    for a, b in combinations(subjects, 2):
        per_pair = None
        if a.record is not None and b.record is not None:
            per_pair = read_scores(a.source, a.record.step), read_scores(b.source, b.record.step)
        comparisons.append(compare_subjects(a, b, options.q, per_pair, show_progress=True))
    # each circuit in each model, then everything as text, JSON and a page
    cells, notes, made_with = cross_faithfulness(options, subjects)
    findings = Findings(
        subjects,
        comparisons,
        {s.name: profile(s) for s in subjects},
        cells,
        notes,
        made_with,
        options.q,
        options.seed,
        matched,
    )
    out = Path(options.out)
    write_json(out / "comparison.json", to_json(findings))
    write_comparison(out / "comparison.html", findings)
    print(format_findings(findings))
    print(f"wrote {out / 'comparison.json'} and {out / 'comparison.html'}")
