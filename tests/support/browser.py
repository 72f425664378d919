"""A Chromium to open pages in: the tests of the report page and its picture use it."""

from __future__ import annotations

import shutil

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def find_browser() -> str | None:
    """The path of an installed browser, or None."""
    return next((path for path in map(shutil.which, BROWSERS) if path), None)
