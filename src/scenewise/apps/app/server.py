"""The page as an ASGI application, its content security policy, and the uvicorn server."""

import asyncio
import mimetypes
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from scenewise.apps.app.explorer import Explorer, UnknownModel
from scenewise.apps.app.images import UnknownImage
from scenewise.apps.app.limits import RequestLimits
from scenewise.apps.app.work import Busy, Work
from scenewise.errors import UserError

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ASSETS = Path(__file__).parent / "assets"
_MAX_CONNECTIONS = 256  # uvicorn answers further connections with 503
_MINUTE = 60  # seconds
_STATUS: dict[type[UserError], int] = {UnknownImage: 404, UnknownModel: 404, Busy: 503}
_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; "
    "script-src 'self'; style-src 'self'; connect-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


def serve(application: "FastAPI", sock: socket.socket, host: str = "127.0.0.1") -> None:
    """Serve on ``sock``, under the name ``host`` and all addresses, until Ctrl+C."""
    import uvicorn

    config = uvicorn.Config(
        guarded(application, host),
        http="h11",  # also where httptools is installed: h11 limits the size of request headers
        ws="none",
        log_level="error",
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_keep_alive=5,  # seconds that an idle connection stays open after an answer
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[sock])


def guarded(application: "ASGIApp", host: str = "127.0.0.1") -> "ASGIApp":
    """``application`` behind the limits on requests, with the headers that protect visitors."""
    return _with_headers(RequestLimits(application, host))


def build_application(explorer: Explorer) -> "FastAPI":
    """The page as an ASGI application.

    Raises:
        UserError: fastapi or uvicorn is not installed, or there are no samples.
    """
    try:
        import uvicorn  # noqa: F401 - serve needs it
        from fastapi import FastAPI
    except ImportError as error:
        raise UserError("the page needs fastapi; pip install 'scenewise[app]'") from error

    from scenewise.apps.app.api import Routes

    explorer.images.samples  # noqa: B018 - a wrong folder is reported before the page is served
    work = Work()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        work.start(explorer.example)  # the first visitor finds it ready
        cleaning = asyncio.create_task(_clean(explorer))
        try:
            yield
        finally:
            cleaning.cancel()
            work.close()

    application = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    application.include_router(Routes(explorer, work).router)
    _add_files(application)
    _add_errors(application)
    return application


async def _clean(explorer: Explorer) -> None:
    """Forget old images, also while nobody asks for anything."""
    while True:
        await asyncio.sleep(_MINUTE)
        explorer.images.forget()


def _add_files(application: "FastAPI") -> None:
    """The static files, which are read when the page is built."""
    from fastapi import HTTPException, Response

    contents = {path.name: path.read_bytes() for path in _ASSETS.iterdir() if path.is_file()}

    def file(name: str) -> Response:
        if name not in contents:
            raise HTTPException(404)
        kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0]
        return Response(contents[name], media_type=kind, headers={"cache-control": "no-cache"})

    application.add_api_route("/", lambda: file("index.html"), response_model=None)
    application.add_api_route("/assets/{name}", file, response_model=None)


def _add_errors(application: "FastAPI") -> None:
    """Every error is JSON with one sentence."""
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException

    from scenewise.apps.app.api import sentence

    def of_user(_: "Request", error: Exception) -> "Response":
        assert isinstance(error, UserError)
        status = _STATUS.get(type(error), 400)
        return JSONResponse({"error": sentence(error)}, status)

    def of_values(_: "Request", error: Exception) -> "Response":
        assert isinstance(error, RequestValidationError)
        names = {str(part["loc"][-1]) for part in error.errors()}
        text = f"The request lacks a valid {' and '.join(sorted(names))}."
        return JSONResponse({"error": text}, 422)

    def of_address(_: "Request", error: Exception) -> "Response":
        assert isinstance(error, HTTPException)
        text = "There is nothing at this address."
        return JSONResponse({"error": text}, error.status_code)

    application.add_exception_handler(UserError, of_user)
    application.add_exception_handler(RequestValidationError, of_values)
    application.add_exception_handler(HTTPException, of_address)


def _with_headers(application: "ASGIApp") -> "ASGIApp":
    """``application`` with headers that keep the browser from requesting other hosts."""
    extra = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]

    async def with_headers(scope: "Scope", receive: "Receive", send: "Send") -> None:
        async def send_with_headers(message: "Message") -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), *extra]
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))  # images of visitors
                message["headers"] = headers
            await send(message)

        await application(scope, receive, send_with_headers)

    return with_headers


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
