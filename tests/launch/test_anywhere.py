"""Commands work in a directory that holds files with the names of our packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.models import random_pairs, tiny_model
from tests.support.places import ROOT
from tests.support.runs import small
from train.program import PROGRAM, program

HIDING = 'raise SystemExit("the file of the working directory was imported")\n'


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A working directory with a train.py, an analysis.py and a package launch of the user's."""
    directory = tmp_path / "work"
    (directory / "launch").mkdir(parents=True)
    (directory / "conf").mkdir()
    for name in ("train.py", "analysis.py", "launch/__init__.py", "headlab_user.py"):
        (directory / name).write_text(HIDING)
    return directory


def run(words: list[str], directory: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **more}
    return subprocess.run(words, cwd=directory, env=environment, capture_output=True, text=True)


WAYS = {
    "by its path": ([sys.executable, str(PROGRAM)], {}),
    "as our processes": (program(), {}),
    "installed": ([sys.executable, "-P", "-m", "headlab"], {"PYTHONPATH": str(ROOT)}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "words", [["sft", "--cfg", "job"], ["report", "--help"], ["launch", "bench", "--help"]]
)
def test_a_command_uses_its_own_packages(crowded, way, words):
    command, more = WAYS[way]
    done = run([*command, *words], crowded, **more)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("run_dir: runs/" if words[0] == "sft" else "headlab ") in done.stdout


def test_python_m_headlab_does_not_look_into_the_working_directory(tmp_path):
    """It finds headlab.py itself there, as in a clone, and its packages beside that."""
    (tmp_path / "headlab.py").symlink_to(ROOT / "headlab.py")
    for name in ("analysis", "train", "launch", "conf"):
        (tmp_path / name).symlink_to(ROOT / name)
    done = run([sys.executable, "-m", "headlab", "sft", "--cfg", "job"], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_file_that_hides_the_library_is_named(crowded):
    (crowded / "mine.py").write_text("import headlab\n")
    (crowded / "analysis.py").write_text("")
    done = run([sys.executable, "mine.py"], crowded, PYTHONPATH=str(ROOT))
    assert done.returncode == 1
    assert f"{crowded}/analysis.py hides headlab's package `analysis`" in done.stderr


def test_the_library_in_a_script_called_train(crowded):
    (crowded / "analysis.py").unlink()
    model = crowded / "model"
    tiny_model("qwen2", torch.float32).save_pretrained(model)
    random_pairs(2).save(crowded / "pairs.jsonl")
    (crowded / "train.py").write_text(
        "import sys\n"
        "import headlab\n"
        "assert 'torch' not in sys.modules\n"
        "from headlab import Pairs, attribute, select_circuit\n"
        "model = headlab.load_model('model', 'float32')\n"
        "scores = attribute(model, Pairs.load('pairs.jsonl'), ig_steps=2)\n"
        "print(select_circuit(scores, top_n=7).n_edges)\n"
    )
    done = run([sys.executable, "train.py"], crowded, PYTHONPATH=str(ROOT))
    assert (done.returncode, done.stdout) == (0, "7\n"), done.stderr


def launched(crowded: Path, model: Path, *more: str) -> subprocess.CompletedProcess[str]:
    words = ["train=sft", "tracking=none", "evaluation=none", "train.args.max_steps=1"]
    words += ["resources.gpus=0", *more]
    settings = [word for word in small("sft", model, crowded / "run") if "max_steps" not in word]
    return run(program("launch", *settings, *words), crowded)


@pytest.mark.distributed
def test_a_run_uses_its_own_packages(crowded, tiny_dir):
    done = launched(crowded, tiny_dir)
    assert done.returncode == 0, done.stderr
    assert (crowded / "run" / "checkpoint-1" / "model.safetensors").exists()


@pytest.mark.distributed
def test_the_processes_of_a_run_use_their_own_packages(crowded, tiny_dir):
    done = launched(crowded, tiny_dir, "resources.processes=2")
    assert done.returncode == 0, done.stderr
    assert (crowded / "run" / "checkpoint-1" / "model.safetensors").exists()


@pytest.mark.distributed
def test_what_a_recipe_starts_uses_its_own_packages(crowded):
    done = run(program("recipe", "name=tiny_random"), crowded)
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.strip()) / "config.json").exists()
    assert program("sft")[:3] == [sys.executable, "-u", "-P"]
