"""The web page that raters use: FastAPI over the study's file.

A personal link ``/r/<token>`` is the only key.  A browser sees prompts, pictures under names drawn at random for this
rater alone, and how far the rater is: no method, sample or file name, in neither addresses nor headers nor pictures.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
import threading
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, select_autoescape
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from cpam_bench.eval.study import database
from cpam_bench.eval.study.database import Refused, Task
from cpam_bench.eval.study.design import Plan
from cpam_bench.imba.errors import DiskFull, UserError

_HERE = Path(__file__).parent
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
_BODY = 8192  # bytes that a request may have
_LOCK = 0.25  # seconds to wait for another program that holds the file: all raters wait as long
_REMIND = 60.0  # seconds until the log says again that the file cannot be used

log = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds that a request may take to arrive, its head and its body each."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Robots-Tag": "noindex",
}
"""Sent with every response; the Referrer-Policy keeps the personal link from leaking through a followed link."""


class _Guard:
    """Adds the headers to every response, and hands on a request once its body is here, whatever it says of its length.

    A body that is too long or too slow is refused before anything else is looked at, and no more of it is read.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "no-store")
                message["headers"] = headers.raw
            await send(message)

        if scope["type"] != "http":
            await self.app(scope, receive, send_guarded)
            return
        body, status = bytearray(), 200
        try:
            async with asyncio.timeout(PATIENCE):
                more = True
                while more and len(body) <= _BODY:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
        except TimeoutError:
            status = 408
        if len(body) > _BODY:
            status = 413
        if status != 200:
            await Response(status_code=status, headers={"Connection": "close"})(scope, receive, send_guarded)
            return
        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        await self.app(scope, replay, send_guarded)


