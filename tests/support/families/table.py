"""Make the table of known models: `make models-table`.

Every family is proved at every edge (minutes, on two workers). What `headlab models` prints is
written into the package, and the list of docs/models.md between its two marks.
"""

from __future__ import annotations

import math
import textwrap
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import msgspec

from analysis.reporting.anatomy_features import TABLE, KnownModel
from tests.support.families.kinds import TEXT, WRAPPERS
from tests.support.places import ROOT

PAGE = ROOT / "docs" / "models.md"
MARKS = "<!-- begin of the table -->\n", "<!-- end of the table -->\n"


@dataclass(frozen=True)
class Row:
    """A family for the package, and the largest error of an edge for the page."""

    known: KnownModel
    error: float


def row(kind: str) -> Row:
    """Prove a family.

    Raises:
        ValueError: something is wrong, or differs from what is known of it.
    """
    import torch

    from analysis.commands.models import experts_of
    from analysis.detection.detect import anatomy
    from analysis.reporting.anatomy_features import special
    from tests.support.families.build import build
    from tests.support.families.float64 import Float64
    from tests.support.families.outcomes import surprise
    from tests.support.families.proof import prove

    torch.set_num_threads(1)
    proof = prove(kind, every=True)
    if (strange := surprise(proof)) is not None:
        raise ValueError(f"{kind}: {strange}")
    wrapper = kind in WRAPPERS
    if proof.refused is not None:
        return Row(KnownModel(kind, wrapper, "refused", proof.refused), math.nan)
    with Float64():
        parts = anatomy(build(kind))
        found = tuple(special(parts, experts_of(parts)))
    known = KnownModel(kind, wrapper, proof.outcome, special=found)
    ways = ["input", "rows" if proof.outcome == "proved by rows" else "interface", "rows"]
    return Row(known, max(proof.errors[way] for way in ways if way in proof.errors))


def main(workers: int = 2) -> None:
    with ProcessPoolExecutor(workers) as pool:
        rows = list(pool.map(row, (*TEXT, *WRAPPERS)))
    text = msgspec.json.format(msgspec.json.encode([each.known for each in rows]), indent=1)
    TABLE.write_bytes(text + b"\n")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    table = "\n".join(_line(each) for each in rows)
    PAGE.write_text(f"{before}{MARKS[0]}\n{table}\n\n{MARKS[1]}{after}", encoding="utf-8")


def _line(each: Row) -> str:
    """A family as a point of a list."""
    known = each.known
    text = f"- `{known.type}`{' (wrapper)' if known.wrapper else ''}: {known.outcome}"
    if known.outcome == "refused":
        text += f". {known.reason}"
    else:
        decade = 10.0 ** math.ceil(math.log10(max(each.error, 1e-12)))
        text += f", {decade:.0e}"
        text += f"; {', '.join(known.special)}" if known.special else ""
    return textwrap.fill(text, 100, subsequent_indent="  ", break_on_hyphens=False)


if __name__ == "__main__":
    main()
