"""The page as an ASGI application, its content security policy, and the uvicorn server."""

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from scenewise.apps.app.explorer import Explorer
from scenewise.apps.app.limits import RequestLimits
from scenewise.apps.app.state import MAX_BYTES
from scenewise.errors import UserError

if TYPE_CHECKING:
    from types import FrameType

    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MAX_CONNECTIONS = 256  # uvicorn answers further connections with 503
# Gradio's front end needs inline scripts and eval; every directive keeps requests on this host.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; object-src 'none'; frame-ancestors 'self'"
)


def serve(application: "FastAPI", sock: socket.socket, host: str = "127.0.0.1") -> None:
    """Serve on ``sock``, under the name ``host`` and all addresses, until Ctrl+C."""
    import uvicorn

    config = uvicorn.Config(
        _with_policy(RequestLimits(application, host)),
        http="h11",  # also where httptools is installed: h11 limits the size of request headers
        ws="none",
        log_level="error",
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_keep_alive=5,  # seconds that an idle connection stays open after an answer
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    shut_down = server.handle_exit

    def handle_exit(sig: int, frame: "FrameType | None") -> None:
        application.state.page.stop_event.set()  # ends the event streams of open pages
        shut_down(sig, frame)

    server.handle_exit = handle_exit  # type: ignore[method-assign]
    server.run(sockets=[sock])


def build_application(explorer: Explorer) -> "FastAPI":
    """The page as an ASGI application.

    Raises:
        UserError: gradio is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio as gr
    except ImportError as error:
        raise UserError("the page needs gradio; pip install 'scenewise[app]'") from error
    from fastapi import FastAPI
    from starlette.routing import Mount

    from scenewise.apps.app.events import build_page

    # A request may give a URL instead of an uploaded image, and Gradio would download it.
    gr.processing_utils.async_ssrf_protected_download = _refuse_download
    application = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gr.mount_gradio_app(
        application,
        build_page(explorer),
        path="/",
        footer_links=[],
        run_history=False,
        show_error=True,
        max_file_size=MAX_BYTES,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        theme=gr.themes.Default(
            primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"]
        ).set(checkbox_label_padding="5px 8px", checkbox_label_gap="5px"),
        css_paths=Path(__file__).parent / "assets" / "page.css",
    )
    application.state.page = next(r.app for r in application.routes if isinstance(r, Mount))
    return application


async def _refuse_download(url: str, cache_dir: str) -> str:
    """Replaces Gradio's download: the page sends no request to any other host."""
    raise ValueError("this page does not download images; upload them")


def _with_policy(application: "ASGIApp") -> "ASGIApp":
    """``application`` with a header that keeps the browser from requesting other hosts."""

    async def with_header(scope: "Scope", receive: "Receive", send: "Send") -> None:
        async def send_with_policy(message: "Message") -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", _POLICY.encode())
                message["headers"] = [*message.get("headers", ()), policy]
            await send(message)

        await application(scope, receive, send_with_policy)

    return with_header


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens on ``port`` of ``host``.

    Raises:
        UserError: the address does not belong to this machine, or the port is in use.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"cannot serve at {host}:{port} ({error}); choose another --host or --port"
        ) from error
