"""Serving the studio's pages, on this machine alone."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpam_bench.imba.errors import UserError
from cpam_bench.imba.masking.segmenters import for_clicks

if TYPE_CHECKING:
    from cpam_bench.cpam.backbone import Backbone

HOST = "127.0.0.1"
SAMPLES = Path("results/samples")
"""Data set of the samples that are saved, under the working directory."""

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
    launch(studio_page(studio), port, browse)


def serve_annotation(dataset: Path, port: int, browse: bool = False, segmenter: str = "auto") -> None:
    """Serve the page on which a data set's missing masks are drawn, until it is stopped."""
    _require_gradio()
    from cpam_bench.eval.studio.page import annotation_page
    from cpam_bench.eval.studio.session import Studio

    launch(annotation_page(Studio(None, for_clicks(segmenter), dataset)), port, browse)


def launch(page: Any, port: int, browse: bool) -> None:
    """Serve a page.

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
        state_session_capacity=64,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=theme,
        # Another site's page must not reach this one under a name of its own (DNS rebinding).
        app_kwargs={
            "middleware": [
                Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]),
                Middleware(_ContentPolicy),
            ]
        },
    )
    print(f"http://{HOST}:{port}", flush=True)
    page.block_thread()


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
