"""Draw docs/images/app.webp: the page of ``scenewise app`` while pixels are clicked.

    scenewise demo --size 128 384 --steps 300 --out runs/page
    python -m bench.moving_image runs/page

Clicks only pixels that the network labels correctly with position attention and wrongly without it,
so that the attention shown is what decided.
"""

import argparse
import io
from pathlib import Path

import torch
from PIL import Image

from bench.browser import browser, served
from scenewise import Predictor, load_model
from scenewise.data import Scenes
from scenewise.files import atomic_write
from scenewise.visualize import ablate

OUT = Path(__file__).parents[1] / "docs" / "images" / "app.webp"
LIMIT = 3 * 2**20  # bytes of the file
VIEW = (1180, 620)
CLICKS = 3
MILLISECONDS = (1200, 2200)  # the labels, each click


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
) -> list[Image.Image]:
    """The page with a segmented sample, then after a click at each pixel."""
    with Image.open(sorted(samples.iterdir())[sample]) as opened:
        width, height = opened.size
    frames = []
    with served(model, samples=samples) as address, browser() as chromium:
        page = chromium.new_page(viewport={"width": VIEW[0], "height": VIEW[1]})
        page.goto(address)
        page.locator(".samples button").nth(sample).click()
        stage = page.locator("#panel0 .viewer:not(.empty) .stage")
        box = stage.bounding_box(timeout=60_000)
        assert box is not None
        page.wait_for_timeout(1000)
        frames.append(page.screenshot())
        for row, column in pixels:
            x, y = (column + 0.5) / width * box["width"], (row + 0.5) / height * box["height"]
            stage.click(position={"x": x, "y": y})
            page.locator("#panel0 .viewer.hot").wait_for()
            page.wait_for_timeout(1500)
            frames.append(page.screenshot())
    return [Image.open(io.BytesIO(frame)).convert("RGB") for frame in frames]


def write(frames: list[Image.Image]) -> None:
    """One moving WebP below :data:`LIMIT` bytes."""
    times = [MILLISECONDS[0]] + [MILLISECONDS[1]] * (len(frames) - 1)
    with atomic_write(OUT) as temporary:
        frames[0].save(
            temporary, save_all=True, append_images=frames[1:], duration=times, loop=0, quality=80
        )
        size = temporary.stat().st_size
        assert size < LIMIT, f"{size} bytes; lower the quality"


if __name__ == "__main__":
    main()
