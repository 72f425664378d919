"""Compare runs, checkpoints or circuits: heads, edges, layers, and each circuit in each model.

    headlab compare a=runs/my-sft b=runs/my-grpo out=comparison

Each of a to h is a run (its last record), a record in a run (RUN@40, RUN/checkpoint-40 or
RUN/heads/step-000040), or a graph file of the EAP-IG package or of MIB (.json, .pt), which has no
scores of single pairs and so no intervals. Every pair is compared in order, a -> b, a -> c, b -> c;
analysis/comparison/definitions.py has the definitions. OUT gets comparison.json and
comparison.html.

Cross-faithfulness: the circuit of one in the model of another, (m(C) - m(empty)) / (m(full) -
m(empty)) with the other edges patched (analysis/attribution/patching.py), with a 95 % bootstrap
over pairs. The control is a random circuit of the same size: edges are ranked at random (as
`headlab faithfulness` does), and the n edges of largest entry strength under that ranking
(analysis/heads/widest_paths.py) are taken, so that all of them lie on paths from the input to the
logits; ties may add a few. A model is RUN/checkpoint-STEP, or the path that the record names, and
must have the weights that were recorded; model_a=... names another.
"""

from __future__ import annotations

from pathlib import Path

from analysis.comparison.cross_faithfulness import cross_faithfulness
from analysis.comparison.subjects import Options, check_options, read_subjects


def act(options: Options) -> None:
    """Compare, print and write."""
    from itertools import combinations

    from transformers.utils import logging as transformers_logging

    from analysis.comparison.findings import Findings
    from analysis.comparison.json import to_json
    from analysis.comparison.page import write_comparison
    from analysis.comparison.pairs import compare_subjects, profile
    from analysis.comparison.text import format_findings
    from analysis.files import write_json
    from analysis.records.record import read_scores

    check_options(options)
    transformers_logging.disable_progress_bar()
    subjects = read_subjects(options)
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
    )
    out = Path(options.out)
    write_json(out / "comparison.json", to_json(findings))
    write_comparison(out / "comparison.html", findings)
    print(format_findings(findings))
    print(f"wrote {out / 'comparison.json'} and {out / 'comparison.html'}")
