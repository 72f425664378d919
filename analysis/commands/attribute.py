"""Score every edge of a model on a file of pairs, and write scores and circuit.

    headlab attribute model.path=DIR pairs.path=FILE.jsonl out=DIR

OUT/edges.safetensors   `mean` [source, destination] and `per_pair` [pair, source, destination]
OUT/names.json          names of the sources and destinations, and what was measured how
OUT/graph.json          scores and circuit in the format of the EAP-IG package

From Python, call `attribute` of the package `analysis`; this module is its command line alone.
"""

from __future__ import annotations

from analysis.commands.measuring import Options


def act(options: Options) -> None:
    """Load, attribute, write."""
    from analysis.commands.measuring import checked, experts_of, load, measure, write

    model, pairs = load(options)
    scores = measure(options, model, pairs)
    precision = checked(options, model, pairs, scores)
    experts = experts_of(options, model, pairs, scores)
    write(options, scores, model.config.get_text_config().hidden_size, precision, experts)
