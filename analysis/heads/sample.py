"""What a sample of pairs can tell: how many there are, counting those that share a prompt once."""

from __future__ import annotations

ENOUGH = 32  # distinct pairs, from which on calls hold their rate
RATE_AT_16 = 7.8  # % of calls that are false at a rate of 5 %, measured (docs/LOG.md)


def sample_note(n_pairs: int, distinct: int) -> str | None:
    """What a reader has to know of the size of the sample, in a sentence; None if nothing."""
    from analysis.intervals import FEWEST

    of = f"The {n_pairs} pairs share prompts and count as {distinct}"
    if distinct == n_pairs:
        of = "There is one pair only" if n_pairs == 1 else f"There are {n_pairs} pairs only"
    if distinct < FEWEST:
        return (
            f"{of}, so nothing is known of the noise of pairs: there are no intervals, no null and "
            "no calls. Give pairs of distinct prompts."
        )
    if distinct < ENOUGH:
        return (
            f"{of}, and intervals are too narrow below {ENOUGH}: at 16 pairs up to {RATE_AT_16} % "
            "of the calls were false where 5 % are promised. Give more pairs of distinct prompts."
        )
    return None if distinct == n_pairs else f"{of}: pairs that share a prompt are one draw."
