"""Request limits in front of the page: host, origin, rate, uploads at one time and body size."""

import ipaddress
import json
import logging
import socket
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from scenewise.apps.app.images import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOGGER = logging.getLogger("uvicorn.error")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_MAX_CLIENTS = 1024  # visitors whose rate is remembered; the oldest is forgotten first


class _Refusal(NamedTuple):
    """The answer to a request that breaks a limit."""

    status: int
    text: str


_TOO_LARGE = _Refusal(413, "the request body is larger than this page accepts")


@dataclass(frozen=True)
class _Limits:
    """How much the page accepts.

    Attributes:
        upload_bytes: of the body of one upload.
        body_bytes: of the body of any other request.
        uploads: at one time.
        requests: that make work, from one visitor in ten seconds, and as many in one burst.
    """

    upload_bytes: int = MAX_BYTES
    body_bytes: int = 2**18
    uploads: int = 8  # at 20 MiB each, 160 MiB arrive at one time at most
    requests: int = 600


@dataclass
class RequestLimits:
    """An ASGI middleware: requests within the limits are passed to ``application``.

    Host names are checked because a web site can point its own name at the address of this machine
    (DNS rebinding): only addresses, ``localhost`` and ``host`` are answered. A request made by a
    page of another origin is refused. Timeouts and connection limits are left to a proxy.
    """

    application: "ASGIApp"
    host: str = "127.0.0.1"
    limits: _Limits = field(default_factory=_Limits)
    uploading: int = 0
    _requests: "OrderedDict[str, tuple[float, float]]" = field(default_factory=OrderedDict)

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _answer(send, refusal)
            return
        upload = _is_upload(scope)
        self.uploading += upload  # a bool counts as 0 or 1
        try:
            await self._forward(scope, _Request(self._largest(upload), receive, send))
        finally:
            self.uploading -= upload

    async def _forward(self, scope: "Scope", request: "_Request") -> None:
        try:
            await self.application(scope, request.receive, request.send)
        except Exception as error:  # mostly of malformed requests: one line, no traceback
            line = f"{scope['method']} {scope['path']}: {error!r}"
            _LOGGER.error("%s", line.encode("unicode_escape").decode()[:200])
            if request.refusal is None:
                request.refusal = _Refusal(500, "the page cannot process this request")
        if request.refusal is not None and not request.started:
            await _answer(request.client_send, request.refusal)

    def _refusal(self, scope: "Scope") -> _Refusal | None:
        """Why the request is refused, as far as its headers show."""
        headers = {key.decode("latin-1"): v.decode("latin-1") for key, v in scope["headers"]}
        if not _is_known(headers.get("host", ""), self.host):
            return _Refusal(403, "this page is not served under that host name; use its address")
        if _is_foreign(headers):
            return _Refusal(403, "this page does not answer pages of other origins")
        has_body = scope["method"] in ("POST", "PUT", "PATCH", "DELETE")
        if not has_body and not scope["path"].startswith("/api/"):
            return None
        if not self._within_rate(visitor_of(scope)):
            return _Refusal(429, "too many requests; try again in a few seconds")
        if _is_upload(scope) and self.uploading >= self.limits.uploads:
            return _Refusal(503, "too many uploads at once; try again in a few seconds")
        length = headers.get("content-length", "0")
        fits = length.isdigit() and int(length) <= self._largest(_is_upload(scope))
        return None if fits else _TOO_LARGE

    def _largest(self, upload: bool) -> int:
        return self.limits.upload_bytes if upload else self.limits.body_bytes

    def _within_rate(self, client: str) -> bool:
        """A token bucket of ``requests`` tokens for each visitor, refilled in ten seconds."""
        now, capacity = time.monotonic(), float(self.limits.requests)
        tokens, last = self._requests.pop(client, (capacity, now))
        tokens = min(capacity, tokens + (now - last) * capacity / 10)
        self._requests[client] = (max(0.0, tokens - 1), now)  # now the youngest entry
        if len(self._requests) > _MAX_CLIENTS:
            self._requests.popitem(last=False)
        return tokens >= 1


@dataclass
class _Request:
    """One request: its body is counted as it arrives, whatever its length header claims."""

    limit: int
    client_receive: "Receive"
    client_send: "Send"
    refusal: _Refusal | None = None
    started: bool = False
    _received: int = 0

    async def receive(self) -> "Message":
        """The next part of the body; past the limit, the application sees a closed connection."""
        message = await self.client_receive()
        self._received += len(message.get("body", b""))
        if self._received > self.limit:
            self.refusal = _TOO_LARGE
            return {"type": "http.disconnect"}
        return message

    async def send(self, message: "Message") -> None:
        """Forward the application's answer, unless the request was refused in the meantime."""
        if self.refusal is None:
            self.started = True
            await self.client_send(message)


def _is_known(name: str, host: str) -> bool:
    """Whether a ``Host`` header holds an address, ``localhost``, ``host`` or the machine's name.

    >>> _is_known("127.0.0.1:7860", "127.0.0.1"), _is_known("[::1]:7860", "127.0.0.1")
    (True, True)
    >>> _is_known("evil.example:7860", "127.0.0.1"), _is_known("", "127.0.0.1")
    (False, False)
    """
    try:
        hostname = urlsplit(f"//{name}").hostname or ""
    except ValueError:
        return False
    if hostname in (*_LOOPBACK, host.lower(), socket.gethostname().lower()):
        return True
    try:
        ipaddress.ip_address(hostname)  # an address cannot be rebound, a name can
    except ValueError:
        return False
    return True


def _is_foreign(headers: "Mapping[str, str]") -> bool:
    """Whether a page of another origin made the request; following a link to this page is allowed.

    >>> _is_foreign({"host": "localhost:7860", "origin": "http://localhost:7860"})
    False
    >>> _is_foreign({"host": "localhost:7860", "origin": "https://evil.example"})
    True
    """
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != headers.get("host"):  # scheme aside
        return True
    link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") != "iframe"
    return headers.get("sec-fetch-site") in ("cross-site", "same-site") and not link


def visitor_of(scope: "Mapping[str, Any]") -> str:
    """Who makes a request: the address; of IPv6 the network of 64 bits, all of which one has.

    >>> visitor_of({"client": ("2001:db8:1:2:3::4", 1)}), visitor_of({"client": ("10.0.0.7", 1)})
    ('2001:db8:1:2::/64', '10.0.0.7')
    """
    name: str = (scope.get("client") or ("",))[0]
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name
    if isinstance(address, ipaddress.IPv4Address):
        return name
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), 64), strict=False))


def _is_upload(scope: "Scope") -> bool:
    path: str = scope["path"]
    return bool(scope["method"] == "POST") and path == "/api/images"


async def _answer(send: "Send", refusal: _Refusal) -> None:
    text = json.dumps({"error": f"{refusal.text[0].upper()}{refusal.text[1:]}."}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(text)).encode()),
        (b"connection", b"close"),  # what is left of the body is not read
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
