"""What a run is doing, by the files that it leaves."""

from __future__ import annotations

from pathlib import Path

from analysis.records.locks import lock_state

STATES = {
    "running": "a process trains or tracks in it",
    "finished": "it has reached its last step",
    "stopped": "it ended before its last step, in order",
    "killed": "its process is gone and had no time to end in order",
    "open": "it does not say: nothing trains in it now",
}


def state_of(run: Path) -> str:
    """One of STATES. A run of whatever makes run.json and records without a lock is open."""
    locks = run / "locks" / "run"
    lock = lock_state(locks)
    if lock == "held":
        return "running"
    if (run / "finished.json").is_file():
        return "finished"
    if lock == "left":
        return "killed"
    return "stopped" if locks.is_dir() else "open"
