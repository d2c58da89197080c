"""The page of ``scenewise app`` under attack: malformed, slow and aborted requests.

    python -m bench.attack                      # 50 clients, one minute
    python -m bench.attack --clients 8 --seconds 5

Starts a page of its own with a small network on 127.0.0.1, attacks only that one, ends by itself,
and prints JSON: how the requests ended, the memory of the page, and whether a visitor gets the same
answers after the attack as before it.
"""

import argparse
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import torch

from bench.browser import running
from bench.visitor import Visitor
from scenewise import create_model

_Attack = Callable[[socket.socket, random.Random, float], None]
_MOST = (100, 300)  # clients, seconds


def main() -> None:
    """Attack and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = create_model("danet", num_classes=5, backbone="tiny")
        model.save_pretrained(Path(folder, "danet"))
        with running(Path(folder, "danet")) as (address, process):
            print(json.dumps(attack(address, process.pid, args.clients, args.seconds), indent=2))


def attack(address: str, pid: int, clients: int, seconds: float) -> dict[str, Any]:
    """Attack the page at ``address``, which the process ``pid`` of this machine serves."""
    if urlsplit(address).hostname != "127.0.0.1":
        raise ValueError(f"only a page on 127.0.0.1 may be attacked, not {address}")
    clients, seconds = min(clients, _MOST[0]), min(seconds, _MOST[1])
    before = answers(address)
    answers(address)  # again: what is loaded on the first requests is not growth
    memory, ends = [resident(pid)], Counter[str]()
    until = time.monotonic() + seconds
    place = (urlsplit(address).hostname or "", urlsplit(address).port or 0)
    threads = [
        threading.Thread(target=_client, args=(place, seed, until, ends), daemon=True)
        for seed in range(clients)
    ]
    for thread in threads:
        thread.start()
    while time.monotonic() < until:
        time.sleep(0.2)
        memory.append(resident(pid))
    for thread in threads:
        thread.join(30)
    start = time.monotonic()
    after = answers(address)
    return {
        "clients": clients,
        "seconds": seconds,
        "attacks": sum(ends.values()),
        "ends": dict(ends.most_common()),
        "clients_left": sum(thread.is_alive() for thread in threads),
        "memory_before_mb": round(memory[0] / 1e6),
        "memory_most_mb": round(max(memory) / 1e6),
        "memory_after_mb": round(resident(pid) / 1e6),
        "open_files_after": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "same_answers_after": after == before,
        "seconds_to_answer_after": round(time.monotonic() - start, 2),
    }


def answers(address: str) -> list[Any]:
    """The page's answers to a sample and to two clicks on it."""
    visitor = Visitor(address)
    return [visitor.take(1), visitor.pick(20, 30), visitor.pick(50, 120)]


