"""A connection is closed when the head of its request does not come; nothing else is cut off."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

uvicorn = pytest.importorskip("uvicorn", reason="gradio is not installed")

from scenewise.apps.app import connections  # noqa: E402
from scenewise.apps.app.server import listening  # noqa: E402

HEAD = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"


async def slow(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(0.4)  # longer than a head may take
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    )
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a talk with a server whose heads may take a fifth of a second."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)

    async def run(talk: Callable[..., Awaitable[Any]]) -> Any:
        sock = listening("127.0.0.1", 0)
        config = uvicorn.Config(
            slow, http=connections.PromptProtocol, lifespan="off", log_level="error"
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        reader, writer = await asyncio.open_connection(*sock.getsockname())
        try:
            return await asyncio.wait_for(talk(reader, writer), 10)
        finally:
            writer.close()
            server.should_exit = True
            await serving

    return lambda talk: asyncio.run(run(talk))


async def end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


def test_silence(connected: Callable[..., Any]) -> None:
    async def talk(reader: Any, writer: Any) -> bytes:
        return await end(reader)

    assert connected(talk) == b""


def test_a_head_that_dawdles(connected: Callable[..., Any]) -> None:
    async def talk(reader: Any, writer: Any) -> int:
        for count, byte in enumerate(HEAD):
            writer.write(bytes([byte]))
            if reader.at_eof() or reader.exception():
                return count
            await asyncio.sleep(0.05)
            if writer.transport.is_closing():
                return count
        return len(HEAD)

    assert connected(talk) < 12


def test_a_slow_answer_comes_and_the_next_head_is_awaited_anew(
    connected: Callable[..., Any],
) -> None:
    async def talk(reader: Any, writer: Any) -> tuple[bytes, bytes]:
        writer.write(HEAD + b"\r\n")
        first = await reader.readuntil(b"ok")
        writer.write(HEAD)
        return first, await end(reader)

    first, rest = connected(talk)
    assert first.startswith(b"HTTP/1.1 200")
    assert rest == b""
