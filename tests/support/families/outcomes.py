"""What is known to become of each family; one that is not named here is proved in all ways.

A family that changes its outcome fails its test, in either direction.
"""

from __future__ import annotations

from tests.support.families.proof import Proof

# part of the reason that is given
REFUSED: dict[str, str] = {}

# A norm over all heads, or keys that a later layer reads too, tie heads together: a destination is
# the rows of a projection, and what a head has at the attention interface is made of others too.
BY_ROWS: set[str] = set()

NO_HEADS: set[str] = set()

# what is refused although the family is proved, with part of the reason
NOT_OFFERED: dict[str, dict[str, str]] = {"ungrouped": {}, "zeroed": {}, "baked": {}, "adapted": {}}


def expected(kind: str) -> str:
    """`proved`, `proved by rows`, `no heads` or `refused`."""
    if kind in REFUSED:
        return "refused"
    return "proved by rows" if kind in BY_ROWS else "no heads" if kind in NO_HEADS else "proved"


def surprise(proof: Proof) -> str | None:
    """How a family's outcome differs from what is known of it, or None."""
    known, outcome = expected(proof.kind), proof.outcome
    if known == "refused":
        reason = REFUSED[proof.kind]
        right = proof.refused is not None and reason in proof.refused
        return None if right else f"expected to be refused for {reason!r}, is {outcome}"
    if outcome != known:
        return f"expected {known}, is {outcome}"
    for what, kinds in NOT_OFFERED.items():
        found, wanted = proof.not_offered.get(what), kinds.get(proof.kind)
        if (found is None) != (wanted is None) or (wanted is not None and wanted not in str(found)):
            return f"{what}: expected to be refused for {wanted!r}, is refused for {found!r}"
    return None
