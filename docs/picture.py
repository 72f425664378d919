"""The README's picture of a report: python -m docs.picture REPORT.html OUT.png

The first screen of the page, as Chromium draws it (`make picture`), in few colours so that the file
is small.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

from tests.support.browser import chromium, find_browser, opened

SIZE = {"width": 1280, "height": 800}
COLOURS = 256


def picture(page_file: Path, part: str = "") -> Image.Image:
    """The first screen. part: of the address, such as `#step=100&head=L1H5`."""
    if find_browser() is None:
        raise SystemExit("error: there is no Chromium to draw the page with; make browser")
    with (
        chromium() as browser,
        opened(browser, page_file, part, viewport=SIZE, color_scheme="light") as page,
    ):
        page.add_style_tag(content="* { box-shadow: none !important }")  # it takes many colours
        page.wait_for_timeout(500)  # what is drawn when nothing else is to be done
        seen = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    return seen.quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


if __name__ == "__main__":
    picture(Path(sys.argv[1]), *sys.argv[3:]).save(sys.argv[2], optimize=True)
