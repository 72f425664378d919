"""The report page in a browser: the slider, the search, foreign text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from analysis.reporting.report import write_report
from analysis.trajectories.run import read_runs
from tests.support.browser import BROWSERS, FLAGS, find_browser
from tests.support.planted_runs import (
    BASE,
    EVIL,
    FINAL,
    configure,
    make_run,
    plant,
)


@contextmanager
def opened(page_file: Path) -> Iterator[Any]:
    """A page in a browser without a network; fails on errors and on requests for anything else."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browser_path = find_browser()
    if browser_path is None:
        pytest.skip(f"no browser to open the report in: none of {', '.join(BROWSERS)}")
    faults: list[str] = []
    address = page_file.resolve().as_uri()
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=list(FLAGS))
        context = browser.new_context(viewport={"width": 1200, "height": 900})
        context.set_offline(True)
        page = context.new_page()
        page.on("console", lambda said: said.type == "error" and faults.append(said.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request",
            lambda asked: (
                asked.url == address
                or asked.url.startswith(("data:", "blob:"))
                or faults.append(asked.url)
            ),
        )
        page.goto(address)
        page.wait_for_selector("#run0-trajectory .main-svg")
        yield page
        browser.close()
    assert faults == []


VISIBLE = "id => document.getElementById(id)._fullData.map(trace => trace.visible === true)"


def test_browser_slider_changes_the_map(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", FINAL)
    with opened(write_report(read_runs([run]), tmp_path / "page.html")) as page:
        chart = page.locator("#run0-map")
        chart.scroll_into_view_if_needed()
        cells = chart.locator(".heatmaplayer image")

        def state() -> tuple[list[bool], str, int]:
            seen = page.evaluate(VISIBLE, "run0-map")
            return seen, cells.get_attribute("href"), chart.locator(".scatterlayer .point").count()

        final = state()
        assert chart.locator(".slider-label").first.text_content() == "step 20"
        rail = chart.locator(".slider-rail-touch-rect").bounding_box()
        page.mouse.click(rail["x"] + 3, rail["y"] + rail["height"] / 2)
        page.wait_for_function(
            "document.querySelector('#run0-map .slider-label').textContent === 'step 0'"
        )
        page.wait_for_timeout(300)
        base = state()
        assert base[0] != final[0]
        assert base[0].count(True) == final[0].count(True)
        assert base[1] != final[1]  # other colours
        assert (base[2], final[2]) == (2, 4)  # marks: 2 retained; 2 emergent, 1 retained, 1 pruned


def test_browser_search_and_sorting_of_heads(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", FINAL)
    with opened(write_report(read_runs([run]), tmp_path / "page.html")) as page:
        box = page.locator("input[data-table=run0-heads]")
        rows = page.locator("#run0-heads tbody tr")

        def heads() -> list[str]:
            cells = page.locator("#run0-heads tbody tr:visible td:first-child")
            return [str(text) for text in cells.all_text_contents()]

        assert rows.count() == 4
        box.press_sequentially("emerg")
        assert heads() == ["L0H2", "L1H3"]
        box.fill("l1h1 pruned")
        assert heads() == ["L1H1"]
        box.fill("")
        page.locator("#run0-heads th").first.click()
        assert heads() == ["L0H0", "L0H2", "L1H1", "L1H3"]
        page.locator("#run0-heads th", has_text="first at step").click()
        page.locator("#run0-heads th", has_text="first at step").click()
        assert heads()[:2] == ["L0H2", "L1H3"]


def test_browser_shows_foreign_text_as_text(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", FINAL, name=EVIL)
    plant(run, 20, FINAL, origin={"model": {"path": EVIL}})
    other = configure(tmp_path / "s", name=EVIL)
    plant(other, 0, BASE, pairs_hash=EVIL)
    with opened(write_report(read_runs([run, other]), tmp_path / "page.html")) as page:
        page.wait_for_timeout(300)
        assert page.evaluate("window.pwned === undefined")
        assert EVIL in page.locator("h1").text_content()
        assert f"name: {EVIL}" in page.locator("details pre").first.text_content()
        assert page.locator("td", has_text=EVIL).text_content() == f"path {EVIL}"
        assert page.locator("img").count() == 0
