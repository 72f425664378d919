"""The trainings of sharded.py, tracked by the line that a user writes; started in the same way."""

from __future__ import annotations

import sys
from pathlib import Path

from headlab import HeadTracking
from tests.support import sharded
from tests.support.hung import TRACKING

if __name__ == "__main__":
    sharded.FullyShardedDataParallel.__init__ = sharded.wrap_on_cpu
    sharded.Look = lambda run, pairs: HeadTracking(pairs, on_error="raise", **TRACKING)
    for name in sys.argv[2:]:
        for way in (True, False):
            sharded.train(Path(sys.argv[1]), name, way)
