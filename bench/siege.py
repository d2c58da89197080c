"""The page of ``scenewise app`` besieged by clients that send garbage, dawdle and hang up.

    python -m bench.siege                      # 50 clients, one minute
    python -m bench.siege --clients 8 --seconds 5

It starts a page of its own with a small network on 127.0.0.1, besieges that one alone, stops by
itself, and prints JSON: how the requests ended, the memory of the page, and whether a visitor gets
the same answers after the siege as before it.
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

Attack = Callable[[socket.socket, random.Random, float], None]
MOST = (100, 300)  # clients, seconds


def main() -> None:
    """Besiege and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = create_model("danet", num_classes=5, backbone="tiny")
        model.save_pretrained(Path(folder, "danet"))
        with running(Path(folder, "danet")) as (address, process):
            print(json.dumps(siege(address, process.pid, args.clients, args.seconds), indent=2))


def siege(address: str, pid: int, clients: int, seconds: float, rest: float = 11) -> dict[str, Any]:
    """Besiege the page at ``address``, which the process ``pid`` of this machine serves."""
    if urlsplit(address).hostname != "127.0.0.1":
        raise ValueError(f"only a page on 127.0.0.1 is besieged, not {address}")
    clients, seconds = min(clients, MOST[0]), min(seconds, MOST[1])
    before = answers(address)
    answers(address)  # so that what is loaded late is in the memory before
    memory, ends = [resident(pid)], Counter[str]()
    until = time.monotonic() + seconds
    place = (urlsplit(address).hostname or "", urlsplit(address).port or 0)
    besiegers = [
        threading.Thread(target=besiege, args=(place, number, until, ends), daemon=True)
        for number in range(clients)
    ]
    for besieger in besiegers:
        besieger.start()
    while time.monotonic() < until:
        time.sleep(0.2)
        memory.append(resident(pid))
    for besieger in besiegers:
        besieger.join(30)
    start = time.monotonic()
    time.sleep(rest)  # heads that dawdle are given up after ten seconds
    after = answers(address)
    return {
        "clients": clients,
        "seconds": seconds,
        "attacks": sum(ends.values()),
        "ends": dict(ends.most_common()),
        "besiegers_left": sum(besieger.is_alive() for besieger in besiegers),
        "memory_before_mb": round(memory[0] / 1e6),
        "memory_most_mb": round(max(memory) / 1e6),
        "memory_after_mb": round(resident(pid) / 1e6),
        "open_files_after": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "same_answers_after": after == before,
        "seconds_to_answer_after": round(time.monotonic() - start - rest, 2),
    }


def answers(address: str) -> list[Any]:
    """What a visitor is told of a sample and of two clicks on it."""
    visitor = Visitor(address)
    return [visitor.take("scene 1"), visitor.pick(20, 30), visitor.pick(50, 120)]


def resident(pid: int) -> int:
    """Bytes of memory that the process has."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def besiege(place: tuple[str, int], number: int, until: float, ends: Counter[str]) -> None:
    """One client: attacks of all kinds in a random order, and how each one ended."""
    chance = random.Random(number)
    while time.monotonic() < until:
        attack = chance.choice(ATTACKS)
        try:
            with socket.create_connection(place, timeout=5) as sock:
                attack(sock, chance, until)
                end = ending(sock) if attack not in (hang_up, garbage) else "hung up"
        except OSError as error:
            end = type(error).__name__
        ends[f"{attack.__name__}: {end}"] += 1


def ending(sock: socket.socket) -> str:
    """The status of the answer, or that there is none."""
    sock.settimeout(5)
    line = sock.recv(64).split(b"\r\n")[0].split()
    return line[1].decode("latin-1") if len(line) > 1 else "closed"


def garbage(sock: socket.socket, chance: random.Random, until: float) -> None:
    """Bytes that are no HTTP."""
    sock.sendall(chance.randbytes(chance.randint(1, 100_000)))


def long_head(sock: socket.socket, chance: random.Random, until: float) -> None:
    """A head without end."""
    sock.sendall(b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 50_000)


def slow_head(sock: socket.socket, chance: random.Random, until: float) -> None:
    """A head that comes byte by byte."""
    for byte in b"GET /config HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: " + b"y" * 200:
        if time.monotonic() > until:
            return
        sock.sendall(bytes([byte]))
        time.sleep(0.2)


def slow_body(sock: socket.socket, chance: random.Random, until: float) -> None:
    """A body that comes byte by byte."""
    sock.sendall(head("POST", chance.choice(PATHS), length=1000))
    for _ in range(200):
        if time.monotonic() > until:
            return
        sock.sendall(b"{")
        time.sleep(0.2)


def hang_up(sock: socket.socket, chance: random.Random, until: float) -> None:
    """A request whose client leaves in the middle of the body, or before the answer."""
    if chance.random() < 0.5:
        sock.sendall(head("POST", UPLOAD, length=10_000_000) + chance.randbytes(50_000))
    else:
        path = chance.choice(("/", "/config", "/gradio_api/queue/data?session_hash=x"))
        sock.sendall(head("GET", path))


def bad_json(sock: socket.socket, chance: random.Random, until: float) -> None:
    """A body that is no JSON, or not of the page's form."""
    body = chance.choice(
        (
            b"{" * 50_000,
            b"[]",
            chance.randbytes(500),
            json.dumps({"data": [], "fn_index": chance.randint(-5, 50), "session_hash": "x"}),
            json.dumps(
                {
                    "data": [None] * 20,
                    "fn_index": chance.randint(0, 30),
                    "session_hash": str(chance.random()),
                    "event_data": {"name": "../../secret", "row": 1e300, "column": "x"},
                }
            ),
        )
    )
    body = body.encode() if isinstance(body, str) else body
    sock.sendall(head("POST", chance.choice(PATHS), length=len(body)) + body)


def too_long(sock: socket.socket, chance: random.Random, until: float) -> None:
    """A body that is longer than any picture, as told, or in chunks without end."""
    if chance.random() < 0.5:
        sock.sendall(head("POST", UPLOAD, length=10**12) + bytes(10_000))
        return
    sock.sendall(head("POST", chance.choice((UPLOAD, *PATHS)), chunked=True))
    for _ in range(400):
        sock.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")


def no_picture(sock: socket.socket, chance: random.Random, until: float) -> None:
    """An upload that is no picture."""
    start = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    body = start + chance.randbytes(chance.randint(0, 200_000)) + b"\r\n--b--\r\n"
    sock.sendall(head("POST", UPLOAD, length=len(body), kind="multipart/form-data; boundary=b"))
    sock.sendall(body)


def stranger(sock: socket.socket, chance: random.Random, until: float) -> None:
    """Another site's page, or another name for this machine."""
    other = chance.choice(("Origin: https://evil.example", "Sec-Fetch-Site: cross-site"))
    sock.sendall(
        chance.choice(
            (
                head("POST", PATHS[0], length=0, more=other),
                b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            )
        )
    )


ATTACKS: tuple[Attack, ...] = (
    *(garbage, long_head, slow_head, slow_body, hang_up),
    *(bad_json, too_long, no_picture, stranger),
)
UPLOAD = "/gradio_api/upload"
PATHS = ("/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/component_server")


def head(
    method: str,
    path: str,
    length: int | None = None,
    *,
    chunked: bool = False,
    kind: str = "application/json",
    more: str = "X-Nothing: 0",
) -> bytes:
    """The head of a request to this machine."""
    size = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {length or 0}"
    lines = (f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {kind}", size, more)
    return "\r\n".join((*lines, "", "")).encode()


if __name__ == "__main__":
    main()
