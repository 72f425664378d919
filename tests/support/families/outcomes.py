"""What is known to become of each family; all that is not named here is proved in all ways.

A type that changes its outcome fails its test, in either direction.
"""

from __future__ import annotations

# part of the reason that is given
REFUSED: dict[str, str] = {}

# a norm over all heads, or keys that a later layer reads too, tie heads together: a destination is
# the rows of a projection, and a head's vector at the attention interface is made of others as well
BY_ROWS: set[str] = set()

NO_HEADS: set[str] = set()
