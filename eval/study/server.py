"""The web page that raters use: FastAPI over the study's file.

A personal link ``/r/<token>`` is the only key.  A browser sees prompts, pictures under names drawn at random for this
rater alone, and how far the rater is: no method, sample or file name, in neither addresses nor headers nor pictures.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, select_autoescape
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cpam_bench.eval.study import database
from cpam_bench.eval.study.database import Refused, Task
from cpam_bench.eval.study.design import Plan
from cpam_bench.imba.errors import UserError

_HERE = Path(__file__).parent
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
_BODY = 8192  # bytes that a request may have

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
    """Adds the headers to every response, and refuses a body that is too long or does not say how long it is."""

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

        if scope["type"] == "http" and scope["method"] == "POST":
            length = Headers(scope=scope).get("content-length", "")
            if not length.isdigit() or int(length) > _BODY:
                await Response(status_code=413)(scope, receive, send_guarded)
                return
        await self.app(scope, receive, send_guarded)


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
        UserError: there is no study, or it is damaged.
    """
    connection = database.connect(folder)
    # One connection behind a lock: a rating is some writes and one sync, and SQLite has one writer anyway.
    lock = threading.Lock()
    try:
        plan = Plan.model_validate(database.meta(connection)["plan"])
    except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
        connection.close()
        line = str(error).partition("\n")[0]
        raise UserError(f"{folder}: the study is damaged ({line}); put back a copy of it") from error
    media = folder / "media"
    pages = Environment(loader=FileSystemLoader(_HERE / "templates"), autoescape=select_autoescape())
    html = pages.get_template("rate.html").render(plan=plan)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        yield
        connection.close()

    app = FastAPI(title=plan.title, docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return JSONResponse({"error": str(error)}, status_code=error.status)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return JSONResponse({"error": "not an answer to this study"}, status_code=422)  # and no echo of what was sent

    @app.exception_handler(sqlite3.OperationalError)
    async def busy(request: Request, error: sqlite3.OperationalError) -> Response:
        return JSONResponse({"error": "the study is busy, try again"}, status_code=503)

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


def serve(folder: Path, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve a study until interrupted.

    Raises:
        UserError: there is no study, or it is damaged.
    """
    # No access log: it would hold the personal links, and with them who rated when.
    uvicorn.run(
        create_app(folder), host=host, port=port, access_log=False, server_header=False, log_level="warning", workers=1
    )
