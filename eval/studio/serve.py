"""Serving the studio's pages, on this machine alone."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpam_bench.imba.errors import UserError
from cpam_bench.imba.masking.segmenters import for_clicks

if TYPE_CHECKING:
    from cpam_bench.cpam.backbone import Backbone

HOST = "127.0.0.1"
SAMPLES = Path("results/samples")
"""Data set of the samples that are saved, under the working directory."""

BODY = 65 << 20
"""Bytes that a request may have: a picture of 64 MiB and what is around it."""

KEPT = 2 << 30
"""Bytes of uploads and shown pictures that are kept; the oldest go first."""

TABS = 1000
"""Tabs that are kept, open or not; the one that was left alone longest goes first."""

# Gradio's page carries its scripts and styles inline; nothing may come from, or go, elsewhere.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:;"
    " frame-ancestors 'none'"
)


def serve_studio(backbone: Backbone, collect: Path | None, segmenter: str, port: int, browse: bool = False) -> None:
    """Serve the studio until it is stopped."""
    _require_gradio()
    from cpam_bench.eval.studio.page import studio_page
    from cpam_bench.eval.studio.session import Studio

    studio = Studio(backbone, for_clicks(segmenter, str(backbone.device)), collect or SAMPLES)
    with uploads():
        serve(studio_page(studio), port, browse)


def serve_annotation(dataset: Path, port: int, browse: bool = False, segmenter: str = "auto") -> None:
    """Serve the page on which a data set's missing masks are drawn, until it is stopped."""
    _require_gradio()
    from cpam_bench.eval.studio.page import annotation_page
    from cpam_bench.eval.studio.session import Studio

    with uploads():
        serve(annotation_page(Studio(None, for_clicks(segmenter), dataset)), port, browse)


@contextmanager
def uploads() -> Iterator[Path]:
    """A folder that nobody else can read, for uploads to the pages that are made and served meanwhile."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    with tempfile.TemporaryDirectory(prefix="cpam-bench-studio-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield Path(folder)
        finally:
            if before is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = before


def serve(page: Any, port: int, browse: bool) -> None:
    """Serve a page until it is stopped; it ends in good order on SIGTERM too.

    Raises:
        UserError: the port is taken.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    launch(page, port, browse)
    print(f"http://{HOST}:{port}", flush=True)
    page.block_thread()


def launch(page: Any, port: int, browse: bool = False) -> None:
    """Begin to serve a page that was made within :func:`uploads`.

    Raises:
        UserError: the port is taken.
    """
    import gradio as gr
    from gradio.themes.utils import fonts
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(f"port {port} of this machine is taken ({error.strerror}); give another --port") from error
    theme = gr.themes.Default(
        font=[fonts.Font("system-ui"), fonts.Font("sans-serif")],
        font_mono=[fonts.Font("ui-monospace"), fonts.Font("monospace")],
    )
    page.queue(default_concurrency_limit=4, max_size=64, api_open=False)
    page.launch(
        server_name=HOST,
        server_port=port,
        inbrowser=browse,
        share=False,
        quiet=True,
        show_error=True,
        prevent_thread_lock=True,
        footer_links=[],
        run_history=False,
        max_file_size="64mb",
        state_session_capacity=TABS,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=theme,
        # Another site's page must not reach this one under a name of its own (DNS rebinding).
        app_kwargs={
            "middleware": [
                Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]),
                Middleware(Door, folder=Path(os.environ["GRADIO_TEMP_DIR"])),
                Middleware(_ContentPolicy),
            ]
        },
    )


class Door:
    """ASGI middleware: only this server's own pages may send anything, and not without end.

    A request that changes something is refused where its ``Origin`` is not its ``Host``, since any web page can make a
    browser send one here.  A body is counted as it comes.  The folder of uploads is kept below :data:`KEPT`.
    """

    def __init__(self, app: Any, folder: Path):
        self.app = app
        self.folder = folder

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get(b"origin")
        if origin is not None and origin.partition("://")[2] != headers.get(b"host"):
            await _refuse(send, 403, "sent by another page than the studio's")
            return
        await asyncio.to_thread(trim, self.folder, KEPT)
        length = headers.get(b"content-length", "0")
        arrived = int(length) if length.isdigit() and int(length) > BODY else 0
        answering = False

        async def counted() -> Any:
            nonlocal arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            return message if arrived <= BODY else {"type": "http.disconnect"}

        async def noted(message: Any) -> None:
            nonlocal answering
            if arrived <= BODY or answering:
                answering = True
                await send(message)

        if arrived <= BODY:
            try:
                await self.app(scope, counted, noted)
            except Exception:
                if arrived <= BODY or answering:
                    raise
        if arrived > BODY and not answering:
            await _refuse(send, 413, "more than the studio takes")


async def _refuse(send: Any, status: int, words: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": words.encode()})


def trim(folder: Path, most: int) -> None:
    """Delete the oldest files below a folder until the rest has ``most`` bytes at most."""
    found = []
    for path in folder.rglob("*"):
        with suppress(OSError):  # it has gone meanwhile
            if path.is_file():
                found.append((path.stat().st_mtime, path.stat().st_size, path))
    size = sum(bytes for _, bytes, _ in found)
    for _, bytes, path in sorted(found):
        if size <= most:
            break
        path.unlink(missing_ok=True)
        size -= bytes


class _ContentPolicy:
    """ASGI middleware that sends the content security policy with every answer."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", _POLICY.encode())]
            await send(message)

        await self.app(scope, receive, with_policy if scope["type"] == "http" else send)


def _require_gradio() -> None:
    import importlib.util

    if importlib.util.find_spec("gradio") is None:
        raise UserError("the studio needs Gradio; install it with: pip install 'cpam-bench[studio]'")
