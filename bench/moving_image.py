"""Draw docs/images/app.webp: the page of ``scenewise app`` while pixels are pointed at and clicked.

    scenewise demo --size 128 384 --steps 300 --out runs/page
    python -m bench.moving_image runs/page

Clicks only pixels that the network labels correctly with position attention and wrongly without it,
so that the attention shown is what decided.
"""

import argparse
import io
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image

from bench.browser import browser, served
from scenewise import Predictor, load_model
from scenewise.data import Scenes
from scenewise.files import atomic_write
from scenewise.visualize import ablate

if TYPE_CHECKING:
    from playwright.sync_api import Page

OUT = Path(__file__).parents[1] / "docs" / "images" / "app.webp"
LIMIT = 3 * 2**20  # bytes of the file
VIEW = (1280, 720)
CLICKS = 3
STILL, STEP = 2200, 140  # milliseconds of a frame to be read, and of one of a movement
SLIDE = (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2)  # from the image over its classes to attention


def main() -> None:
    """Open the page, click, write the frames."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("demo", type=Path, help="folder that scenewise demo wrote")
    args = parser.parse_args()
    model, samples = args.demo / "danet", args.demo / "images"
    sample, image = next(
        (i, file) for i, file in enumerate(sorted(samples.iterdir())) if decided(model, file)
    )
    frames = screenshots(model, samples, sample, decided(model, image)[:CLICKS])
    write(frames)


def decided(model: Path, image: Path) -> list[tuple[int, int]]:
    """A pixel of each region of a class of vans or shops that position attention decides.

    There the two classes that look alike swap when the block is switched off.
    """
    predictor = Predictor(load_model(model))
    found = ablate(predictor, image, "head.position.1")
    pixels = []
    for pair in Scenes.context_pairs:
        a, b = (found.labels == k for k in pair)
        swapped = (a & (found.without == pair[1])) | (b & (found.without == pair[0]))
        rows, columns = torch.nonzero(swapped, as_tuple=True)
        if len(rows) >= 40:  # not a few pixels at a border
            middle = torch.argsort(columns)[[len(rows) // 4, 3 * len(rows) // 4]]
            pixels += [(int(rows[i]), int(columns[i])) for i in middle]
    return pixels


def screenshots(
    model: Path, samples: Path, sample: int, pixels: list[tuple[int, int]]
) -> list[tuple[Image.Image, int]]:
    """The slider from image to attention, then the way to each pixel; with milliseconds."""
    frames = []
    with served(model, samples=samples) as address, browser() as chromium:
        page = chromium.new_page(viewport={"width": VIEW[0], "height": VIEW[1]})
        page.goto(f"{address}/#image=sample-{sample}&pin={pixels[0][0]},{pixels[0][1]}")
        page.locator("html[data-started]").wait_for(timeout=60_000)
        page.locator(".badge").wait_for(timeout=60_000)
        for value in SLIDE:
            page.locator("#blend").fill(str(value))
            page.locator("#blend").blur()  # no ring of the keyboard's focus
            frames.append((shot(page), STEP if value % 1 else STILL // 2))
        frames[-1] = (frames[-1][0], STILL)
        for start, end in pairwise(pixels):
            for part in (0.25, 0.5, 0.75):
                page.mouse.move(
                    *place(page, *(a + part * (b - a) for a, b in zip(start, end, strict=True)))
                )
                page.wait_for_timeout(600)
                frames.append((shot(page), 3 * STEP))
            page.mouse.click(*place(page, *end))
            page.mouse.move(5, 5)  # away from the image: no tip, no preview
            page.locator(f'#pins [aria-label$="{end[0]}, {end[1]}"]').wait_for()
            page.locator(".badge").wait_for()
            page.wait_for_timeout(600)
            frames.append((shot(page), STILL))
    return frames


def shot(page: "Page") -> Image.Image:
    """The page as it is once its transitions have ended."""
    return Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")


def place(page: "Page", row: float, column: float) -> tuple[float, float]:
    """Where a pixel of the image is on the screen."""
    box = page.locator(".stage").bounding_box()
    assert box is not None
    height, width = page.locator(".base").evaluate("canvas => [canvas.height, canvas.width]")
    return (
        box["x"] + (column + 0.5) / width * box["width"],
        box["y"] + (row + 0.5) / height * box["height"],
    )


def write(frames: list[tuple[Image.Image, int]]) -> None:
    """One moving WebP below :data:`LIMIT` bytes."""
    (first, _), *others = frames
    times = [milliseconds for _, milliseconds in frames]
    images = [image for image, _ in others]
    with atomic_write(OUT) as temporary:
        first.save(
            temporary, save_all=True, append_images=images, duration=times, loop=0, quality=80
        )
        size = temporary.stat().st_size
        assert size < LIMIT, f"{size} bytes; lower the quality"


if __name__ == "__main__":
    main()
