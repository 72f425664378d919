"""Whether a set of heads is needed, as text and as rows of a table."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from analysis.reporting.text import WIDTH, number, p_value, text_table

if TYPE_CHECKING:
    from analysis.records.needed import Effect, Needed

TITLES = ("model", "change", "random sets", "excess", "p", "right %", "changed", "random")
DIGITS = 3


def rows(found: Needed) -> list[list[str]]:
    """A line for the checkpoint and one for the base, by TITLES."""
    models = {f"step {found.step}": found.now, "base": found.base}
    return [[name, *_cells(effect)] for name, effect in models.items() if effect is not None]


def _cells(effect: Effect) -> list[str]:
    p = "-" if effect.p_value is None else p_value(effect.p_value)
    excess = "-" if effect.excess is None else number(effect.excess.estimate, DIGITS, sign=True)
    cells = [number(effect.change.estimate, DIGITS, sign=True)]
    cells += [_spread(effect.random, 1, DIGITS), excess, p]
    if effect.right is None:
        return [*cells, "-", "-", "-"]
    right = effect.right
    whole, out = (f"{100 * share:.1f}" for share in (right.whole, right.out))
    return [*cells, whole, out, _spread(right.random, 100, 1)]


def _spread(values: list[float], times: float, digits: int) -> str:
    """`0.12 (0.05 to 0.31)`: mean, smallest and largest."""
    if not values:
        return "-"
    scaled = [times * x for x in values]
    shown = (sum(scaled) / len(scaled), min(scaled), max(scaled))
    mean, low, high = (f"{x:.{digits}f}" for x in shown)
    return f"{mean} ({low} to {high})"


def sentence(found: Needed) -> str:
    """Which heads were taken out, and how well the random sets match them."""
    set_ = "given" if found.of == "given" else found.of.replace("_", " ")
    if not found.heads:
        return f"Needed: {found.note}."
    some = f"{len(found.heads)} of {found.called}" if len(found.heads) < found.called else "all"
    said = f"Needed? Heads {set_} ({some}) at their mean: {', '.join(found.heads)}."
    if found.match is not None:
        said += (
            f" {found.match.sets} random sets; {found.match.layers:.0%} of their heads stand in "
            f"the set's own layers, and two of them share {found.match.overlap:.0%}."
        )
    return said + (f" {found.note[0].upper()}{found.note[1:]}." if found.note else "")


def format_needed(found: Needed) -> str:
    """The sentence, a table, and what its columns mean, in plain text."""
    lines = textwrap.wrap(sentence(found), WIDTH)
    if found.now is None:
        return "\n".join(lines)
    lines += ["", *text_table([list(TITLES), *rows(found)])]
    return "\n".join([*lines, "", *textwrap.wrap(legend(found), WIDTH)])


def legend(found: Needed) -> str:
    """What the columns mean."""
    said = (
        f"change: of {found.metric}, mean over the pairs, larger is worse; random sets: mean "
        "(smallest to largest); excess: change less that mean; p: share of the sets, this one "
        "included, that change as much. [ ]: 95 % bootstrap over pairs, and random sets."
    )
    if found.now is not None and found.now.right is not None:
        said += " right: pairs whose target is the likeliest token, in the model as it is, changed."
    return said
