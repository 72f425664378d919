"""The demo in three acts: heads emerge, they are needed, and they are brought back.

1  SFT teaches a base that guesses to look a value up, and heads enter the circuit.
2  The heads that are called are put at their mean, against random ones and in the base
   (`headlab needed`).
3  The called heads are zeroed in the weights of SFT's last checkpoint, RUN/planted. GRPO goes on
   from there, so it is known which heads are to emerge: those.

A model that only guesses without them has little that GRPO could reinforce, and none of them gets
a gradient through another that is zeroed. GRPO then builds the lookup elsewhere, and heads are
called that were not zeroed (docs/LOG.md). So where the model without all called heads guesses,
those of the first layers are left to it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from launch.demo_runs import page_of, tell_places, train
from launch.findings import acts_text, called_in, findings

if TYPE_CHECKING:
    from analysis.models.graph import Head
    from analysis.records.needed import Needed
    from analysis.records.record import Record

GUESSED = 0.4  # right of answers: one of three values is right by chance


def planted_in(run: Path) -> Path:
    """Where the model of act three is: SFT's last checkpoint without some of the called heads."""
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
    print("\n[2/3] The called heads are taken out, then some zeroed in the weights", flush=True)
    heads = plant(sft)
    if not heads:
        page_of([sft])
        tell_places([sft])
        print(f"no head of {sft} is called emergent and can be zeroed without leaving a guesser")
        raise SystemExit(1)
    is_needed = whether_needed(sft)
    print(f"\n[3/3] GRPO: from the model without {', '.join(heads)} -> {grpo}", flush=True)
    train(overrides, "grpo")
    both = [sft, grpo]
    read = page_of(both)
    others = [head for head in called_in(read[1]) if head not in heads]
    found = findings(read[0], is_needed, read[1], heads, taken_out_of(grpo, others))
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


def taken_out_of(run: Path, heads: list[str]) -> Needed | None:
    """What taking heads out of a run's last checkpoint does; None for no head."""
    from analysis.commands.needed import Options, needed

    if not heads:
        return None
    asked = Options(str(run), heads=",".join(heads), base=False, backups=False, batch_size=64)
    return needed(asked)


def plant(run: Path) -> list[str]:
    """Zero, in a run's last checkpoint, its called heads, or as many as leave more than guesses.

    Returns:
        The heads; none if none is called, or any of them leaves a model that guesses.

    Raises:
        ValueError: the model is there and lacks other heads.
    """
    from analysis.commands.intervene import Options, act
    from analysis.interventions.head_sets import heads_of_set
    from analysis.models.graph import head_name
    from analysis.trajectories.run import Run

    out, points = planted_in(run), Run.read(run).points
    base, last = points[0].record, points[-1]
    heads = heads_of_set("called_emergent", last.change, base, last.record)
    if out.exists():
        there = planted_heads(out)
        if not there or not set(there) <= set(map(head_name, heads)):
            called = ", ".join(map(head_name, heads)) or "no head"
            raise ValueError(
                f"{out} lacks {', '.join(there)}, and {called} is called now; remove it and the "
                "run that was made from it"
            )
        return there
    heads = enough_left(heads, partial(right_without, run, last.record))
    if not heads:
        return []
    act(Options(f"{run}@last", f"zero:{','.join(map(head_name, heads))}", str(out)))
    return planted_heads(out)


def enough_left(
    heads: Sequence[Head], right_without: Callable[[Sequence[Head]], float]
) -> list[Head]:
    """The heads without those of the first layers, as few of these as leave a model that answers.

    >>> enough_left([(1, 0), (0, 2), (2, 1)], lambda some: 0.3 if (0, 2) in some else 0.8)
    [(1, 0), (2, 1)]
    """
    for first in sorted({layer for layer, _ in heads}):
        some = [head for head in heads if head[0] >= first]
        if right_without(some) > GUESSED:
            return some
    return []


def right_without(run: Path, record: Record, heads: Sequence[Head]) -> float:
    """The share of a run's pairs, the base's further ones too, that is right with heads zeroed."""
    import torch

    from analysis.detection.detect import anatomy
    from analysis.interventions.operations import Intervention, intervened
    from analysis.models.forward import run as forward
    from analysis.prompts.pairs import Pairs
    from analysis.records.recorded import model_of
    from analysis.tracking.further import FILE

    model, right = model_of(run, record), []
    parts = anatomy(model)
    with torch.no_grad(), intervened(model, Intervention("zero", tuple(heads)), parts=parts):
        for file in filter(Path.exists, (run / "pairs.jsonl", run / FILE)):
            for batch in Pairs.load(file).batches(64):
                batch = batch.to(parts.device)
                assert batch.labels is not None, "the pairs are of questions with answers"
                likeliest = forward(parts, batch.clean, batch).argmax(-1)
                right += (likeliest == batch.labels).tolist()
    return fmean(right)


def planted_heads(model: Path) -> list[str]:
    """The heads that a baked model lacks, the most important first."""
    said = json.loads((model / "intervention.json").read_text(encoding="utf-8"))["intervention"]
    return str(said).removeprefix("zero:").split(",")
