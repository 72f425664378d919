"""Checkpoints that are there already, whoever trained them: their heads against the base's.

    python examples/after.py BASE DIRECTORY

BASE is the model that the training began with, DIRECTORY holds its checkpoint-N. The same in one
command: headlab track run=OUT base=BASE checkpoints='DIRECTORY/checkpoint-*' pairs=pairs.jsonl
"""

import sys
from pathlib import Path

from headlab import (
    HeadTracker,
    Prompting,
    RunFile,
    TrackingSettings,
    counterfactual_pairs,
    generate,
    load_model,
    load_tokenizer,
    read_run,
)

base, directory = sys.argv[1], Path(sys.argv[2])
out = Path(sys.argv[3] if len(sys.argv) > 3 else "runs/example-after")

# two sums with the same words and other digits, asked up to where the answer differs
tokenizer = load_tokenizer(base)
problems = generate("arithmetic", 800, split="pairs")
pairs = counterfactual_pairs(tokenizer, problems, Prompting(), 16, prefix="<answer>")

tracker = HeadTracker(out, pairs, TrackingSettings(resamples=200), tokenizer)
tracker.start()
RunFile(out.name, "track").write(out)
steps = {int(path.name.split("-")[1]): path for path in directory.glob("checkpoint-*")}
for step, path in sorted({0: Path(base), **steps}.items()):
    if not tracker.is_tracked(step):
        tracker.track(load_model(path, "float32"), step)
read_run(out).show()
