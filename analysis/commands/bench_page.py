"""The page of a run in a browser: `headlab bench part=page`.

A run of made-up records (analysis/commands/bench_size.py) with a log, scores and attention
patterns, or a run that is there (`run=DIR`), is made into a page, whose time and size are told.
Chromium opens it from disk, without a network and with nothing kept from before: how long until the
first picture, until all of it works, and how many checkpoints a second it scrubs through, on the
first screen and with all edges of the circuit in sight.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from analysis.commands.bench_size import STEP, write_run

FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
PATIENCE = 600_000  # ms, on a busy machine
SCRUBBED = 60  # checkpoints of one measurement
PROMPTS, TOKENS = 8, 64  # of the patterns of a made-up run
LOGS = 10  # between two checkpoints of a made-up run

SIZES = """() => {
  const plain = [...document.scripts].filter(script => script.type !== "application/json")
    .map(script => script.text);
  return {
    data: document.getElementById("data").text.length,
    libraries: plain.filter(text => text.length > 2e5).reduce((sum, text) => sum + text.length, 0),
  };
}"""
TIMES = """() => ({
  picture: performance.getEntriesByName("headlab-first-picture")[0].startTime / 1000,
  ready: performance.now() / 1000,
})"""
# a key, then two frames: one in which it is drawn, one that shows that the first has ended
SCRUB = """async count => {
  const frame = () => new Promise(requestAnimationFrame);
  const press = key => document.body.dispatchEvent(
    new KeyboardEvent("keydown", {key, code: key, bubbles: true}));
  press("Home");
  await frame();
  await frame();
  const began = performance.now(), took = [];
  for (let at = 0, last = began; at < count; at++) {
    press("ArrowRight");
    await frame();
    await frame();
    const now = performance.now();
    took.push(now - last);
    last = now;
  }
  took.sort((a, b) => a - b);
  return {
    each_second: 1000 * count / (performance.now() - began),
    slowest: took.at(-1) / 1000,
    address: location.hash,
  };
}"""
# the circuit in sight, with all of its edges
CIRCUIT = """() => {
  document.getElementById("graph").scrollIntoView({block: "center"});
  const slider = document.getElementById("graph-strength");
  slider.value = 0;
  slider.dispatchEvent(new Event("input"));
}"""
EDGES = "document.getElementById('graph').view.edges?.size ?? 0"


def dress(run: Path, checkpoints: int, heads: int) -> None:
    """What a run of `write_run` lacks: what was logged, scores, attention patterns."""
    import torch

    from analysis.heads.kept_patterns import KeptPatterns, Prompt, write_patterns
    from analysis.records.evaluations import write_evaluation
    from analysis.records.training_log import append_metrics

    generator = torch.Generator().manual_seed(1)
    seen = torch.ones(heads, dtype=torch.bool)
    prompts = [Prompt(row, [f" word{at}" for at in range(TOKENS)]) for row in range(PROMPTS)]
    score = {"problems": 128, "samples": 4, "truncated": 0, "failures": {}}
    for number in range(checkpoints):
        step, share = STEP * number, number / checkpoints
        ends = {"pass_at_1": share, "low": max(0.0, share - 0.05), "high": min(1.0, share + 0.05)}
        write_evaluation(run, step, {**ends, **score})
        for log in range(LOGS):
            append_metrics(run, step + log * STEP // LOGS, {"loss": 1 / (1 + number + log / LOGS)})
        weights = [
            torch.randint(0, 9, (heads, TOKENS), generator=generator, dtype=torch.uint8)
            for _ in prompts
        ]
        write_patterns(run, step, KeptPatterns("made up", prompts, seen, weights))


def write_page(run: Path, out: Path) -> list[float]:
    """Write a page twice; the seconds of each: the second time what can be kept is known."""
    from analysis.reporting.report import write_report
    from analysis.trajectories.run import Run
    from analysis.trajectories.trajectory import Known

    known: Known = {}
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        write_report([Run.read(run, known)], out)
        seconds.append(time.perf_counter() - began)
    return seconds


def in_browser(page_file: Path, browser_path: str, repeats: int) -> dict[str, Any]:
    """Medians of what Chromium takes with a page.

    Raises:
        ValueError: playwright is not installed.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise ValueError("playwright is not installed: pip install 'headlab[dev]'") from None
    found: list[dict[str, Any]] = []
    sizes: dict[str, int] = {}
    with sync_playwright() as driver:
        for _ in range(repeats):
            browser = driver.chromium.launch(executable_path=browser_path, args=list(FLAGS))
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(PATIENCE)
            page.goto(page_file.resolve().as_uri(), wait_until="commit")
            page.wait_for_function("document.documentElement.dataset.ready === 'yes'")
            times, sizes = page.evaluate(TIMES), page.evaluate(SIZES)
            page.wait_for_timeout(500)
            scrubbed = page.evaluate(SCRUB, SCRUBBED)
            page.evaluate(CIRCUIT)
            page.wait_for_timeout(1500)
            drawn = page.evaluate(SCRUB, SCRUBBED)
            circuit = {"circuit": drawn["each_second"], "edges": page.evaluate(EDGES)}
            found.append({**times, **scrubbed, **circuit})
            browser.close()
    names = ("picture", "ready", "each_second", "slowest", "circuit", "edges")
    return {**sizes, **{name: statistics.median(one[name] for one in found) for name in names}}


def measure_page(
    run: str | None, checkpoints: int, layers: int, resamples: int, browser: str, repeats: int
) -> None:
    """Write a page, open it, and print what it takes.

    Raises:
        ValueError: there is no browser.
    """
    if (browser_path := shutil.which(browser)) is None:
        raise ValueError(f"there is no browser {browser!r}; give browser=PATH of a Chromium")
    with tempfile.TemporaryDirectory(prefix="headlab-bench-") as scratch:
        place = Path(scratch) / "run" if run is None else Path(run)
        if run is None:
            write_run(place, checkpoints, layers, layers, resamples)
            dress(place, checkpoints, layers * layers)
            print(f"{checkpoints} checkpoints of {layers} x {layers} heads, {resamples} resamples")
        out = Path(scratch) / "report.html"
        first, again = write_page(place, out)
        print(f"written in {first:.1f} s, again in {again:.1f} s", flush=True)
        found = in_browser(out, browser_path, repeats)
        size = out.stat().st_size
        print(
            f"{size / 1e6:.2f} MB: {found['libraries'] / 1e6:.2f} MB of libraries, "
            f"{found['data'] / 1e6:.2f} MB of data drawn on demand, and "
            f"{(size - found['libraries'] - found['data']) / 1e6:.2f} MB of other things"
        )
        print(
            f"first picture after {found['picture']:.2f} s, all there after {found['ready']:.2f} s "
            f"(medians of {repeats})"
        )
        print(
            f"scrubs {found['each_second']:.1f} checkpoints a second, the slowest in "
            f"{1000 * found['slowest']:.0f} ms; with the circuit in sight, of {found['edges']:.0f} "
            f"edges at last, {found['circuit']:.1f} a second"
        )
