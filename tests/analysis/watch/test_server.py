"""The server of `headlab watch`: who is let in, what a page is sent, and how it grows."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from analysis.cli import parse
from analysis.commands import run
from analysis.commands.watch import Options, as_keys
from analysis.records.training_log import append_metrics
from analysis.watch import feed as feeding
from analysis.watch.feed import Feed, Watched
from analysis.watch.listing import Listing
from analysis.watch.server import COOKIE, build
from tests.support.browser import chromium
from tests.support.dashboards import HEADS, make_long_run
from tests.support.planted_runs import BASE, EVIL, configure, plant
from tests.support.serving import served

LOCAL = "http://127.0.0.1:8642"


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "PAUSE", 0.0)
    monkeypatch.setattr("analysis.watch.server.PAUSE", 0.05)
    monkeypatch.setattr(feeding, "SHARE", 0)


def test_a_page_is_sent_only_what_is_new(tmp_path: Path) -> None:
    path, feed = make_long_run(tmp_path / "r", 3), Feed()

    def update() -> str:
        [seen] = Listing(path).look()
        return feed.update(seen)

    first = update()
    everything = feed.since("")
    assert [each["step"] for each in everything["checkpoints"]] == [0, 10, 20]
    assert {"judged", "signal", "state", "graph", "heads", "tokens"} <= set(everything)
    assert update() == first
    assert feed.since(first) == {}

    append_metrics(path, 26, {"loss": 0.1})
    logged = update()
    assert list(feed.since(first)) == ["signal"]
    plant(path, 30, HEADS[1:7])
    grown = update()
    found = feed.since(logged)
    assert set(found) == {"judged", "checkpoints"}
    assert [each["step"] for each in found["checkpoints"]] == [30]
    plant(path, 30, HEADS[:3])  # tracked again
    update()
    assert [each["step"] for each in feed.since(grown)["checkpoints"]] == [30]
    for of_another in ("", "nonsense", "0badcafe.9", f"{first}x"):
        assert len(feed.since(of_another)["checkpoints"]) == 4


def test_runs_have_a_list_and_pages(tmp_path: Path) -> None:
    make_long_run(tmp_path / "sft", 2)
    make_long_run(tmp_path / "of <b>&" / "grpo", 2, "grpo")
    (configure(tmp_path / "broken") / "run.json").write_text("{")
    rows = {row["name"]: row for row in Watched(tmp_path).rows()}
    assert set(rows) == {"broken", "of <b>&/grpo", "sft"}
    assert "can't be read" in rows["broken"]["why"]
    assert (rows["sft"]["step"], rows["sft"]["checkpoints"]) == ("15", "2")
    assert (rows["sft"]["score"], rows["sft"]["kind"]) == ("50.0 %", "sft")
    client = TestClient(build(tmp_path), base_url=LOCAL)
    assert "EventSource" in client.get("/").text
    page = client.get("/run/of%20%3Cb%3E%26/grpo")
    assert page.status_code == 200
    assert 'data-live="/events/of%20%3Cb%3E%26/grpo?version=' in page.text
    assert client.get("/run/broken").text.count("EventSource") == 1  # it waits
    assert client.get("/run/nothing").status_code == 404
    assert client.get("/run/..%2f..%2fetc").status_code == 404
    alone = TestClient(build(tmp_path / "sft"), base_url=LOCAL, follow_redirects=False)
    assert alone.get("/").headers["location"] == "/run/sft"


def test_a_young_run_waits_for_its_first_checkpoint(tmp_path: Path) -> None:
    configure(tmp_path / "r", name=EVIL)
    text = TestClient(build(tmp_path / "r"), base_url=LOCAL).get("/run/r").text
    assert "No checkpoint yet" in text
    assert EVIL not in text


def test_on_loopback_no_other_site_is_answered(tmp_path: Path) -> None:
    app = build(tmp_path)
    for host in ("127.0.0.1:8642", "localhost", "[::1]:8642"):
        assert TestClient(app, base_url=LOCAL).get("/", headers={"host": host}).status_code == 200
    answer = TestClient(app, base_url=LOCAL).get("/", headers={"host": "evil.example"})
    assert answer.status_code == 400


def test_elsewhere_the_token_is_asked_for(tmp_path: Path) -> None:
    client = TestClient(build(tmp_path, token="secret"), base_url="http://10.0.0.1:8642")
    for address in ("/", "/?token=wrong", "/events", "/run/r?token="):
        answer = client.get(address)
        assert (answer.status_code, "with its token" in answer.text) == (403, True)
    assert client.get("/?token=secret").status_code == 200
    assert "token" not in str(client.get("/?token=secret").url)
    assert client.cookies[COOKIE] == "secret"
    assert client.get("/").status_code == 200


def test_events_are_in_the_form_of_a_stream(tmp_path: Path) -> None:
    from analysis.watch.server import _stream

    class Asked:
        def __init__(self) -> None:
            self.app, self.looks = build(tmp_path), 0

        async def is_disconnected(self) -> bool:
            self.looks += 1
            return self.looks > 3

    def news(version: str) -> tuple[str, str]:
        return "b", "" if version == "b" else f"event: x\ndata: {version}\n\n"

    async def all_of() -> list[str]:
        return [event async for event in _stream(Asked(), news, "a")]  # type: ignore[arg-type]

    assert asyncio.run(all_of()) == ["event: x\ndata: a\n\n"]


def test_what_is_typed_becomes_keys() -> None:
    typed = ["runs/", "--terminal", "--port=0", "--help"]
    assert as_keys(typed) == ["runs=runs/", "terminal=true", "port=0", "--help"]
    with pytest.raises(ValueError, match="unknown key 'terminl'; did you mean terminal?"):
        parse(Options, as_keys(["--terminl"]))
    with pytest.raises(ValueError, match="'--port' is not key=value"):
        parse(Options, as_keys(["runs/", "--port", "9000"]))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere/"], "there is no directory nowhere"),
        (["port=70000"], "port"),
        ([".", "host=no.such.host.invalid"], "can't listen on no.such.host.invalid"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run("watch", words)
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def _watched_page(browser: Any, faults: list[str]) -> Any:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(20_000)
    page.on("console", lambda said: faults.append(said.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    return page


def _check_looks(page: Any) -> None:
    """Nothing serious for axe in both themes, and no sideways scrolling on a phone."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        found = axe.Axe().run(page).response["violations"]
        assert [each["id"] for each in found if each["impact"] in ("serious", "critical")] == []
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size({"width": 1280, "height": 800})


