"""Score every edge of a model on a file of pairs, and write scores and circuit.

    headlab attribute model.path=DIR pairs.path=FILE.jsonl out=DIR
    headlab attribute model.path=DIR pairs.path=FILE.jsonl plan=true

OUT/edges.safetensors   `mean` [source, destination] and `per_pair` [pair, source, destination]
OUT/names.json          names of the sources and destinations, and what was measured how
OUT/graph.json          scores and circuit in the format of the EAP-IG package

With plan=true nothing is written: a few of the pairs are attributed, and what memory and time all
of them will take is printed.

From Python, call `attribute` of the package `analysis`; this module is only its command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.cli import key
from analysis.commands import measuring


@dataclass
class Options(measuring.Options):
    out: str = key("directory for the results; not needed with plan=true")
    plan: bool = key("only say what memory and time it will take; writes nothing", False)


def as_keys(arguments: Sequence[str]) -> list[str]:
    """A plan is not written anywhere.

    >>> as_keys(["plan=true", "pairs.path=a"])
    ['plan=true', 'pairs.path=a', "out=''"]
    >>> as_keys(["plan=Yes"]), as_keys(["plan=true", "plan=no"])
    (['plan=Yes', "out=''"], ['plan=true', 'plan=no'])
    """
    *_, plan = ["", *(word[5:].lower() for word in arguments if word.startswith("plan="))]
    is_plan = plan in ("true", "yes", "on", "1", "y")  # as the configuration reads it
    has_out = any(word.startswith("out=") for word in arguments)
    return [*arguments, "out=''"] if is_plan and not has_out else list(arguments)


def act(options: Options) -> None:
    """Load, attribute, write; or say what that will take."""
    from analysis.commands.measuring import checked, experts_of, load, measure, planned, write

    model, pairs = load(options)
    if options.plan:
        from analysis.attribution.forecast import quietly
        from analysis.reporting.forecast_words import in_words

        with quietly():
            found = planned(options, model, pairs)
        print("\n".join(in_words(found, len(pairs))))
        return
    scores = measure(options, model, pairs)
    precision = checked(options, model, pairs, scores)
    experts = experts_of(options, model, pairs, scores)
    write(options, scores, model.config.get_text_config().hidden_size, precision, experts)
