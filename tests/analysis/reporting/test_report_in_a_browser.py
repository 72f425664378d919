"""The report page in a browser: what is seen first, what moves it, what leaves it, foreign text."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.records.evaluations import write_evaluation
from analysis.reporting.report import write_report
from analysis.trajectories.run import read_runs
from tests.support.browser import chromium, opened, serious_faults
from tests.support.planted_runs import (
    BASE,
    EVIL,
    FINAL,
    SCORE,
    configure,
    make_run,
    plant,
)

STEPS = [0, 10, 20]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two runs, L0H2 and L1H3 emerge in the first and L1H1 is pruned; and of scores."""
    folder = tmp_path_factory.mktemp("report")
    runs = [make_run(folder / "one", FINAL), make_run(folder / "two", ["a0.h1"], kind="grpo")]
    runs.append(configure(folder / "untracked"))
    for step in STEPS:
        write_evaluation(runs[-1], step, {"pass_at_1": step / 40, "low": 0, "high": 0.6, **SCORE})
    return write_report(read_runs(runs), folder / "page.html")


@pytest.fixture(scope="module")
def tab(browser: Any, report: Path) -> Iterator[Any]:
    with opened(browser, report, has_touch=True) as page:
        yield page


@pytest.fixture
def page(tab: Any) -> Any:
    """The shared tab, at the last checkpoint of the first run, with no head shown."""
    tab.set_viewport_size({"width": 1280, "height": 800})
    tab.emulate_media(color_scheme="light")
    # by way of another address, as one that stays is no news to the page
    tab.evaluate("history.replaceState(null, '', '#'); location.hash = '#run=0&step=20'")
    tab.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    at_step(tab, 20)
    tab.wait_for_selector("#panel", state="hidden")
    return tab


def at_step(page: Any, step: int) -> None:
    page.wait_for_function(f"document.getElementById('at').textContent === 'step {step}'")
    page.wait_for_function(
        f"document.getElementById('map-title').textContent === 'Heads at step {step}'"
    )


def marks(page: Any) -> dict[str, int]:
    """How many marks of each kind are on the map."""
    drawn = page.evaluate(
        "document.getElementById('map').data.map(trace => [trace.name, (trace.x || []).length])"
    )
    return {name: many for name, many in drawn if name and many}


def on_map(page: Any, layer: int, head: int) -> tuple[float, float]:
    """Where the middle of a head's cell is."""
    box = page.locator(".cells").bounding_box() or {}
    return (
        box["x"] + box["width"] * (head + 0.5) / 4,
        box["y"] + box["height"] * (1 - (layer + 0.5) / 2),
    )


def test_browser_first_screen_needs_no_scrolling(page: Any) -> None:
    bottom = page.locator(".bar").bounding_box()["y"]
    for part in ("#verdict", "#map-key", "#map", "#curves"):
        box = page.locator(part).bounding_box()
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= bottom
    assert "2 heads have emerged" in page.locator("#verdict").inner_text()
    tiles = page.locator(".tile")
    assert tiles.count() == 4
    for index in range(4):
        assert tiles.nth(index).locator(".spark .main-svg").count() > 0
        assert tiles.nth(index).locator(".value").inner_text() != ""
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_browser_everything_follows_the_checkpoint(page: Any) -> None:
    emerged = {"retained": 1, "emergent, called": 2, "pruned, called": 1}
    assert marks(page) == emerged
    in_circuit = page.locator(".tile .value").nth(1)
    assert in_circuit.inner_text() == "3"
    page.keyboard.press("Home")
    at_step(page, 0)
    assert marks(page) == {"retained": 2}
    assert in_circuit.inner_text() == "2"
    page.keyboard.press("ArrowRight")
    at_step(page, 10)
    page.click("#next")
    at_step(page, 20)
    page.locator("#range").fill("0")  # as dragging does
    at_step(page, 0)
    page.keyboard.press("End")
    at_step(page, 20)
    assert marks(page) == emerged
    page.wait_for_function("location.hash === '#run=0&step=20'")


def test_browser_plays(page: Any) -> None:
    page.keyboard.press(" ")
    at_step(page, 0)
    at_step(page, 10)
    page.keyboard.press(" ")
    assert page.locator("#play").get_attribute("aria-label") == "Play"
    page.click("#play")
    at_step(page, 20)