@pytest.mark.distributed
def test_pages_grow_in_a_browser_while_a_run_goes_on(tmp_path: Path) -> None:
    path, faults = make_long_run(tmp_path / "r & <b>", 2), list[str]()
    with served(tmp_path) as address, chromium() as browser:
        page = _watched_page(browser, faults)
        page.goto(f"{address}/")
        page.locator("#runs tr").wait_for()
        configure(tmp_path / "young")
        page.locator("#runs tr", has_text="young").wait_for()
        _check_looks(page)
        page.get_by_role("link", name="r & <b>").click()
        page.wait_for_selector("html[data-ready=yes]")
        assert "10" in page.locator("#at").text_content()
        plant(path, 20, HEADS[1:6])
        append_metrics(path, 25, {"loss": 0.01})
        page.wait_for_function("document.getElementById('at').textContent.includes('20')")
        assert "By step 20" in page.locator("#verdict").text_content()
        assert page.get_by_role("link", name="All runs").get_attribute("href") == "/"
        page.get_by_text("Below, all is as at step 10").wait_for()

        waiting = _watched_page(browser, faults)
        waiting.goto(f"{address}/run/young")
        waiting.get_by_text("No checkpoint yet").wait_for()
        _check_looks(waiting)
        plant(tmp_path / "young", 0, BASE)
        waiting.wait_for_selector("html[data-ready=yes]")
        plant(tmp_path / "young", 10, HEADS[:4])
        waiting.get_by_text("By step 10").wait_for()
    assert faults == []


def test_the_list_is_json_that_a_page_reads(tmp_path: Path) -> None:
    from analysis.watch.server import _event

    make_long_run(tmp_path / "r", 1)
    text = _event("runs", Watched(tmp_path).rows(), "v")
    head, data = text.split("data: ")
    assert head == "id: v\nevent: runs\n"
    assert json.loads(data)[0]["name"] == "r"
    assert data.count("\n") == 2
