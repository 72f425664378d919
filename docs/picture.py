"""The README's picture of a report: python -m docs.picture REPORT.html OUT.png

Head map, emergent and pruned heads, loss and pass@1 of the page's first run, cut out of the page as
Chromium draws it (`make picture`).
"""

from __future__ import annotations

import io
import sys
from itertools import pairwise
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.support.browser import FLAGS, find_browser

WIDTH = 1000  # of the picture, in pixels
KEPT = (slice(1, 2), slice(5, None))  # of the panels of curves
PANELS = """id => Object.entries(document.getElementById(id)._fullLayout)
    .filter(([name]) => /^yaxis[0-9]*$/.test(name)).map(([, axis]) => axis._offset)"""


def charts(page_file: Path) -> tuple[Image.Image, Image.Image, list[float]]:
    """Head map and curves of the first run of a page, and where each panel of the curves begins."""
    browser_path = find_browser()
    if browser_path is None:
        raise SystemExit("error: there is no Chromium to draw the page with; make browser")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=list(FLAGS))
        page = browser.new_page(viewport={"width": WIDTH + 32, "height": 900})  # the page's padding
        page.goto(page_file.resolve().as_uri())
        images = []
        for part in ("map", "trajectory"):
            chart = page.wait_for_selector(f"#run0-{part}:has(.main-svg)")
            assert chart is not None
            images.append(Image.open(io.BytesIO(chart.screenshot())).convert("RGB"))
        tops = sorted(page.evaluate(PANELS, "run0-trajectory"))
        browser.close()
    return images[0], images[1], tops


def picture(page_file: Path) -> Image.Image:
    """The parts that tell most, one below the other."""
    head_map, curves, tops = charts(page_file)
    edges = [*(round(top) - 8 for top in tops), curves.height]
    bands = [band for kept in KEPT for band in list(pairwise(edges))[kept]]
    parts = [head_map, *(curves.crop((0, top, curves.width, end)) for top, end in bands)]
    whole = Image.new("RGB", (parts[0].width, sum(part.height for part in parts)), "white")
    height = 0
    for part in parts:
        whole.paste(part, (0, height))
        height += part.height
    return whole


if __name__ == "__main__":
    picture(Path(sys.argv[1])).save(sys.argv[2], optimize=True)
