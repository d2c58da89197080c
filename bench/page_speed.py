"""Latency of a click on the page of ``scenewise app``, from the request to the answer.

    python -m bench.page_speed                # danet and ccnet, ResNet-101, 512 x 1024
    python -m bench.page_speed --clicks 20 --backbone resnet50

Weights are random, which does not change the time. The application is called in this process, as
uvicorn calls it; drawing in the browser comes on top.
"""

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlencode

import numpy as np
import torch

from scenewise import create_model
from scenewise.apps.app.explorer import Explorer
from scenewise.apps.app.server import build_application, guarded
from scenewise.apps.app.state import Network
from scenewise.data import Scenes
from scenewise.visualize import save_image


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["danet", "ccnet"])
    parser.add_argument("--backbone", default="resnet101")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 1024), metavar=("H", "W"))
    parser.add_argument("--clicks", type=int, default=40)
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        save_scene(Path(folder, "scene.png"), (args.size[0], args.size[1]))
        for name in args.networks:
            torch.manual_seed(0)
            model = create_model(name, num_classes=19, backbone=args.backbone, pretrained=False)
            explorer = Explorer([Network(name, model.eval())], Path(folder))
            first, *times = asyncio.run(measure(explorer, args.clicks, tuple(args.size)))
            print(
                f"{name}, {args.backbone}, {args.size[0]} x {args.size[1]}, "
                f"{torch.get_num_threads()} threads: first click {first:.0f} ms, then median "
                f"{statistics.median(times):.0f} ms, 95th percentile "
                f"{np.percentile(times, 95):.0f} ms of {len(times)}"
            )


async def measure(explorer: Explorer, clicks: int, size: tuple[int, int]) -> list[float]:
    """Milliseconds of each click, after the first prediction."""
    application = guarded(build_application(explorer))
    block = next(iter(explorer.networks[0].maps.positions))
    await ask(application, "labels", image="sample-0", model="0")  # predicts
    times = []
    for row, column in np.random.default_rng(0).integers(0, size, (clicks, 2)).tolist():
        start = time.perf_counter()
        options = {"image": "sample-0", "model": "0", "block": block, "row": row, "column": column}
        answer = json.loads(await ask(application, "attention", **options))
        times.append(1000 * (time.perf_counter() - start))
        assert answer["height"] * answer["width"] > 1
    return times


async def ask(application: Any, name: str, **options: object) -> bytes:
    """The body of the answer to a GET request."""
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "method": "GET",
        "path": f"/api/{name}",
        "query_string": urlencode(options).encode(),
        "headers": [(b"host", b"127.0.0.1")],
        "client": ("127.0.0.1", 1),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await application(scope, receive, send)
    content = b"".join(message.get("body", b"") for message in sent)
    assert sent[0]["status"] == 200, content
    return content


def save_scene(path: Path, size: tuple[int, int]) -> None:
    """Write a generated scene as an image file."""
    from PIL import Image

    image, _ = Scenes(1, size=size).read(0)
    save_image(path, Image.fromarray(image.permute(1, 2, 0).numpy()))


if __name__ == "__main__":
    main()
