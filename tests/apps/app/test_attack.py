"""A short attack on the real page; ``python -m bench.attack`` makes a long one."""

import socket
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed")

from bench.attack import attack
from bench.browser import running
from tests.apps.app.conftest import CLASSES
from tests.toy_model import random_danet


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_attack(tmp_path: Path) -> None:
    random_danet(CLASSES).save_pretrained(tmp_path / "danet")
    with running(tmp_path / "danet") as (address, process):
        report = attack(address, process.pid, clients=12, seconds=3)
        assert process.poll() is None
        connections_are_limited(address)
    assert report["same_answers_after"]
    assert report["clients_left"] == 0
    assert report["memory_after_mb"] < report["memory_before_mb"] + 100
    assert report["attacks"] > 20
    ends = report["ends"]
    assert ends["other_origin: 403"] > 0
    assert {end for end in ends if end.startswith("other_origin")} == {"other_origin: 403"}
    assert not any(end.endswith(": 200") and end.startswith("too_long") for end in ends)


def connections_are_limited(address: str) -> None:
    """Of 300 idle connections, 256 are kept; a further request gets 503, and 200 after them."""
    place = (urlsplit(address).hostname, urlsplit(address).port)
    with ExitStack() as idle:
        for _ in range(300):
            idle.enter_context(socket.create_connection(place, timeout=10))
        assert status(place) == 503
    assert status(place) == 200


def status(place: tuple[str | None, int | None]) -> int:
    with socket.create_connection(place, timeout=10) as sock:
        sock.sendall(b"GET /api/models HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        return int(sock.recv(64).split()[1])


def test_only_this_machine_is_attacked() -> None:
    with pytest.raises(ValueError, match=r"only a page on 127\.0\.0\.1"):
        attack("http://example.org:80", 1, 1, 1)
