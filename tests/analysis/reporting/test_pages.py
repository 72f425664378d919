"""What all pages share: text is escaped, a gap is an error, and an installed copy has the files."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from markupsafe import escape

import analysis.reporting.pages as pages
from tests.support.places import ROOT

EVIL = "</pre></script><script>alert('x')</script>"
TEMPLATES = ROOT / "analysis" / "reporting" / "templates"


def comparison(**changes: object) -> dict[str, object]:
    table = pages.Table(("a", EVIL), [["b", EVIL]], "some-id")
    values: dict[str, object] = {
        "title": EVIL,
        "subjects": table,
        "warnings": [EVIL],
        "pairs": [],
        "layers": EVIL,
        "cross": table,
        "reasons": [EVIL],
        "sources": table,
        "details": EVIL,
        "matched": [table],
        "matched_notes": [EVIL],
    }
    return {**values, **changes}


def test_every_text_is_escaped(tmp_path: Path) -> None:
    page = pages.write_page(tmp_path / "a.html", "comparison.html.j2", **comparison()).read_text()
    assert EVIL not in page
    assert page.count(str(escape(EVIL))) == 2 + 4 * 2 + 5
    assert (
        page.count('<table class="data" id="some-id">') == page.count('data-table="some-id"') == 4
    )


def test_what_a_template_lacks_is_an_error_and_leaves_no_page(tmp_path: Path) -> None:
    values = comparison()
    del values["details"]
    with pytest.raises(UndefinedError, match="details"):
        pages.write_page(tmp_path / "a.html", "comparison.html.j2", **values)
    assert list(tmp_path.iterdir()) == []


def test_the_templates_are_installed_too() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["analysis"]
    found = {path for pattern in patterns for path in (ROOT / "analysis").glob(pattern)}
    assert {path for path in TEMPLATES.rglob("*") if path.is_file()} <= found
