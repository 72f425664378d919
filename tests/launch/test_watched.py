"""A training that is watched: its page grows, in a browser, and shows when it was killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import chromium
from tests.support.places import ROOT
from tests.support.runs import small
from tests.support.serving import served
from tests.support.warm import pid_of, warm_python

STEP = re.compile(r"By step (\d+),")
LATER = "first => Number(document.body.innerText.match(/By step (\\d+),/)?.[1]) > first"


def step_of(page: Any) -> int:
    """The step that the page's first sentence tells of."""
    verdict = page.get_by_text(STEP)
    verdict.wait_for()
    match = STEP.search(verdict.inner_text())
    assert match is not None
    return int(match[1])


@pytest.mark.distributed
def test_the_page_of_a_training_grows_until_it_is_killed(tmp_path: Path, tiny_dir: Path) -> None:
    faults: list[str] = []
    words = small("sft", tiny_dir, tmp_path / "r", "train.args.max_steps=400", "evaluation=none")
    with served(tmp_path) as address, chromium() as browser:
        training = subprocess.Popen(
            [warm_python(), "-m", "train.sft", *words],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(120_000)
            page.on("console", lambda said: faults.append(said.text))
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.goto(f"{address}/")
            page.locator("#runs tr", has_text="running").wait_for()
            page.get_by_role("link", name="r", exact=True).click()
            page.wait_for_selector("html[data-ready=yes]")
            # The training does not wait for the page: any step may be the first that it shows.
            first = step_of(page)
            page.wait_for_function(LATER, arg=first)
            assert step_of(page) > first
            page.get_by_text("running", exact=True).wait_for()
        finally:
            os.kill(pid_of(training), signal.SIGKILL)
            training.wait(timeout=60)
        page.get_by_text("killed", exact=True).wait_for()
    assert faults == []
