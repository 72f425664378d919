"""The library's face: names of `headlab` and `analysis`, loaded when first used."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module

import pytest

import analysis
import headlab
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
        if (node.module or "").startswith("analysis.")
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
        "from headlab import *\n"
        "assert Pairs.__module__ == 'analysis.prompts.pairs' and 'torch' in sys.modules\n"
    )
    done = run_code(code)
    assert done.returncode == 0, done.stderr


def test_a_name_that_is_not_there_is_an_error():
    for module in (headlab, analysis):
        with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute"):
            module.atribute  # noqa: B018
