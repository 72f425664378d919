"""The one way in which tables and numbers with their intervals are written."""

from __future__ import annotations

import math

from analysis.intervals import Estimate
from analysis.reporting.text import count, estimate_in, number, percent, score, text_table


def test_columns_are_aligned_and_the_rule_is_as_wide_as_the_table() -> None:
    rows = [["name", "", "n"], ["a", "left", "1"], ["longer", "b", "200"]]
    assert text_table(rows, "llr") == [
        "name            n",
        "-----------------",
        "a       left    1",
        "longer  b     200",
    ]
    assert text_table(rows, "r", heading=0, gap=" ")[1] == "     a left   1"
    assert [set(line) == {"-"} for line in text_table(rows, heading=2)] == [
        *(False, False, True, False),
    ]
    assert text_table([["a", "b"], ["long", ""]])[2] == "long"  # no blanks at the end


def test_each_kind_of_number_has_one_notation() -> None:
    assert count(Estimate(14, 12, 16)) == "14 [12-16]"
    assert number(Estimate(0.714, 0.62, 0.8)) == "0.71 [0.62, 0.80]"
    assert number(Estimate(0.714, 0.62, 0.8), digits=3) == "0.714 [0.620, 0.800]"
    assert percent(Estimate(0.412, 0.38, 0.451)) == "41.2 [38.0, 45.1]"
    assert percent(Estimate(0.042, -0.03, 0.12), ends=0, sign=True) == "+4.2 [-3, 12]"
    assert percent(estimate_in({"value": 0.5, "low": 0.25, "high": 1})) == "50.0 [25.0, 100.0]"
    assert score({"pass_at_1": 0.412, "low": 0.38, "high": 0.451}) == "41.2 [38, 45]"


def test_what_is_unknown_is_not_made_up() -> None:
    nan = math.nan
    assert (count(Estimate(3, nan, nan)), number(Estimate(0.5, nan, nan))) == ("3", "0.50")
    assert number(Estimate(nan, nan, nan)) == "undefined"


def test_nothing_but_zeros_has_no_minus() -> None:
    assert number(Estimate(-0.001, -0.004, -0.0)) == "0.00 [0.00, 0.00]"
    assert percent(Estimate(-0.0001, -0.01, 0), ends=0, sign=True) == "+0.0 [-1, 0]"