class _Punctual(H11Protocol):
    """Closes a connection on which no whole head of a request arrives in time."""

    _closing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._closing is None:
            self._closing = self.loop.call_later(PATIENCE, self.transport.close)

    def _stop(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None


class _Trouble:
    """Tells the log why the study's file cannot be used: once, again every minute, and when it can be again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._now: tuple[str, float] | None = None

    def begins(self, error: sqlite3.Error) -> database.Cause:
        found = database.cause(error, self.path)
        if self._now is None or self._now[0] != found.what or time.monotonic() - self._now[1] > _REMIND:
            self._now = (found.what, time.monotonic())
            log.error(
                "%s: %s (%s); raters wait and keep what they answered; %s", self.path, found.what, error, found.mend
            )
        return found

    def ends(self) -> None:
        if self._now is not None:
            self._now = None
            log.warning("%s is written again", self.path)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


_Public = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{22}$")]
_Rating = Annotated[float, Field(allow_inf_nan=False)]


class Answer(_Strict):
    """A picture's ratings."""

    task: _Public
    answers: dict[str, _Rating] = Field(max_length=8)
    seconds: float = Field(ge=0, le=86400, allow_inf_nan=False)


class Undo(_Strict):
    """The picture to take back."""

    task: _Public


def create_app(folder: Path) -> FastAPI:
    """The application over the study in `folder`.

    Raises:
        DiskFull, UserError: there is no study, or it cannot be used.
    """
    connection = database.connect(folder, patience=_LOCK)
    # One connection behind a lock: a rating is some writes and one sync, and SQLite has one writer anyway.
    lock = threading.Lock()
    trouble = _Trouble(database.file_of(folder))
    media = trouble.path.with_name("media")
    try:
        with database.reading(folder):
            plan = Plan.model_validate(database.meta(connection)["plan"])
            files = database.pictures(connection)
        if gone := [file for file in files if not (media / file).is_file()]:
            raise UserError(f"{media}: {len(gone)} of {len(files)} pictures are gone, such as {gone[0]}; put them back")
    except (DiskFull, UserError):
        connection.close()
        raise
    pages = Environment(loader=FileSystemLoader(_HERE / "templates"), autoescape=select_autoescape())
    html = pages.get_template("rate.html").render(plan=plan)
    words = pages.get_template("words.html")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        yield
        connection.close()

    app = FastAPI(title=plan.title, docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)

    def reply(request: Request, status: int, title: str, text: str = "") -> Response:
        """Words for people where a browser shows what it gets, and else for the page."""
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(words.render(title=title, text=text), status)
        return JSONResponse({"error": title}, status)

    @app.exception_handler(HTTPException)
    async def missing(request: Request, error: HTTPException) -> Response:
        if error.status_code != 404:
            return reply(request, error.status_code, error.detail)
        return reply(
            request,
            404,
            "This link opens no study",
            "Look whether all of it was copied. If it was, ask whoever gave it to you for a new one.",
        )

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return JSONResponse({"error": str(error)}, status_code=error.status)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return reply(request, 422, "not an answer to this study")  # and no echo of what was sent

    @app.exception_handler(sqlite3.Error)
    async def unusable(request: Request, error: sqlite3.Error) -> Response:
        found = trouble.begins(error)
        safe = "Your ratings are safe up to here. Open your link again later."
        return reply(request, found.status, found.what, safe)

    @app.exception_handler(OSError)
    async def unreadable(request: Request, error: OSError) -> Response:
        log.error("%s cannot be read: %s", error.filename, error.strerror)
        return reply(request, 500, "a picture of the study cannot be read")

    def rater(token: str) -> int:
        found = database.rater_of(connection, token) if _TOKEN.fullmatch(token) else None
        if found is None:
            raise HTTPException(404)
        return found

    def view(token: str, task: Task) -> dict[str, Any]:
        at = f"/r/{token}/picture/{task.public}"
        return {
            "id": task.public,
            "prompt": task.prompt,
            "source": f"{at}/source",
            "result": f"{at}/result",
            "outline": f"{at}/outline" if task.outline else None,
        }

    def state(token: str, who: int) -> dict[str, Any]:
        upcoming = [view(token, task) for task in database.open_tasks(connection, who)]
        done, total = database.progress(connection, who)
        return {
            "done": done,
            "total": total,
            "task": upcoming[0] if upcoming else None,
            "next": upcoming[1] if len(upcoming) > 1 else None,
            "last": database.last_rated(connection, who),
        }

    @app.get("/r/{token}", response_class=HTMLResponse)
    def page(token: str) -> str:
        with lock:
            rater(token)
        return html

    @app.get("/r/{token}/state")
    def current(token: str) -> dict[str, Any]:
        with lock:
            return state(token, rater(token))

    @app.post("/r/{token}/answer")
    def answer(token: str, body: Answer) -> dict[str, Any]:
        with lock:
            who = rater(token)
            stored = database.answer(connection, who, body.task, body.answers, body.seconds)
            trouble.ends()
            return {"stored": stored, **state(token, who)}

    @app.post("/r/{token}/undo")
    def undo(token: str, body: Undo) -> dict[str, Any]:
        with lock:
            who = rater(token)
            undone = database.undo(connection, who, body.task)
            return {"undone": undone, **state(token, who)}

    @app.get("/r/{token}/picture/{task}/{part}")
    def picture(token: str, task: str, part: Literal["source", "result", "outline"]) -> Response:
        with lock:
            found = database.task_of(connection, rater(token), task)
        if found is None:
            raise HTTPException(404)
        file = {"source": found.source, "result": found.file, "outline": found.outline}[part]
        if file is None:
            raise HTTPException(404)
        # No ETag or Last-Modified: they would say that two raters' pictures are the same file.
        content = (media / file).read_bytes()
        return Response(content, media_type="image/png", headers={"Cache-Control": "private, max-age=86400, immutable"})

    app.add_middleware(_Guard)
    app.mount("/static", StaticFiles(directory=_HERE / "static"))
    return app


def config(folder: Path, host: str = "127.0.0.1", port: int = 8000) -> uvicorn.Config:
    """How a study is served.

    Raises:
        DiskFull, UserError: there is no study, or it cannot be used.
    """
    # No access log: it would hold the personal links, and with them who rated when.
    return uvicorn.Config(
        create_app(folder),
        host=host,
        port=port,
        http=_Punctual,
        ws="none",
        access_log=False,
        server_header=False,
        log_level="warning",
    )


def serve(folder: Path, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve a study until interrupted.

    Raises:
        DiskFull, UserError: as :func:`config`.
    """
    with suppress(KeyboardInterrupt):  # it has ended well by then
        uvicorn.Server(config(folder, host, port)).run()
