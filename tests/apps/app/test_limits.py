"""What the page refuses, without Gradio and without a network."""

import asyncio
from typing import Any

import pytest

from scenewise.apps.app.limits import Guard, Limits, is_foreign, is_known

LIMITS = Limits(
    upload_bytes=1000, body_bytes=100, hour_bytes=2500, uploads=2, posts=50, body_seconds=0.05
)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers with the length of the body."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


class Asked:
    """Requests to a guarded application."""

    def __init__(self, limits: Limits = LIMITS, application: Any = echo) -> None:
        self.guard = Guard(application, limits=limits)

    async def ask(
        self,
        *pieces: bytes,
        method: str = "POST",
        path: str = "/run",
        wait: float = 0.0,
        client: str = "127.0.0.1",
        **headers: str,
    ) -> tuple[int, bytes]:
        """Status and body of the answer."""
        told = {"host": "127.0.0.1:7860", **headers}
        named = [(k.replace("_", "-").encode(), v.encode()) for k, v in told.items()]
        scope = {"type": "http", "method": method, "path": path, "headers": named}
        rest, sent = list(pieces or [b""]), []

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(wait)
            if not rest:
                await asyncio.sleep(60)
            return {"type": "http.request", "body": rest.pop(0), "more_body": bool(rest)}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.guard({**scope, "client": (client, 1)}, receive, send)
        return sent[0]["status"], b"".join(m.get("body", b"") for m in sent)

    def __call__(self, *pieces: bytes, **options: Any) -> tuple[int, bytes]:
        return asyncio.run(self.ask(*pieces, **options))


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost", True),
        ("LOCALHOST:7860", True),
        ("127.0.0.1:7860", True),
        ("[::1]:7860", True),
        ("192.168.1.7", True),  # an address cannot be bound anew, a name can
        ("street.lab", True),  # as --host says
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example:7860", False),
        ("user@evil.example", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_names(host: str, known: bool) -> None:
    assert is_known(host, "street.lab") is known
    status, _ = asyncio.run(asking(host))
    assert status == (200 if known else 403)


async def asking(host: str) -> tuple[int, bytes]:
    asked = Asked()
    asked.guard.host = "street.lab"
    return await asked.ask(method="GET", host=host)


@pytest.mark.parametrize(
    ("headers", "foreign"),
    [
        ({}, False),
        ({"origin": "http://127.0.0.1:7860"}, False),
        ({"origin": "http://127.0.0.1:7861"}, True),
        ({"origin": "http://localhost:7860"}, True),
        ({"origin": "null"}, True),
        ({"origin": "https://evil.example"}, True),
        ({"sec-fetch-site": "same-origin"}, False),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, True),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, False),
        (
            {
                "sec-fetch-site": "cross-site",
                "sec-fetch-mode": "navigate",
                "sec-fetch-dest": "iframe",
            },
            True,
        ),
    ],
)
def test_origins(headers: dict[str, str], foreign: bool) -> None:
    assert is_foreign({"host": "127.0.0.1:7860", **headers}) is foreign
    assert Asked()(**{k.replace("-", "_"): v for k, v in headers.items()})[0] == (
        403 if foreign else 200
    )


def test_sizes() -> None:
    ask = Asked()
    assert ask(b"x" * 60, b"x" * 40) == (200, b"100")
    assert ask(b"x" * 60, b"x" * 41)[0] == 413
    assert ask(content_length="101")[0] == 413
    assert ask(content_length="-1")[0] == 413
    assert ask(b"x" * 1000, path="/gradio_api/upload") == (200, b"1000")
    assert ask(b"x" * 1001, path="/gradio_api/upload")[0] == 413


def test_uploads_of_an_hour() -> None:
    ask = Asked()
    for _ in range(2):
        assert ask(b"x" * 500, b"x" * 500, path="/gradio_api/upload")[0] == 200
    assert ask(b"x" * 500, content_length="500", path="/gradio_api/upload")[0] == 200
    assert ask(b"x" * 500, content_length="500", path="/gradio_api/upload")[0] == 413
    assert ask(b"x" * 99) == (200, b"99")  # only uploads are counted


def test_a_slow_body() -> None:
    ask = Asked()
    assert ask(*[b"x"] * 10, wait=0.02)[0] == 408
    assert ask(b"x", wait=0.02)[0] == 200


def test_an_answer_may_take_its_time_after_the_body() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.sleep(3 * LIMITS.body_seconds)
        await echo(scope, nothing, send)

    async def nothing() -> dict[str, Any]:
        return {"type": "http.request"}

    assert Asked(application=slow)(b"x")[0] == 200


def test_a_flood_from_one_address() -> None:
    async def flood() -> list[int]:
        asked = Asked()
        found = [(await asked.ask(client="10.0.0.1"))[0] for _ in range(60)]
        assert (await asked.ask(client="10.0.0.2"))[0] == 200
        assert (await asked.ask(client="10.0.0.1", method="GET"))[0] == 200
        await asyncio.sleep(0.5)
        return [*found, (await asked.ask(client="10.0.0.1"))[0]]

    found = asyncio.run(flood())
    assert found[:50] == [200] * 50
    assert found[-2] == 429
    assert found[-1] == 200
    assert len(found) == 61


def test_few_uploads_at_once() -> None:
    async def four() -> list[int]:
        asked = Asked()
        ways = [asked.ask(b"x", path="/upload", wait=0.02) for _ in range(4)]
        statuses = [status for status, _ in await asyncio.gather(*ways)]
        assert asked.guard.uploading == 0
        return statuses

    assert sorted(asyncio.run(four())) == [200, 200, 503, 503]


def test_addresses_are_not_remembered_without_end() -> None:
    async def many() -> int:
        asked = Asked()
        for number in range(3000):
            await asked.ask(client=f"10.1.{number // 256}.{number % 256}")
        return len(asked.guard._posts)

    assert asyncio.run(many()) <= 1024
