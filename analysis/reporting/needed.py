"""Whether a set of heads is needed, as text and as rows of a table."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from analysis.intervals import bare
from analysis.reporting.text import WIDTH, number, p_value, text_table

if TYPE_CHECKING:
    from analysis.records.needed import Effect, Needed

TITLES = ("model", "change", "random sets", "excess", "p")
RIGHT = ("right %", "as it is", "changed", "random sets")
DIGITS = 3


def rows(found: Needed) -> list[list[str]]:
    """What taking the heads out did to the metric, in the checkpoint and in the base, by TITLES."""
    return [[name, *_cells(effect)] for name, effect in _measured(found).items()]


def right_rows(found: Needed) -> list[list[str]]:
    """What it did to the share of pairs whose target is the likeliest token, by RIGHT."""
    lines = []
    for name, effect in _measured(found).items():
        if (right := effect.right) is not None:
            ends = (f"{100 * share:.1f}" for share in (right.whole, right.out))
            lines.append([name, *ends, _spread([100 * x for x in right.random], 1)])
    return lines


def _measured(found: Needed) -> dict[str, Effect]:
    models = {f"step {found.step}": found.now, "base": found.base}
    return {name: effect for name, effect in models.items() if effect is not None}


def _cells(effect: Effect) -> list[str]:
    p = "-" if effect.p_value is None else p_value(effect.p_value)
    excess = "-" if effect.excess is None else number(effect.excess.estimate, DIGITS)
    change = number(effect.change.estimate, DIGITS)
    return [change, _spread(effect.random, DIGITS), excess, p]


def _spread(values: list[float], digits: int) -> str:
    """`0.12 (0.05 to 0.31)`: mean, smallest and largest."""
    if not values:
        return "-"
    shown = (sum(values) / len(values), min(values), max(values))
    mean, low, high = (number(bare(x), digits) for x in shown)
    return f"{mean} ({low} to {high})"


def sentence(found: Needed) -> str:
    """Which heads were taken out, and how well the random sets match them."""
    if not found.heads:
        return f"Needed at step {found.step}? Nothing to ask: {found.note}."
    share = f"{len(found.heads)} of {found.called}"
    said = (
        f"Needed at step {found.step}? {share} heads ({found.of.replace('_', ' ')}) at their "
        f"mean: {', '.join(found.heads)}."
    )
    if found.match is not None:
        said += (
            f" {found.match.sets} random sets; {found.match.layers:.0%} of their heads stand in "
            f"the set's own layers, and two of them share {found.match.overlap:.0%}."
        )
    return said + (f" {found.note[0].upper()}{found.note[1:]}." if found.note else "")


def format_needed(found: Needed) -> list[str]:
    """The sentence, tables, and what their words mean, as lines of plain text."""
    lines = textwrap.wrap(sentence(found), WIDTH)
    if found.now is None:
        return lines
    # a column for each model: as rows they would be wider than a terminal
    lines += text_table([list(row) for row in zip(TITLES, *rows(found), strict=True)])
    if right := right_rows(found):
        lines += ["", *text_table([list(row) for row in zip(RIGHT, *right, strict=True)])]
    if words := backup_words(found):
        lines += ["", *textwrap.wrap(words, WIDTH)]
    return [*lines, *textwrap.wrap(legend(found), WIDTH)]


def backup_words(found: Needed) -> str:
    """Which heads the model leans on more without the set; empty where it was not measured."""
    if found.backups is None:
        return ""
    shown = [f"{one.head} {number(one.rise.estimate, DIGITS)}" for one in found.backups]
    return (
        f"Backups, whose importance rises without them (in units of {found.metric}): "
        f"{', '.join(shown) or 'none beyond the false-discovery rate'}."
    )


def legend(found: Needed) -> str:
    """What the words of the tables mean."""
    said = (
        f"change: of {found.metric}, mean over the pairs, larger is worse; random sets: mean "
        "(smallest to largest); excess: change less that mean; p: share of the sets, this one "
        "included, that change it as much. [ ]: 95 % bootstrap over pairs, and over random sets."
    )
    if found.now is not None and found.now.right is not None:
        said += " right: share of the pairs whose target is the likeliest token."
    return said
