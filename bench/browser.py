"""The page of ``scenewise app`` in headless Chromium: for its tests, screenshots and timings."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str | None:
    """The path of an installed Chromium, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def browser() -> Iterator["Browser"]:
    """Headless Chromium, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=list(_ARGUMENTS))
        try:
            yield opened
        finally:
            opened.close()


@contextmanager
def served(*models: Path, samples: Path | None = None, seconds: float = 120) -> Iterator[str]:
    """``scenewise app`` in its own process; yields its address."""
    with running(*models, samples=samples, seconds=seconds) as (address, _):
        yield address


@contextmanager
def running(
    *models: Path, samples: Path | None = None, seconds: float = 120
) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """``scenewise app`` in its own process; yields its address and the process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [word for model in models for word in ("--model", str(model))]
    words += [] if samples is None else ["--samples", str(samples)]
    command = [sys.executable, "-m", "scenewise", "app", "--device", "cpu", "--port", str(port)]
    process = subprocess.Popen([*command, *words])
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(address, process, time.monotonic() + seconds)
        yield address, process
    finally:
        process.terminate()
        process.wait(30)


def _wait(address: str, process: "subprocess.Popen[bytes]", until: float) -> None:
    while True:
        try:
            with urllib.request.urlopen(address):
                return
        except URLError:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{address} does not answer") from None
            time.sleep(0.2)
