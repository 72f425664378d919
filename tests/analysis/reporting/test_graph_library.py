"""The script that draws graphs in a page comes whole from the package that carries it."""

import pytest

from analysis.reporting.dashboard import library


def test_the_script_can_stand_in_a_page_and_says_its_licence():
    script = library.graph_library()
    assert script.startswith("var vis = {};")
    assert "</script" not in script
    assert "@license" in script[:3000]


def test_a_package_without_the_script_is_a_line_of_advice(monkeypatch):
    monkeypatch.setattr(library, "files", lambda name: [])
    with pytest.raises(ValueError, match="pip install --force-reinstall gravis"):
        library.graph_library.__wrapped__()
