"""The library's face: names of `headlab` and `analysis`, loaded when first used."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module

import pytest

import analysis
import headlab
from analysis.prompts.pairs import Pairs
from tests.support.places import ROOT

WANTED = {
    *("HeadTracker", "TrackingSettings", "Pairs", "Pair", "attribute", "EdgeScores", "Circuit"),
    *("select_circuit", "evaluate_circuit", "intervened", "parse_intervention", "constants"),
    *("read_records", "Run", "read_runs", "trajectory", "load_model", "read_graph", "write_graph"),
}


def run_code(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_every_name_is_what_it_says():
    assert set(analysis.HOMES) >= WANTED
    for name, home in analysis.HOMES.items():
        value = getattr(headlab, name)
        assert value is getattr(import_module(home), name)
        assert value.__module__ == home


def test_type_checkers_see_the_same_names():
    tree = ast.parse((ROOT / "analysis" / "__init__.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    seen = {
        alias.asname: node.module
        for node in imports
        if (node.module or "").startswith("analysis.") and node.module != "analysis.version"
        for alias in node.names
    }
    assert seen == analysis.HOMES


def test_nothing_heavy_is_loaded_before_a_name_is_used():
    code = (
        "import sys, headlab\n"
        "assert {'Pairs', 'attribute', '__version__'} <= set(dir(headlab))\n"
        "assert not {'sys', 'Path', 'Any', 'analysis'} & set(dir(headlab))\n"
        "heavy = {'torch', 'transformers', 'plotly', 'hydra', 'numpy'}\n"
        "assert not heavy & set(sys.modules)\n"
    )
    done = run_code(code)
    assert done.returncode == 0, done.stderr
    names: dict[str, object] = {}
    exec("from headlab import *", names)
    assert names["Pairs"] is Pairs and {*analysis.HOMES} <= {*names}


def test_a_name_that_is_not_there_is_an_error():
    for module in (headlab, analysis):
        with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute"):
            module.atribute  # noqa: B018


def test_every_command_says_what_it_is_for_without_loading_anything_heavy():
    code = (
        "import contextlib, io, sys, headlab\n"
        "from analysis.commands import COMMANDS\n"
        "def said(*words):\n"
        "    sys.argv = ['headlab', *words]\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as out: headlab.main()\n"
        "    return out.getvalue()\n"
        "every = [*headlab.TRAINING, *COMMANDS]\n"
        "listed = said('--help')\n"
        "assert said() == listed\n"
        "for command in every:\n"
        "    assert f'\\n  {command} ' in listed, command\n"
        "    assert f'headlab {command}' in said(command, '--help'), command\n"
        "    assert said(command, '-h') == said(command, '--help'), command\n"
        "    assert said(command, '--version') == f'headlab {headlab.__version__}\\n', command\n"
        "assert 'headlab launch bench' in said('launch', 'bench', '--help')\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'plotly', 'wandb', 'hydra'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = run_code(code)
    assert done.returncode == 0, done.stderr


def test_a_command_that_is_not_there_is_one_line():
    for words, error in (
        (["headlab", "atribute"], "error: no command 'atribute'; did you mean attribute?\n"),
        (["analysis", "atribute"], "error: no command 'atribute'; did you mean attribute?\n"),
        (["launch", "benhc"], "error: no command 'benhc'; did you mean bench?\n"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout, done.stderr) == (2, "", error)
