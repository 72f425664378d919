"""A small web server that lists runs and shows each on a page that grows while it goes on.

    /               the runs, with their states; it fills itself from /events
    /run/NAME       the page of a report (analysis/reporting/report.py)
    /events         server-sent events: the list, whenever it changes
    /events/NAME    server-sent events: what is new of a run (analysis/watch/feed.py)

It reads files and writes none. Who may ask: on loopback who asks for it by that name, so that no
page of another site can; on another address who has the token.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from analysis.files import to_json
from analysis.reporting.pages import page_text
from analysis.reporting.report import TEMPLATE, report_values
from analysis.watch.feed import PAUSE, Watched
from analysis.watch.listing import Seen
from analysis.watch.states import STATES

ALIVE = 15.0  # seconds after which a stream says that it is there
LOOPBACK = ["localhost", "127.0.0.1", "::1", "[::1]"]
COOKIE = "headlab-token"
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # an address may hold the token
}
News = Callable[[str], tuple[str, str]]  # a version -> the version now, and events; "" for none


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    return host in LOOPBACK


def build(root: str | Path, token: str | None = None) -> Starlette:
    """The server of the runs below a directory.

    token: what an address has to say; None: it listens on loopback, and has none.

    Raises:
        ValueError: there is no such directory.
    """
    watched = Watched(root)

    def index(request: Request) -> Response:
        runs = watched.look()
        if [seen.path for seen in runs] == [watched.root]:
            return RedirectResponse(f"/run/{quote(runs[0].name)}")
        return _html(_plain("runs", title=f"headlab: {watched.root}", states=STATES))

    def page(request: Request) -> Response:
        return _html(_page(watched, _find(watched, request)))

    def list_events(request: Request) -> Response:
        def news(version: str) -> tuple[str, str]:
            rows = watched.rows()
            now = str(hash(repr(rows)))
            return now, "" if now == version else _event("runs", rows)

        return _streaming(request, news)

    def run_events(request: Request) -> Response:
        name = _find(watched, request).name

        def news(version: str) -> tuple[str, str]:
            seen = watched.find(name)
            if seen is None or seen.run is None:
                why = "the run is gone" if seen is None else seen.why
                return why, "" if why == version else _event("problem", {"why": why})
            feed = watched.feed(seen)
            now = feed.update(seen)
            return now, "" if now == version else _event("run", feed.since(version), now)

        return _streaming(request, news)

    routes = [
        Route("/", index),
        Route("/run/{name:path}", page),
        Route("/events", list_events),
        Route("/events/{name:path}", run_events),
    ]
    guard = Middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK)
    if token is not None:
        guard = Middleware(_Token, token=token)
    app = Starlette(routes=routes, middleware=[guard])
    app.state.is_ending = lambda: False  # streams end then, which would go on for ever
    return app


def serve(root: str | Path, host: str, port: int) -> None:
    """Say the address, and serve until a signal ends it.

    Raises:
        ValueError: there is no such directory, or the address can't be listened on.
    """
    token = None if is_loopback(host) else secrets.token_urlsafe(16)
    app = build(root, token)
    try:
        [(family, *_, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listening = socket.create_server(address[:2], family=family)
    except OSError as error:
        raise ValueError(
            f"can't listen on {host}, port {port} ({error.strerror}); give another host= or "
            "port=0, which takes one that is free"
        ) from error
    name = f"[{host}]" if ":" in host else host
    said = "" if token is None else f"?token={token}"
    print(f"http://{name}:{listening.getsockname()[1]}/{said}", flush=True)
    how = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5)
    server = uvicorn.Server(how)
    app.state.is_ending = lambda: server.should_exit
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listening])


def _find(watched: Watched, request: Request) -> Seen:
    """The run that an address names.

    Raises:
        HTTPException: there is none.
    """
    name = request.path_params["name"]
    if (seen := watched.find(name)) is None:
        raise HTTPException(404, f"there is no run {name}")
    return seen


def _plain(name: str, **values: object) -> str:
    """A page without charts."""
    return page_text(f"watch/{name}.html.j2", charts=False, **values)


def _html(text: str) -> Response:
    return HTMLResponse(text, headers=HEADERS)


def _page(watched: Watched, seen: Seen) -> str:
    """The page of a run as it is now; without a checkpoint, one that waits for it."""
    live = f"/events/{quote(seen.name)}"
    if seen.run is None or not seen.run.rows:
        return _plain("wait", title=f"headlab: {seen.name}", live=live)
    version = watched.feed(seen).update(seen)
    live += f"?version={version}"
    return page_text(TEMPLATE, **report_values([seen.run], live=live, state=seen.state))


def _event(name: str, data: object, version: str = "") -> str:
    head = f"id: {version}\n" if version else ""
    return f"{head}event: {name}\ndata: {to_json(data, separators=(',', ':'))}\n\n"


def _streaming(request: Request, news: News) -> Response:
    """What is new since the version that a page has, again and again, until it is closed."""
    has = request.headers.get("last-event-id", request.query_params.get("version", ""))
    return StreamingResponse(
        _stream(request, news, has), media_type="text/event-stream", headers=HEADERS
    )


async def _stream(request: Request, news: News, version: str) -> AsyncIterator[str]:
    quiet = 0.0
    while not (request.app.state.is_ending() or await request.is_disconnected()):
        version, found = await run_in_threadpool(news, version)
        quiet = 0.0 if found else quiet + PAUSE
        if quiet >= ALIVE:
            found, quiet = ": still here\n\n", 0.0
        if found:
            yield found
        await asyncio.sleep(PAUSE)


class _Token:
    """Lets in who says the token: in the address, and from then on by a cookie."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request(scope)
        given = request.query_params.get("token")
        said = request.cookies.get(COOKIE, "") if given is None else given
        if not secrets.compare_digest(said.encode(), self.token.encode()):
            text = "give the whole address that headlab watch has printed, with its token"
            return await PlainTextResponse(text, 403, headers=HEADERS)(scope, receive, send)
        if given is None:
            return await self.app(scope, receive, send)
        answer = RedirectResponse(request.url.remove_query_params("token"), headers=HEADERS)
        answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
        return await answer(scope, receive, send)
