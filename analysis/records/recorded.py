"""The model and the pairs of a record, for the commands that measure a checkpoint again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.models.loading import Model
    from analysis.prompts.pairs import Pairs
    from analysis.records.record import Record


def pairs_of(run: Path, record: Record) -> Pairs:
    """The pairs that a record of a run was measured on.

    Raises:
        ValueError: the run holds others now.
    """
    from analysis.prompts.pairs import Pairs

    pairs = Pairs.load(run / "pairs.jsonl")
    if pairs.hash != record.pairs_hash:
        raise ValueError(
            f"{run}/pairs.jsonl holds other pairs (hash {pairs.hash}) than the record of step "
            f"{record.step} was measured on ({record.pairs_hash}); restore that file"
        )
    return pairs


def model_of(run: Path, record: Record, device: str = "auto") -> Model:
    """The model that a record of a run was measured with.

    That of step 0 is without the adapter that is to be trained, which does nothing yet.

    Raises:
        ValueError: its checkpoint is gone, or has other weights.
    """
    from analysis.models.loading import load_model
    from analysis.models.provenance import weight_hashes
    from analysis.records.checkpoints import find_model

    named, measured = find_model(f"{run}@{record.step}"), record.origin["model"]
    model = load_model(named.path, named.dtype or measured["dtype"], device, named.base)
    found = weight_hashes(model)
    if record.step == 0 and found["adapter"] is None:
        del found["adapter"]
    if any(measured[part] != hash_now for part, hash_now in found.items()):
        raise ValueError(
            f"{named.path} has other weights than step {record.step} of {run} was measured with; "
            "track that checkpoint again (headlab track redo=true)"
        )
    return model
