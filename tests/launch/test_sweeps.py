"""Sweeps: every point is launched, and none goes on with the run of another."""

from __future__ import annotations

import pytest

from tests.support.launches import SMALL


def test_every_point_of_a_sweep_is_launched_and_failures_count(launch):
    sweep = ["--multirun", *SMALL, "data=file", "data.source=jsonl:none.jsonl", "seed=0,1"]
    done = launch(*sweep)
    assert done.returncode != 0
    assert done.stderr.count("error: the pre-flight check failed") == 2
    assert "runs/sft-seed0: the pre-flight check failed" in done.stderr
    assert "Traceback" not in done.stderr


def test_points_of_a_sweep_with_one_directory_are_refused(launch):
    """The learning rate is not in the name, so the second point would continue the first's run."""
    from launch.__main__ import refuse_another_point, write

    file = launch.directory / "launch.yaml"
    write(file, {"name": "x", "resume": "never", "train": {"args": {"learning_rate": 1}}})
    refuse_another_point(file, {"resume": "auto", "train": {"args": {"learning_rate": 1}}})
    with pytest.raises(ValueError, match="holds a run with another train; put the swept keys"):
        refuse_another_point(file, {"resume": "auto", "train": {"args": {"learning_rate": 2}}})


def test_a_sweep_through_submitit_without_its_package_says_so(launch):
    done = launch("--multirun", *SMALL, "hydra/launcher=submitit_slurm", "seed=0,1")
    assert done.returncode == 2
    assert done.stderr == (
        "error: hydra/launcher=submitit_slurm needs a package: pip install 'headlab[slurm]'\n"
    )
