"""What TensorBoard's event files hold."""

from __future__ import annotations

from pathlib import Path


def steps_in(directory: Path) -> dict[str, list[int]]:
    """The steps of each scalar, and of each picture and text, in the event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory), {"images": 0, "tensors": 0, "scalars": 0})
    events.Reload()
    tags, found = events.Tags(), {}
    for kind, read in (("scalars", events.Scalars), ("images", events.Images)):
        found |= {tag: [event.step for event in read(tag)] for tag in tags[kind]}
    return found | {tag: [e.step for e in events.Tensors(tag)] for tag in tags["tensors"]}
