"""A script of a user's, called train.py, in one process and in two."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess

import pytest

from analysis.records.record_files import read_record, read_scores, recorded_steps
from tests.support.hung import write_pairs
from tests.support.places import ROOT
from tests.support.warm import warm_python

pytestmark = pytest.mark.distributed


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def run(tiny_dir, place, output, processes):
    """Run the script as a user does, from its directory."""
    shutil.copy(ROOT / "tests" / "support" / "own_script.py", place / "train.py")
    pairs, port, children = write_pairs(place / "pairs.jsonl"), free_port(), []
    for rank in range(processes):
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        if processes > 1:
            env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        words = [warm_python(), "train.py", str(tiny_dir), str(pairs), output]
        children.append(
            subprocess.Popen(words, cwd=place, env=env, stderr=subprocess.PIPE, text=True)
        )
    said = [child.communicate(timeout=300)[1] for child in children]
    assert [child.returncode for child in children] == [0] * processes, said[0][-3000:]
    return place / output


def test_a_script_called_train_tracks_alike_in_one_process_and_in_two(tiny_dir, tmp_path):
    """With two, the ranks choose the best model by the same values, which one has measured."""
    one, two = (run(tiny_dir, tmp_path, f"out-{n}", n) for n in (1, 2))
    for out in (one, two):
        assert recorded_steps(out / "heads") == [0, 1, 2]
        best = max(read_record(out, step).metric_corrupted for step in (1, 2))
        assert json.loads((out / "best.json").read_text()) == best
        assert (out / "report.html").exists()
    a, b = read_scores(one, 0), read_scores(two, 0)
    assert (a - b).abs().max() <= 1e-5 * a.abs().max()
    lines = (two / "metrics.jsonl").read_text().splitlines()
    assert len({json.loads(line)["time"] for line in lines}) == len(lines)
