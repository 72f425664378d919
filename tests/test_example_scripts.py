"""The scripts and the notebook of examples/ run as they stand, and leave a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.records.record_files import recorded_steps
from examples.notebook import notebook
from tests.support.places import ROOT
from tests.support.warm import finished

EXAMPLES = ROOT / "examples"
SCRIPTS = ("sft", "dpo", "grpo", "distillation")


def start(words: list[str], cwd: Path) -> str:
    """What a Python prints that runs in another directory."""
    return finished(words, cwd).stdout


def test_scripts_are_short_and_the_notebook_is_made_of_one():
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 60, path.name
    assert (EXAMPLES / "sft.ipynb").read_text() == notebook()


@pytest.mark.distributed
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_leaves_a_run(tiny_dir, tmp_path, name):
    shown = start([str(EXAMPLES / f"{name}.py"), str(tiny_dir), "out"], tmp_path)
    steps = recorded_steps(tmp_path / "out" / "heads")
    assert len(steps) >= 3
    assert "heads in" in shown
    assert (tmp_path / "out" / "report.html").exists()
    assert "made of rows" in json.loads((tmp_path / "out" / "pairs.json").read_text())["about"]
    if name == "sft":  # checkpoints that are there already
        after = [str(EXAMPLES / "after.py"), str(tiny_dir), "out", "after"]
        assert "heads in" in start(after, tmp_path)
        assert recorded_steps(tmp_path / "after" / "heads") == steps
    if name == "distillation":
        assert (tmp_path / "out" / "reference" / "run.json").exists()


@pytest.mark.slow
def test_the_cells_of_the_notebook_run(tiny_dir, tmp_path):
    cells = json.loads((EXAMPLES / "sft.ipynb").read_text())["cells"]
    code = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    model = f'model = subprocess.check_output(["echo", {str(tiny_dir)!r}], text=True).strip()'
    lines = [model if line.startswith("model = ") else line for line in code.splitlines()]
    assert model in lines
    assert "heads in" in start(["-c", "\n".join(lines)], tmp_path)
    assert (tmp_path / "runs" / "example-sft" / "report.html").exists()
