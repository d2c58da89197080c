"""Latency of a click on the page of ``scenewise app``, until its attention map is drawn.

    python -m bench.click                # DANet, ResNet-101, 512 x 1024; needs an idle machine
    python -m bench.click --network ccnet --clicks 50

Weights are random, which does not change the time. The time of a click is measured in the browser,
from the click to the drawn attention map, so it includes server, transport and drawing.
"""

import argparse
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch

from bench.browser import browser, served
from scenewise import create_model
from scenewise.data import Scenes
from scenewise.visualize import save_image

if TYPE_CHECKING:
    from playwright.sync_api import Page

CLICK = """([x, y]) => new Promise(done => {
  const stage = document.querySelector(".stage"), box = stage.getBoundingClientRect();
  const start = performance.now();
  new MutationObserver((_, observer) => {
    observer.disconnect();
    requestAnimationFrame(() => done(performance.now() - start));
  }).observe(stage, {attributeFilter: ["data-turn"]});
  const at = {clientX: box.left + x * box.width, clientY: box.top + y * box.height};
  stage.dispatchEvent(new MouseEvent("click", {...at, bubbles: true}));
})"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", default="danet")
    parser.add_argument("--backbone", default="resnet101")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 1024), metavar=("H", "W"))
    parser.add_argument("--clicks", type=int, default=30)
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        model, samples = Path(folder, args.network), Path(folder, "samples")
        torch.manual_seed(0)
        create_model(
            args.network, num_classes=19, backbone=args.backbone, pretrained=False
        ).save_pretrained(model)
        save_scene(samples / "scene.png", (args.size[0], args.size[1]))
        with served(model, samples=samples) as address, browser() as opened:
            times = measure(opened.new_page(), address, args.clicks)
    first, *rest = times
    print(
        f"{args.network}, {args.backbone}, {args.size[0]} x {args.size[1]}, "
        f"{torch.get_num_threads()} threads: first click {first:.0f} ms, then median "
        f"{statistics.median(rest):.0f} ms, 95th percentile {np.percentile(rest, 95):.0f} ms "
        f"of {len(rest)}"
    )


def measure(page: "Page", address: str, clicks: int) -> list[float]:
    """Milliseconds of each click, after the first prediction."""
    page.goto(address)
    page.locator(".samples button").first.click(timeout=60_000)
    page.locator(".viewer:not(.empty)").wait_for(timeout=600_000)
    places = np.random.default_rng(0).uniform(0.02, 0.98, (clicks, 2)).tolist()
    return [page.evaluate(CLICK, place) for place in places]


def save_scene(path: Path, size: tuple[int, int]) -> None:
    """Write a generated scene as an image file."""
    from PIL import Image

    image, _ = Scenes(1, size=size).read(0)
    save_image(path, Image.fromarray(image.permute(1, 2, 0).numpy()))


if __name__ == "__main__":
    main()
