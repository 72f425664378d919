"""A Chromium to open pages in: the tests of the report page and its picture use it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def find_browser() -> str | None:
    """The path of an installed browser, or None."""
    return next((path for path in map(shutil.which, BROWSERS) if path), None)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of playwright, for the tests of a module; where there is none they are skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = find_browser()
    if path is None:
        pytest.skip(f"no browser to open pages in: none of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, page_file: Path, part: str = "", **how: Any) -> Iterator[Any]:
    """A page in a tab without a network, when it is drawn.

    Fails, in the end, on anything that is said in the console and on requests for anything else.
    part: of the address, such as `#step=10`.
    """
    faults: list[str] = []
    address = page_file.resolve().as_uri()
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **how})
    context.set_offline(True)
    page = context.new_page()
    page.set_default_timeout(60_000)  # machines may be busy
    page.on("console", lambda said: faults.append(said.text))
    page.on("pageerror", lambda error: faults.append(str(error)))

    def look(asked: Any) -> None:
        at = asked.url.partition("#")[0]
        if at != address and not at.startswith(("data:", "blob:")):
            faults.append(asked.url)

    page.on("request", look)
    page.goto(address + part)
    page.wait_for_selector("html[data-ready=yes]")
    yield page
    context.close()
    assert faults == []


def serious_faults(page: Any, **rules: Any) -> list[tuple[str, str]]:
    """What axe-core finds that keeps people out: each with the first element it is about."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    charts = {"exclude": [[".main-svg"]]}  # each is one picture with a name
    found = axe.Axe().run(page, context=charts, options=rules).response["violations"]
    return [
        (each["id"], each["nodes"][0]["html"][:200])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
