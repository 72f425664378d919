"""The page of a comparison in a browser: its figures, colours, widths and foreign names."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.commands.compare import act
from tests.support.browser import chromium, opened, serious_faults
from tests.support.comparisons import EARLY, LATE, options, plant, write_run

EVIL = "</script><b>bold</b>\"'&amp;\u202e"
FIGURES = ["effect-a-b", "layers"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(9)
    folder = tmp_path_factory.mktemp("compared")
    scores = {0: plant(EARLY), 4: plant(LATE)}
    runs = [write_run(folder / path, EVIL, scores, 5) for path in "xy"]
    act(options(folder, f"a={runs[0]}@0", f"b={runs[1]}"))
    return folder / "out" / "comparison.html"


def test_browser_the_page_of_a_comparison(written: Path) -> None:
    with chromium() as browser, opened(browser, written) as page:
        drawn = page.evaluate(
            "Array.from(document.querySelectorAll('.lazy')).map(each => "
            "[each.id, each.querySelectorAll('.main-svg').length > 0])"
        )
        assert drawn == [[name, True] for name in FIGURES]
        assert page.locator("main b", has_text="bold").count() == 0
        with page.expect_download() as saved:
            page.locator("section:has(#effect-a-b) button", has_text="SVG").click()
        svg = Path(saved.value.path()).read_text(encoding="utf-8")
        assert "<b>bold</b>" in html.unescape(svg) and "<b>" not in svg
        assert serious_faults(page) == []
        pale = ground(page)
        ink = "document.getElementById('layers').layout.font.color"
        light = page.evaluate(ink)
        page.emulate_media(color_scheme="dark")
        page.wait_for_function(f"{ink} !== '{light}'")
        assert ground(page) != pale
        assert serious_faults(page, runOnly="color-contrast") == []
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def ground(page: Any) -> str:
    """The colour behind everything."""
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))
