"""The wheel, built from the project's files and installed somewhere else, works without them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PathDistribution, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import headlab
from tests.support.places import ROOT

PARTS = ("analysis", "conf", "launch", "train", "headlab.py", "pyproject.toml", "README.md")
PRIVATE_USES = ("transformers", "trl", "deepspeed", "peft", "hydra-core")


def run(words: list[str], directory: Path, **more: str) -> str:
    environment = {**os.environ, **more}
    done = subprocess.run(words, cwd=directory, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A directory that holds what `pip install .` would put into site-packages."""
    clone, target = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("installed")
    for name in (*PARTS, "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, clone / name)
    template = clone / "analysis" / "reporting" / "templates" / "page.html.j2"
    template.parent.mkdir(exist_ok=True)
    template.write_text("a template\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    offline = ["--no-deps", "--no-index"]
    run([*pip, "wheel", *offline, "--no-build-isolation", "-w", "dist", "."], clone)
    (wheel,) = (clone / "dist").glob("*.whl")
    run([*pip, "install", *offline, "--target", str(target), str(wheel)], clone)
    return target


def command(installed: Path, directory: Path, *words: str) -> str:
    python = [sys.executable, "-P", "-m", "headlab"]
    return run([*python, *words], directory, PYTHONPATH=str(installed))


def test_the_wheel_holds_all_files_that_are_read(installed):
    missing = [
        path.relative_to(ROOT)
        for package in ("analysis", "conf", "launch", "train")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
        if not (installed / path.relative_to(ROOT)).exists()
    ]
    assert not missing
    assert (installed / "analysis" / "reporting" / "templates" / "page.html.j2").exists()
    assert not (installed / "tests").exists()


@pytest.mark.distributed
def test_its_commands_work_anywhere(installed, tmp_path):
    (tmp_path / "train.py").write_text("raise SystemExit('imported')\n")
    assert "supervised fine-tuning" in command(installed, tmp_path, "--help")
    assert command(installed, tmp_path, "--version") == f"headlab {headlab.__version__}\n"
    composed = command(installed, tmp_path, "sft", "--cfg", "job", "experiment=tiny")
    assert "max_steps: 60" in composed
    assert "the page of one run" in command(installed, tmp_path, "report", "--help")
    words = ["launch", "experiment=tiny", "resources.dry_run=true", "resources.preflight=false"]
    shown = command(installed, tmp_path, *words, "resources.gpus=0")
    assert f"-P {installed}/headlab.py train.run " in shown
    code = "import headlab, analysis; print(headlab.__file__, analysis.Pairs.__module__)"
    found = run([sys.executable, "-P", "-c", code], tmp_path, PYTHONPATH=str(installed))
    assert found == f"{installed}/headlab.py analysis.prompts.pairs\n"


def test_what_it_says_of_itself(installed):
    (info,) = installed.glob("headlab-*.dist-info")
    about = PathDistribution(info).metadata
    assert (about["Version"], about["License-Expression"]) == (headlab.__version__, "Apache-2.0")
    assert about.get_all("License-File") == ["LICENSE"]
    assert "headlab = headlab:main" in (info / "entry_points.txt").read_text()


@pytest.mark.parametrize("name", PRIVATE_USES)
def test_packages_whose_insides_are_used_have_a_bound_and_were_tested_within(name):
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (need,) = (need for need in map(Requirement, listed) if need.name == name)
    assert "<" in {specifier.operator for specifier in need.specifier}
    assert need.specifier.contains(version(name))
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    (exact,) = (line.partition("==")[2] for line in pinned if line.startswith(f"{name}=="))
    assert need.specifier.contains(exact)
