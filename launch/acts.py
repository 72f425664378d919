"""The demo in three acts: heads emerge, they are needed, and they are brought back.

1  SFT teaches a base that guesses to look a value up, and heads enter the circuit.
2  The heads that are called are put at their mean, against random ones and in the base
   (`headlab needed`).
3  The called heads are zeroed in the weights of SFT's last checkpoint, RUN/planted. GRPO goes on
   from there, so it is known which heads are to emerge: those.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from launch.demo_runs import page_of, tell_places, train
from launch.findings import acts_text, findings

if TYPE_CHECKING:
    from analysis.records.needed import Needed


def planted_in(run: Path) -> Path:
    """Where the model of act three is: SFT's last checkpoint without the called heads."""
    return run / "planted"


def three_acts(overrides: list[str], runs: dict[str, Path]) -> None:
    """All acts, then one screen.

    Raises:
        SystemExit: with the status of a run that failed; with 1 where no head is called, so that
            none can be planted.
        ValueError: the planted model is of other heads than are called now.
    """
    sft, grpo = runs["sft"], runs["grpo"]
    print(f"\n[1/3] SFT: a model that guesses learns to look up -> {sft}", flush=True)
    train(overrides, "sft")
    print("\n[2/3] The called heads are taken out, then zeroed in the weights", flush=True)
    heads = plant(sft)
    if not heads:
        page_of([sft])
        tell_places([sft])
        print(f"no head is called emergent in {sft}, so act three has nothing to bring back")
        raise SystemExit(1)
    is_needed = whether_needed(sft)
    print(f"\n[3/3] GRPO: from the model without {', '.join(heads)} -> {grpo}", flush=True)
    train(overrides, "grpo")
    both = [sft, grpo]
    read = page_of(both)
    found = findings(read[0], is_needed, read[1], heads)
    page_of(both, found.sentences)
    print("\n" + acts_text(found))
    tell_places(both)


def whether_needed(run: Path) -> Needed:
    """What `headlab needed` says of a run's last checkpoint; asked now unless it was before."""
    from analysis.commands.needed import Options, act
    from analysis.records.needed import read_needed
    from analysis.trajectories.run import Run

    step = Run.read(run).points[-1].step
    if step not in read_needed(run):
        act(Options(str(run), batch_size=64))
    return read_needed(run)[step]


def plant(run: Path) -> list[str]:
    """Zero the heads that a run's last record calls emergent in its last checkpoint.

    Returns:
        The heads; none if none is called.

    Raises:
        ValueError: the model is there and lacks other heads.
    """
    from analysis.commands.intervene import Options, act
    from analysis.interventions.head_sets import NoHeads
    from analysis.trajectories.run import Run

    out, last = planted_in(run), Run.read(run).points[-1]
    heads = last.names(last.change.called["emergent"])
    if out.exists():
        there = planted_heads(out)
        if sorted(there) != sorted(heads):
            raise ValueError(
                f"{out} lacks {', '.join(there)}, and {', '.join(heads) or 'no head'} is called "
                f"now; remove it and the run that was made from it"
            )
        return there
    try:
        act(Options(f"{run}@last", f"zero:{run}@last:called_emergent", str(out)))
    except NoHeads:
        return []
    return planted_heads(out)


def planted_heads(model: Path) -> list[str]:
    """The heads that a baked model lacks, the most important first."""
    said = json.loads((model / "intervention.json").read_text(encoding="utf-8"))["intervention"]
    return str(said).removeprefix("zero:").split(",")