def test_browser_a_head_is_opened_by_map_search_and_keys(page: Any) -> None:
    page.mouse.click(*on_map(page, 1, 3))
    title, chip = page.locator("#panel-title"), page.locator("#panel-state")
    page.wait_for_selector("#panel-curve .main-svg")
    assert title.inner_text() == "L1H3"
    page.wait_for_function(  # the map makes room for the panel
        "document.querySelector('#map .main-svg').clientWidth === Math.round("
        "document.getElementById('map').getBoundingClientRect().width)"
    )
    assert "emergent, called" in chip.inner_text()
    assert page.locator("#panel .edges li").count() == 2  # one in, one out, as planted
    assert page.locator("#panel .command code").inner_text().count("L1H3") > 0
    page.keyboard.press("Shift+ArrowLeft")
    page.wait_for_function("document.getElementById('panel-title').textContent === 'L1H2'")
    page.keyboard.press("Escape")
    page.wait_for_selector("#panel", state="hidden")
    page.fill("#find", "l1h1")
    page.press("#find", "Enter")
    page.wait_for_function("document.getElementById('panel-title').textContent === 'L1H1'")
    assert "pruned, called" in chip.inner_text()
    page.wait_for_function("location.hash === '#run=0&step=20&head=L1H1'")
    page.fill("#find", "L9H9")
    page.press("#find", "Enter")
    assert "L0H0 to L1H3" in page.evaluate("document.getElementById('find').validationMessage")


def test_browser_the_address_is_a_view(page: Any) -> None:
    page.evaluate("location.hash = '#run=1&step=10&head=L0H1'")
    at_step(page, 10)
    page.wait_for_selector("#panel", state="visible")
    assert page.locator("#panel-title").inner_text() == "L0H1"
    assert page.locator("#runs button").nth(1).get_attribute("aria-pressed") == "true"
    shown = page.locator("[data-run]:visible")
    assert shown.count() == 1
    assert shown.get_attribute("data-run") == "1"
    page.locator("#runs button").first.click()
    page.wait_for_function("location.hash === '#run=0&step=10&head=L0H1'")


def test_browser_a_run_without_heads_says_so(page: Any) -> None:
    page.evaluate("location.hash = '#run=2&step=10&head=L0H1'")
    page.wait_for_selector("#map .empty")
    assert page.locator(".tile .value").first.inner_text() == "25.0 %"
    assert page.locator("#panel").is_hidden()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.getElementById('at').textContent === 'step 20'")


def test_browser_search_sorting_and_export_of_heads(page: Any) -> None:
    page.locator("[data-run='0'] summary", has_text=re.compile("^Heads every")).click()
    box, table = page.locator("input[data-table=run0-heads]"), page.locator("#run0-heads")
    table.wait_for(state="visible")

    def heads() -> list[str]:
        cells = page.locator("#run0-heads tbody tr:visible td:first-child")
        return [str(text) for text in cells.all_text_contents()]

    assert table.locator("tbody tr").count() == 4
    box.press_sequentially("emerg")
    assert heads() == ["L0H2", "L1H3"]
    box.fill("l1h1 pruned")
    assert heads() == ["L1H1"]
    box.fill("")
    table.locator("th button").first.click()
    assert heads() == ["L0H0", "L0H2", "L1H1", "L1H3"]
    by_step = table.locator("th button", has_text="first at step")
    by_step.click()
    by_step.click()
    assert heads()[:2] == ["L0H2", "L1H3"]
    with page.expect_download() as saved:
        page.locator(".tablebox:has(#run0-heads) button", has_text="CSV").click()
    rows = list(csv.reader(io.StringIO(Path(saved.value.path()).read_text(), newline="")))
    assert len(rows) == 5
    assert [row[0] for row in rows[1:3]] == ["L0H2", "L1H3"]
    table.locator("td button", has_text="L1H3").click()
    page.wait_for_selector("#panel", state="visible")
    assert page.locator("#panel-title").inner_text() == "L1H3"


@pytest.mark.parametrize(("kind", "begins"), [("SVG", b"<svg"), ("PNG", b"\x89PNG")])
def test_browser_figures_are_saved(page: Any, kind: str, begins: bytes) -> None:
    with page.expect_download() as saved:
        page.locator("[data-export=map] button", has_text=kind).click()
    assert saved.value.suggested_filename == f"one-step-20-map.{kind.lower()}"
    assert Path(saved.value.path()).read_bytes().startswith(begins)


