"""The table of known models, in the package and on its page, is what the proofs are held to."""

from __future__ import annotations

from analysis.reporting.anatomy_features import known_models, known_table
from analysis.reporting.text import WIDTH
from tests.support.families.kinds import TEXT, WRAPPERS
from tests.support.families.outcomes import REFUSED, expected
from tests.support.families.table import PAGE


def test_the_package_knows_every_family_and_its_outcome():
    assert [model.type for model in known_models()] == [*TEXT, *WRAPPERS]
    for model in known_models():
        assert model.outcome == expected(model.type)
        assert model.wrapper == (model.type in WRAPPERS)
        assert REFUSED.get(model.type, "") in (model.reason or "")


def test_the_page_says_the_same():
    page = PAGE.read_text(encoding="utf-8")
    for model in known_models():
        name = f"`{model.type}`{' (wrapper)' if model.wrapper else ''}"
        assert f"- {name}: {model.outcome}" in page


def test_the_table_is_as_wide_as_a_terminal_and_names_each_type():
    lines = known_table()
    assert max(map(len, lines)) <= WIDTH
    named = {line.split()[0].rstrip("*") for line in lines if line.split()}
    assert {model.type for model in known_models()} <= named
