"""Requests that the page refuses, without a network."""

import asyncio
from typing import Any

import pytest

from scenewise.apps.app.limits import RequestLimits, _is_foreign, _is_known, _Limits, visitor_of

LIMITS = _Limits(upload_bytes=1000, body_bytes=100, uploads=2, requests=50)


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


class Client:
    """Requests to an application behind the limits."""

    def __init__(self, limits: _Limits = LIMITS, application: Any = echo) -> None:
        self.page = RequestLimits(application, limits=limits)

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
        lines = {"host": "127.0.0.1:7860", **headers}
        encoded = [(k.replace("_", "-").encode(), v.encode()) for k, v in lines.items()]
        scope = {"type": "http", "method": method, "path": path, "headers": encoded}
        rest, sent = list(pieces or [b""]), []

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(wait)
            if not rest:
                await asyncio.sleep(60)
            return {"type": "http.request", "body": rest.pop(0), "more_body": bool(rest)}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.page({**scope, "client": (client, 1)}, receive, send)
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
def test_host_names(host: str, known: bool) -> None:
    assert _is_known(host, "street.lab") is known
    status, _ = asyncio.run(asking(host))
    assert status == (200 if known else 403)


async def asking(host: str) -> tuple[int, bytes]:
    client = Client()
    client.page.host = "street.lab"
    return await client.ask(method="GET", host=host)


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
    assert _is_foreign({"host": "127.0.0.1:7860", **headers}) is foreign
    assert Client()(**{k.replace("-", "_"): v for k, v in headers.items()})[0] == (
        403 if foreign else 200
    )


def test_sizes() -> None:
    ask = Client()
    assert ask(b"x" * 60, b"x" * 40) == (200, b"100")
    assert ask(b"x" * 60, b"x" * 41)[0] == 413
    assert ask(content_length="101")[0] == 413
    assert ask(content_length="-1")[0] == 413
    assert ask(b"x" * 1000, path="/api/images") == (200, b"1000")
    assert ask(b"x" * 1001, path="/api/images")[0] == 413


def test_an_upload_of_any_path_but_upload_is_a_small_body() -> None:
    ask = Client()
    assert ask(b"x" * 101, path="/api/images/../run")[0] == 413
    assert ask(b"x" * 101, method="PUT", path="/api/images")[0] == 413


def test_an_error_of_the_application_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("\x1b[2J")

    status, text = Client(application=broken)(b"x")
    assert (status, text) == (
        500,
        b'{"error": "The page cannot process this request."}',
    )
    (record,) = caplog.records
    assert record.getMessage().startswith("POST /run: KeyError")
    assert record.getMessage().isprintable()
    assert record.exc_info is None


def test_an_answer_that_has_begun_is_not_followed_by_another() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise KeyError("x")

    assert Client(application=broken)(b"x") == (200, b"")


def test_the_rate_of_one_address() -> None:
    async def flood() -> list[int]:
        client = Client()
        statuses = [(await client.ask(client="10.0.0.1"))[0] for _ in range(60)]
        assert (await client.ask(client="10.0.0.2"))[0] == 200
        assert (await client.ask(client="10.0.0.1", method="GET", path="/"))[0] == 200
        work = await client.ask(client="10.0.0.1", method="GET", path="/api/attention")
        assert work == (429, b'{"error": "Too many requests; try again in a few seconds."}')
        await asyncio.sleep(0.5)
        return [*statuses, (await client.ask(client="10.0.0.1"))[0]]

    statuses = asyncio.run(flood())
    assert statuses[:50] == [200] * 50
    assert statuses[-2] == 429
    assert statuses[-1] == 200
    assert len(statuses) == 61


@pytest.mark.parametrize(
    ("address", "visitor"),
    [
        ("192.168.1.7", "192.168.1.7"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
    ],
)
def test_visitors(address: str, visitor: str) -> None:
    assert visitor_of({"client": (address, 1)}) == visitor
    assert visitor_of({"client": None}) == visitor_of({}) == ""


def test_uploads_at_one_time() -> None:
    async def four() -> list[int]:
        client = Client()
        requests = [client.ask(b"x", path="/api/images", wait=0.02) for _ in range(4)]
        statuses = [status for status, _ in await asyncio.gather(*requests)]
        assert client.page.uploading == 0
        return statuses

    assert sorted(asyncio.run(four())) == [200, 200, 503, 503]


def test_the_number_of_remembered_addresses_is_bounded() -> None:
    async def many() -> int:
        client = Client()
        for number in range(3000):
            await client.ask(client=f"10.1.{number // 256}.{number % 256}")
        return len(client.page._requests)

    assert asyncio.run(many()) <= 1024