def test_browser_the_numbers_between_runs_are_saved(page: Any) -> None:
    with page.expect_download() as saved:
        page.locator("#sides-numbers button", has_text="CSV").first.click()
    rows = list(csv.reader(io.StringIO(Path(saved.value.path()).read_text(), newline="")))
    assert rows[0] == ["at the last checkpoints", "heads", "called", "by chance"]
    assert "Jaccard" in [row[0] for row in rows]


def test_browser_folds_draw_their_figures_when_they_are_opened(page: Any) -> None:
    chart = page.locator("#run0-trajectory")
    assert chart.locator(".main-svg").count() == 0
    fold = page.locator("[data-run='0'] details", has_text="Over the checkpoints")
    fold.locator("summary").click()
    chart.locator(".main-svg").first.wait_for()
    with page.expect_download() as saved:
        fold.locator("button", has_text="SVG").click()
    drawn = Path(saved.value.path()).read_text(encoding="utf-8")
    assert "one: Over the checkpoints" in drawn
    assert "excess" in drawn


def test_browser_dark_has_other_colours(page: Any) -> None:
    colour = "document.getElementById('map').data.find(t => t.name === 'retained').marker.color"
    light, back = page.evaluate(colour), "getComputedStyle(document.body).backgroundColor"
    pale = page.evaluate(back)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"{colour} !== '{light}'")
    assert page.evaluate(back) != pale


@pytest.mark.parametrize("width", [390, 320])
def test_browser_a_phone_scrolls_down_only(page: Any, width: int) -> None:
    """320: a screen of 1280 pixels at 400 %."""
    page.set_viewport_size({"width": width, "height": 800})
    page.evaluate("location.hash = '#run=0&step=20&head=L1H3'")
    page.wait_for_selector("#panel", state="visible")
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    map_box = page.locator("#map").bounding_box()
    assert map_box["width"] > width - 70


@pytest.mark.parametrize(
    ("theme", "rules"), [("light", {}), ("dark", {"runOnly": "color-contrast"})]
)
def test_browser_axe_finds_nothing_serious(page: Any, theme: str, rules: dict[str, Any]) -> None:
    page.emulate_media(color_scheme=theme)
    page.evaluate("location.hash = '#run=0&step=20&head=L1H3'")
    page.wait_for_selector("#panel", state="visible")
    page.evaluate(
        """document.querySelectorAll("[data-run='0'] details, #guide details").forEach(
            each => { each.open = true; })"""
    )
    page.wait_for_selector("#run0-faithfulness .main-svg")
    assert serious_faults(page, **rules) == []


def test_browser_terms_explain_themselves(page: Any) -> None:
    page.locator("#map-key .term").first.hover()
    tip = page.locator("#tip")
    assert "In the checkpoint's circuit and not in the base's." in tip.inner_text()
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    page.locator("#map-key .term").nth(1).focus()
    assert "In the base's circuit and not" in tip.inner_text()


def test_browser_shows_foreign_text_as_text(browser: Any, tmp_path: Path) -> None:
    name = f"</script>{EVIL}\"'&amp;\u202e\u200f" + "x" * 10_000
    run = make_run(tmp_path / "r", FINAL, name=name)
    plant(run, 20, FINAL, origin={"model": {"path": EVIL}})
    other = configure(tmp_path / "s", name=EVIL)
    plant(other, 0, BASE, pairs_hash=EVIL)
    report = write_report(read_runs([run, other]), tmp_path / "page.html")
    with opened(browser, report, "#head=L1H3&step=20") as page:
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        page.wait_for_selector("#run0-faithfulness .main-svg")
        assert page.evaluate("window.pwned === undefined")
        assert name in page.locator("h1").text_content()
        assert page.locator("#runs button").first.text_content() == name
        assert f"name: {name}" in page.locator("details pre").first.text_content()
        assert page.locator("td", has_text=EVIL).first.text_content() == f"path {EVIL}"
        assert page.locator("img").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
        map_box = page.locator("#map").bounding_box()
        assert map_box["y"] + map_box["height"] <= page.locator(".bar").bounding_box()["y"]


