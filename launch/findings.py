"""What the three acts of the demo found, each beside its interval and its chance level."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from analysis.reporting.text import WIDTH, number, p_value, score

if TYPE_CHECKING:
    from analysis.records.needed import Effect, Needed
    from analysis.trajectories.run import Run
    from analysis.trajectories.trajectory import Point

GUESSING = (
    "GRPO from the guessing base, without act one, learns nothing: a policy that never looks up "
    "gives no reward for looking up, so there is nothing to reinforce (docs/LOG.md)."
)


@dataclass(frozen=True)
class Findings:
    """The acts as titles with lines of a name and a text."""

    acts: dict[str, list[tuple[str, str]]]

    @property
    def sentences(self) -> list[str]:
        """For the page: one for each act."""
        said = [
            f"{title}: {'; '.join(f'{name} {text}' for name, text in lines)}."
            for title, lines in self.acts.items()
        ]
        return [*said, GUESSING]


def findings(
    sft: Run, is_needed: Needed, grpo: Run, planted: list[str], others: Needed | None = None
) -> Findings:
    """What the acts show.

    planted: the heads that GRPO's first model lacks. others: what taking out those does that are
    called under GRPO and are not planted; None where there are none.
    """
    emergent = called_in(sft)
    return Findings(
        {
            "What emerged (SFT)": emerged(sft),
            "What was needed (the called heads at their mean)": taken_out(is_needed),
            "What came back (GRPO)": came_back(grpo, planted, emergent, others),
        }
    )


def emerged(run: Run) -> list[tuple[str, str]]:
    """Act one: the score, the emergent heads, and which of them are called since when."""
    last = run.points[-1]
    called = called_in(run)
    return [
        ("pass@1", _scores(run)),
        ("emergent", _emergent(last)),
        ("called", f"{len(called)}: {', '.join(called) or '-'}{_since(run)}"),
    ]


def taken_out(found: Needed) -> list[tuple[str, str]]:
    """Act two: the answers and the metric without the heads, against random ones and the base."""
    if found.now is None:
        return [("heads", found.note)]
    lines = [("heads", _which(found))]
    if (right := found.now.right) is not None:
        whole, out = (f"{100 * share:.1f} %" for share in (right.whole, right.out))
        spread = f"; without random heads {_spread(right.random, 100)} %" if right.random else ""
        lines.append(("right", f"{whole} of the pairs, {out} without the heads{spread}"))
    lines.append((found.metric.replace("_", " "), _effect(found.now)))
    if found.base is not None:
        lines.append(("in the base", _effect(found.base)))
    return lines


def _which(found: Needed) -> str:
    """The heads that were taken out, and how many random sets they are compared with."""
    said = f"{', '.join(found.heads)} of {found.called} called"
    if found.match is None:
        return f"{said}; {found.note}"
    return (
        f"{said}; {found.match.sets} random sets, {100 * found.match.layers:.0f} % of their heads "
        f"in the same layers, {100 * found.match.overlap:.0f} % shared by two sets"
    )


def _effect(effect: Effect) -> str:
    """The change of the metric with its interval, beside the random sets'."""
    said = number(effect.change.estimate, 3, sign=True)
    if effect.excess is None or effect.p_value is None:
        return said
    return (
        f"{said}; random sets {_spread(effect.random, 1, 3)}; excess "
        f"{number(effect.excess.estimate, 3, sign=True)}, p {p_value(effect.p_value)}"
    )


def _spread(values: list[float], times: float, digits: int = 1) -> str:
    """`59.1 (19.4 to 78.2)`: mean, smallest and largest."""
    scaled = [times * x for x in values]
    mean, low, high = (f"{x:.{digits}f}" for x in (fmean(scaled), min(scaled), max(scaled)))
    return f"{mean} ({low} to {high})"


def called_in(run: Run) -> list[str]:
    """The heads that a run calls emergent at its end."""
    last = run.points[-1]
    return last.names(last.change.called["emergent"])


def came_back(
    run: Run, planted: list[str], emergent: list[str], others: Needed | None
) -> list[tuple[str, str]]:
    """Act three: the score, the emergent heads, and how many of the planted are called.

    emergent: heads called in act one. others: as in `findings`.
    """
    last, called = run.points[-1], called_in(run)
    rest = [head for head in called if head not in planted]
    hits, n_heads = len(called) - len(rest), len(last.record.graph.heads)
    mean, high = by_chance(len(planted), len(called), n_heads)
    before = len(set(rest) & set(emergent))
    lines = [
        ("pass@1", _scores(run)),
        ("emergent", _emergent(last)),
        (
            "called",
            f"{hits} of the {len(planted)} zeroed heads ({', '.join(planted)}); by chance "
            f"{len(called)} of {n_heads} heads hold {mean:.1f} zeroed (97.5 % point {high})",
        ),
        ("others", f"{len(rest)}" + (f", {before} of them called in act one" if rest else "")),
    ]
    if others is not None and others.now is not None:
        lines.append(("without these", f"{_which(others)}; {others.metric} {_effect(others.now)}"))
    return lines


def by_chance(planted: int, called: int, n_heads: int) -> tuple[float, int]:
    """Planted heads among as many heads drawn at random: mean and 97.5 % point.

    >>> by_chance(planted=4, called=4, n_heads=32)
    (0.5, 2)
    """
    from scipy.stats import hypergeom

    if not called:
        return 0.0, 0
    drawn = hypergeom(n_heads, planted, called)
    return float(drawn.mean()), int(drawn.ppf(0.975))


def acts_text(found: Findings) -> str:
    """The acts in plain text, in 80 columns."""
    names = [name for lines in found.acts.values() for name, _ in lines]
    left = 2 + max(map(len, names)) + 2
    text = []
    for title, lines in found.acts.items():
        text.append(title)
        for name, said in lines:
            wrapped = textwrap.wrap(said, WIDTH - left, break_on_hyphens=False)
            text += [f"  {name}".ljust(left) + wrapped[0]]
            text += [" " * left + more for more in wrapped[1:]]
    text += ["", *textwrap.wrap("[ ]: 95 % intervals. " + GUESSING, WIDTH)]
    return "\n".join(text)


def _scores(run: Run) -> str:
    """pass@1 at the base and at the end."""
    known = [row for row in run.rows if row.evaluation is not None]
    if len(known) < 2:
        return "not measured"
    first, last = known[0], known[-1]
    assert first.evaluation is not None and last.evaluation is not None, "they are known"
    return (
        f"{score(first.evaluation)} % at step {first.step}, {score(last.evaluation)} % at step "
        f"{last.step}, held-out questions"
    )


def _emergent(point: Point) -> str:
    """The raw count beside what chance gives."""
    from analysis.reporting.text import count

    mean, high = point.change.null["emergent"]
    return (
        f"{count(point.counts['emergent'])} heads are in the circuit and not in the first one's; "
        f"by chance {mean:.1f} (97.5 % point {high:.0f})"
    )


def _since(run: Run) -> str:
    """The first checkpoint that calls a head emergent."""
    steps = [p.step for p in run.points if bool(p.change.called["emergent"].any())]
    return f"; the first at step {steps[0]}" if steps else ""
