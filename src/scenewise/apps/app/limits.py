"""What the page refuses before anything else sees it: strangers, floods, and endless bodies."""

import asyncio
import ipaddress
import logging
import socket
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from scenewise.apps.app.state import MAX_BYTES, MAX_SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOGGER = logging.getLogger("uvicorn.error")
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Refusal(NamedTuple):
    """An answer instead of the page's."""

    status: int
    text: str


@dataclass(frozen=True)
class Limits:
    """How much the page takes.

    Attributes:
        upload_bytes: of one uploaded picture with what surrounds it.
        body_bytes: of any other request.
        hour_bytes: of all uploads in the time for which they are kept.
        uploads: at one time.
        posts: of one address at once; as many more come in ten seconds.
        body_seconds: until a body has come.
        send_seconds: until a piece of an answer is taken.
    """

    upload_bytes: int = MAX_BYTES + 2**16
    body_bytes: int = 2**18
    hour_bytes: int = 2**31
    uploads: int = 8
    posts: int = 300
    body_seconds: float = 20.0
    send_seconds: float = 30.0


@dataclass
class Guard:
    """An ASGI application in front of another one, which it passes what is in its limits.

    Names are checked because a web site can give its own name the address of this machine (DNS
    rebinding): only addresses, ``localhost`` and ``host`` are answered. A request that a page of
    another origin makes is refused.
    """

    application: "ASGIApp"
    host: str = "127.0.0.1"
    limits: Limits = field(default_factory=Limits)
    uploading: int = 0
    _uploads: "deque[tuple[float, int]]" = field(default_factory=deque)  # time, bytes
    _posts: "OrderedDict[str, tuple[float, float]]" = field(default_factory=OrderedDict)

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        refusal = self.refusal(scope)
        if refusal is not None:
            await _answer(send, refusal)
            return
        upload = is_upload(scope)
        self.uploading += upload
        try:
            await self._pass(Body(self, upload, receive, send), scope)
        finally:
            self.uploading -= upload

    async def _pass(self, body: "Body", scope: "Scope") -> None:
        try:
            await self.application(scope, body.receive, body.send)
        except Exception as error:  # of garbage, mostly; no traceback for each
            what = f"{scope['method']} {scope['path']}: {error!r}"
            LOGGER.error("%s", what.encode("unicode_escape").decode()[:200])
            if not body.started and body.refusal is None:
                body.refusal = Refusal(500, "this request made no sense to the page")
        if body.refusal is not None and not body.started:
            await _answer(body.plain_send, body.refusal)

    def refusal(self, scope: "Scope") -> Refusal | None:
        """Why a request is not passed on, as far as its head tells."""
        headers = {key.decode("latin-1"): v.decode("latin-1") for key, v in scope["headers"]}
        if not is_known(headers.get("host", ""), self.host):
            return Refusal(403, "this page is not served under that name; use its address")
        if is_foreign(headers):
            return Refusal(403, "this page does not answer to pages of other origins")
        if scope["method"] not in ("POST", "PUT", "PATCH", "DELETE"):
            return None
        client = (scope.get("client") or ("",))[0]
        if not self._may_post(client):
            return Refusal(429, "too many requests; wait a few seconds")
        if is_upload(scope) and self.uploading >= self.limits.uploads:
            return Refusal(503, "too many uploads at once; try again in a few seconds")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.largest(is_upload(scope)):
            return Refusal(413, "that is larger than this page takes")
        return None

    def largest(self, upload: bool) -> int:
        """Bytes that a body may have now."""
        if not upload:
            return self.limits.body_bytes
        while self._uploads and self._uploads[0][0] < time.monotonic() - MAX_SECONDS:
            self._uploads.popleft()
        left = self.limits.hour_bytes - sum(size for _, size in self._uploads)
        return min(self.limits.upload_bytes, left)

    def uploaded(self, size: int) -> None:
        """Count bytes of an upload; those of one second are counted together."""
        now = float(int(time.monotonic()))
        if self._uploads and self._uploads[-1][0] == now:
            size += self._uploads.pop()[1]
        self._uploads.append((now, size))

    def _may_post(self, client: str) -> bool:
        """A bucket of ``posts`` for each address, filled again in ten seconds."""
        now, most = time.monotonic(), self.limits.posts
        left, last = self._posts.pop(client, (float(most), now))
        left = min(float(most), left + (now - last) * most / 10)
        self._posts[client] = (max(0.0, left - 1), now)
        if len(self._posts) > 1024:
            self._posts.popitem(last=False)
        return left >= 1


@dataclass
class Body:
    """One request on its way: its body comes in time and in size, its answer is taken in time."""

    guard: Guard
    upload: bool
    plain_receive: "Receive"
    plain_send: "Send"
    refusal: Refusal | None = None
    started: bool = False
    _seen: int = 0
    _whole: bool = False
    _until: float | None = None

    async def receive(self) -> "Message":
        """The next piece of the body; where it breaks a limit, the client is said to be gone."""
        if self._whole:
            return await self.plain_receive()
        limits = self.guard.limits
        self._until = self._until or time.monotonic() + limits.body_seconds
        try:
            async with asyncio.timeout(max(0.0, self._until - time.monotonic())):
                message = await self.plain_receive()
        except TimeoutError:
            return self._refuse(408, "the request did not come to its end in time")
        size, left = len(message.get("body", b"")), self.guard.largest(self.upload)
        self._seen += size
        if self.upload:
            self.guard.uploaded(size)
        if size > left or self._seen > (limits.upload_bytes if self.upload else left):
            return self._refuse(413, "that is larger than this page takes")
        self._whole = not message.get("more_body", False)
        return message

    def _refuse(self, status: int, text: str) -> "Message":
        self.refusal = Refusal(status, text)
        return {"type": "http.disconnect"}

    async def send(self, message: "Message") -> None:
        """Pass the application's answer on, unless the request was refused meanwhile."""
        if self.refusal is not None:
            return
        self.started = True
        async with asyncio.timeout(self.guard.limits.send_seconds):
            await self.plain_send(message)


def is_known(name: str, host: str) -> bool:
    """Whether a ``Host`` header names this machine by an address, or as it was told.

    >>> is_known("127.0.0.1:7860", "127.0.0.1"), is_known("[::1]:7860", "127.0.0.1")
    (True, True)
    >>> is_known("evil.example:7860", "127.0.0.1"), is_known("", "127.0.0.1")
    (False, False)
    """
    try:
        found = urlsplit(f"//{name}").hostname or ""
    except ValueError:
        return False
    if found in (*LOOPBACK, host.lower(), socket.gethostname().lower()):
        return True
    try:
        ipaddress.ip_address(found)
    except ValueError:
        return False
    return True


def is_foreign(headers: "Mapping[str, str]") -> bool:
    """Whether a page of another origin asks; following a link to this page is no such request.

    >>> is_foreign({"host": "localhost:7860", "origin": "http://localhost:7860"})
    False
    >>> is_foreign({"host": "localhost:7860", "origin": "https://evil.example"})
    True
    """
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != headers.get("host"):
        return True
    link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") != "iframe"
    return headers.get("sec-fetch-site") in ("cross-site", "same-site") and not link


def is_upload(scope: "Scope") -> bool:
    """Whether a request brings a picture."""
    path: str = scope["path"]
    return bool(scope["method"] == "POST") and path.rstrip("/").endswith("/upload")


async def _answer(send: "Send", refusal: Refusal) -> None:
    text = refusal.text.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(text)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