def resident(pid: int) -> int:
    """Resident memory of the process in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def _client(place: tuple[str, int], seed: int, until: float, ends: Counter[str]) -> None:
    """One client: attacks of all kinds in a random order, and how each one ended."""
    chance = random.Random(seed)
    while time.monotonic() < until:
        make = chance.choice(_ATTACKS)
        try:
            with socket.create_connection(place, timeout=5) as sock:
                make(sock, chance, until)
                end = _ending(sock) if make not in (_hang_up, _garbage, _abandoned) else "hung up"
        except OSError as error:
            end = type(error).__name__
        ends[f"{make.__name__[1:]}: {end}"] += 1


def _ending(sock: socket.socket) -> str:
    """The status code of the answer, or "closed"."""
    sock.settimeout(5)
    line = sock.recv(64).split(b"\r\n")[0].split()
    return line[1].decode("latin-1") if len(line) > 1 else "closed"


def _garbage(sock: socket.socket, chance: random.Random, until: float) -> None:
    """Bytes that are not HTTP."""
    sock.sendall(chance.randbytes(chance.randint(1, 100_000)))


def _long_head(sock: socket.socket, chance: random.Random, until: float) -> None:
    """Request headers without end."""
    sock.sendall(b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 50_000)


def _slow_head(sock: socket.socket, chance: random.Random, until: float) -> None:
    """Request headers that arrive byte by byte."""
    for byte in b"GET /api/models HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: " + b"y" * 200:
        if time.monotonic() > until:
            return
        sock.sendall(bytes([byte]))
        time.sleep(0.2)


def _slow_body(sock: socket.socket, chance: random.Random, until: float) -> None:
    """A request body that arrives byte by byte."""
    sock.sendall(_head("POST", chance.choice(_PATHS), length=1000))
    for _ in range(200):
        if time.monotonic() > until:
            return
        sock.sendall(b"{")
        time.sleep(0.2)


def _hang_up(sock: socket.socket, chance: random.Random, until: float) -> None:
    """A connection that is closed in the middle of the body, or before the answer."""
    if chance.random() < 0.5:
        sock.sendall(_head("POST", _UPLOAD, length=10_000_000) + chance.randbytes(50_000))
    else:
        path = chance.choice(("/", "/api/models", "/api/images/sample-0", _EFFECT))
        sock.sendall(_head("GET", path))


def _bad_json(sock: socket.socket, chance: random.Random, until: float) -> None:
    """A body that is not JSON, or not a request of the page."""
    body = chance.choice(
        (
            b"{" * 50_000,
            b"[]",
            chance.randbytes(500),
            json.dumps({"image": "sample-1", "model": "0", "without": chance.random()}),
            json.dumps({"image": "../../secret", "model": "-1"}),
            json.dumps({"image": ["sample-1"], "model": {"0": 1e300}}),
            json.dumps({"image": "sample-1", "model": "0", "without": "head"}),
        )
    )
    body = body.encode() if isinstance(body, str) else body
    sock.sendall(_head("POST", chance.choice(_PATHS), length=len(body)) + body)


def _too_long(sock: socket.socket, chance: random.Random, until: float) -> None:
    """A body larger than any upload: by its length header, or in endless chunks."""
    if chance.random() < 0.5:
        sock.sendall(_head("POST", _UPLOAD, length=10**12) + bytes(10_000))
        return
    sock.sendall(_head("POST", chance.choice((_UPLOAD, *_PATHS)), chunked=True))
    for _ in range(400):
        sock.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")


def _not_an_image(sock: socket.socket, chance: random.Random, until: float) -> None:
    """An upload that is not an image, under a strange name."""
    body = chance.choice((b"", b"\x89PNG\r\n\x1a\n")) + chance.randbytes(chance.randint(0, 200_000))
    name = "X-Name: " + chance.choice(
        ("%ff%00", "../../a.png", "%0d%0aX-A:%20b", "\xe9", "%" * 999)
    )
    sock.sendall(_head("POST", _UPLOAD, length=len(body), kind="image/png", more=name) + body)


def _abandoned(sock: socket.socket, chance: random.Random, until: float) -> None:
    """A prediction that nobody waits for."""
    body = json.dumps({"image": f"sample-{chance.randint(0, 5)}", "model": "0"}).encode()
    sock.sendall(_head("POST", "/api/predict", length=len(body)) + body)


def _odd_query(sock: socket.socket, chance: random.Random, until: float) -> None:
    """Parameters that are not those of a pixel, a model, an image or a file."""
    row = chance.choice(("-1", "1e9", "9" * 400, "x", "", "%00", str(2**40)))
    name = chance.choice(("attention", "effect", "channels", "labels", "download/../../x", "nope"))
    query = f"image=sample-1&model={row}&block=head.position.1&row={row}&column=1&count={row}"
    sock.sendall(_head("GET", f"/api/{name}?{query}"))


def _other_origin(sock: socket.socket, chance: random.Random, until: float) -> None:
    """A request by a page of another site, or under another host name."""
    other = chance.choice(("Origin: https://evil.example", "Sec-Fetch-Site: cross-site"))
    sock.sendall(
        chance.choice(
            (
                _head("POST", _PATHS[0], length=0, more=other),
                b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            )
        )
    )


_ATTACKS: tuple[_Attack, ...] = (
    *(_garbage, _long_head, _slow_head, _slow_body, _hang_up),
    *(_bad_json, _too_long, _not_an_image, _other_origin, _abandoned, _odd_query),
)
_UPLOAD = "/api/images"
_EFFECT = "/api/effect?image=sample-2&model=0&block=head.position.1&row=1&column=2"
_PATHS = ("/api/predict", "/api/nothing")


def _head(
    method: str,
    path: str,
    length: int | None = None,
    *,
    chunked: bool = False,
    kind: str = "application/json",
    more: str = "X-Nothing: 0",
) -> bytes:
    """Request line and headers of a request to this machine."""
    size = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {length or 0}"
    lines = (f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {kind}", size, more)
    return "\r\n".join((*lines, "", "")).encode()


if __name__ == "__main__":
    main()
