"""A training that is watched: its page grows, in a browser, and shows when it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.browser import chromium
from tests.support.places import ROOT
from tests.support.runs import small
from tests.support.serving import served
from tests.support.warm import pid_of, warm_python


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
            page.get_by_text("By step 2,").wait_for()
            page.get_by_text("By step 4,").wait_for()
            page.get_by_text("running", exact=True).wait_for()
        finally:
            os.kill(pid_of(training), signal.SIGKILL)
            training.wait(timeout=60)
        page.get_by_text("killed", exact=True).wait_for()
    assert faults == []
