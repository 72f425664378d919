"""Whether the scores of edges add up, so that a sum of them is an amount.

The scores of EAP-IG share out the change of the metric between the prompts of a pair: all together
they are that change, up to the completeness gap. Importance (a head's share of the attribution),
effect and weighted overlap are sums of scores, and say how much. Where the scores miss more than
MOST of what they share out, these numbers are refused. What rests on the order of the scores is
not: the circuit, its heads, what is called, and which head is more important than another.
"""

from __future__ import annotations

MOST = 0.1  # of the metric's change


def adds_up(gap: float) -> bool:
    """Whether scores with a completeness gap add up; NaN, of a metric that is none, does not."""
    return gap <= MOST