def shown_edges(page: Any, text: str) -> None:
    page.wait_for_function(
        "text => document.getElementById('graph-shown').textContent.includes(text)", arg=text
    )


def node(page: Any, name: str) -> tuple[float, float]:
    """Where a node of the circuit is."""
    x, y = page.evaluate(
        """name => {
          const {view} = document.getElementById("graph"), {left, top} =
            view.box.getBoundingClientRect();
          const {x, y} = view.network.canvasToDOM(view.network.getPosition(view.find(name)));
          return [left + x, top + y];
        }""",
        name,
    )
    return x, y


def test_browser_the_circuit_is_drawn_and_follows(page: Any) -> None:
    page.locator("#graph").scroll_into_view_if_needed()
    shown_edges(page, "6 edges of 6")
    table = page.locator("#graph-table")
    page.evaluate("document.getElementById('graph-fold').open = true")
    table.locator("tbody tr").nth(5).wait_for()
    page.locator("#graph-colours button", has_text="change").click()
    shown_edges(page, "8 edges, those of the base that are gone too")
    changes = table.locator("td:last-child").all_text_contents()
    assert sorted(changes) == ["gone", "gone", "new", "new", "new", "new", "same", "same"]
    page.keyboard.press("Home")
    shown_edges(page, "4 edges, those")
    assert set(table.locator("td:last-child").all_text_contents()) == {"same"}
    page.locator("#graph-colours button", has_text="sign").click()
    shown_edges(page, "4 edges of 4")
    with page.expect_download() as saved:
        page.locator("#graph-exports button", has_text="SVG").click()
    text = Path(saved.value.path()).read_text()
    assert text.startswith("<svg")
    assert ">L1H1</text>" in text
    with page.expect_download() as saved:
        page.locator("#graph-exports button", has_text="PNG").click()
    assert Path(saved.value.path()).read_bytes().startswith(b"\x89PNG")


def test_browser_a_node_is_found_and_opened(page: Any) -> None:
    page.locator("#graph").scroll_into_view_if_needed()
    shown_edges(page, "6 edges of 6")
    page.mouse.move(*node(page, "L0H2"))
    page.wait_for_function("document.getElementById('tip').textContent.includes('1 out')")
    page.mouse.click(*node(page, "L0H2"))
    page.wait_for_function("document.getElementById('panel-title').textContent === 'L0H2'")
    page.fill("#graph-find", "a1.h3")
    page.press("#graph-find", "Enter")
    assert page.evaluate("document.activeElement.id") != "graph-find"  # the arrows move steps
    page.wait_for_function("document.getElementById('panel-title').textContent === 'L1H3'")
    page.fill("#graph-find", "MLP 7")
    page.press("#graph-find", "Enter")
    assert page.evaluate("document.getElementById('graph-find').validationMessage") != ""
    page.fill("#graph-find", "m1")
    page.press("#graph-find", "Enter")
    page.wait_for_selector("#panel", state="hidden")  # no head


def test_browser_runs_stand_side_by_side(page: Any) -> None:
    page.locator("#sides-section").scroll_into_view_if_needed()
    page.wait_for_selector("#sides-difference .main-svg")

    def lists() -> dict[str, list[str]]:
        page.wait_for_timeout(100)
        titles = page.locator("#sides-heads dt").all_text_contents()
        rows = page.locator("#sides-heads dd")
        found = [rows.nth(at).locator("button").all_text_contents() for at in range(rows.count())]
        return dict(zip(titles, found, strict=True))

    assert lists() == {
        "in a and b (0)": [],
        "in a only (3)": ["L0H0", "L0H2", "L1H3"],
        "in b only (1)": ["L0H1"],
    }
    assert "step 20 (its last)" in page.locator("#sides-maps bdi").first.inner_text()
    page.keyboard.press("Home")
    at_step(page, 0)
    assert list(lists()) == ["in a and b (2)", "in a only (0)", "in b only (0)"]
    numbers = page.locator("#sides-numbers td").all_text_contents()
    assert numbers[numbers.index("Jaccard") + 1].startswith("0.00")
    page.locator("#sides-heads button", has_text="L1H1").click()
    page.wait_for_function("document.getElementById('panel-title').textContent === 'L1H1'")
