"""What the three acts of the demo found, each beside its interval and its chance level."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.reporting.text import WIDTH, score

if TYPE_CHECKING:
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


def findings(sft: Run, grpo: Run, planted: list[str]) -> Findings:
    """What both runs show. planted: the heads that GRPO's first model lacks."""
    return Findings(
        {
            "What emerged (SFT)": emerged(sft),
            "What came back (GRPO)": came_back(grpo, planted),
        }
    )


def emerged(run: Run) -> list[tuple[str, str]]:
    """Act one: the score, the emergent heads, and which of them are called since when."""
    last = run.points[-1]
    called = last.names(last.change.called["emergent"])
    return [
        ("pass@1", _scores(run)),
        ("emergent", _emergent(last)),
        ("called", f"{len(called)}: {', '.join(called) or '-'}{_since(run)}"),
    ]


def came_back(run: Run, planted: list[str]) -> list[tuple[str, str]]:
    """Act three: the score, the emergent heads, and how many of the planted are called."""
    last = run.points[-1]
    called = set(last.names(last.change.called["emergent"]))
    hits, n_heads = len(called & set(planted)), len(last.record.graph.heads)
    mean, high = by_chance(len(planted), len(called), n_heads)
    others = sorted(called - set(planted))
    return [
        ("pass@1", _scores(run)),
        ("emergent", _emergent(last)),
        (
            "called",
            f"{hits} of the {len(planted)} zeroed heads, {len(others)} others; by chance "
            f"{len(called)} of {n_heads} heads hold {mean:.1f} zeroed (97.5 % point {high})",
        ),
    ]


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
            wrapped = textwrap.wrap(said, WIDTH - left)
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
