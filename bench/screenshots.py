"""The screenshot of ``scenewise app`` in the docs: docs/images/app.png.

    scenewise demo --size 128 384 --steps 300 --out runs/page
    python -m bench.screenshots runs/page

Shows both networks of the demo side by side and the attention of a pixel of a van.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from bench.browser import browser, served
from scenewise import Predictor, load_model
from scenewise.data import Scenes

_OUT = Path(__file__).parents[1] / "docs" / "images" / "app.png"


def main() -> None:
    """Open the page, click a van and take the screenshot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("demo", type=Path, help="folder that scenewise demo wrote")
    parser.add_argument("--sample", type=int, default=0, help="index of the sample image")
    args = parser.parse_args()
    models = args.demo / "danet", args.demo / "fcn"
    samples = args.demo / "images"
    image = sorted(samples.iterdir())[args.sample]
    labels = Predictor(load_model(models[0]))(image).labels
    with served(*models, samples=samples) as address, browser() as opened:
        page = opened.new_page(viewport={"width": 1440, "height": 780}, device_scale_factor=1.25)
        page.goto(address)
        page.locator(".samples button").nth(args.sample).click()
        stage = page.locator("#panel0 .viewer:not(.empty) .stage")
        box = stage.bounding_box(timeout=60_000)
        assert box is not None
        row, column = _van(labels)
        x = (column + 0.5) / labels.shape[1] * box["width"]
        y = (row + 0.5) / labels.shape[0] * box["height"]
        stage.click(position={"x": x, "y": y})
        page.locator("#panel0 .viewer.hot").wait_for()
        page.mouse.move(5, 5)  # away from the image, so that no tip is shown
        page.wait_for_timeout(1000)
        _OUT.parent.mkdir(exist_ok=True)
        page.screenshot(path=_OUT)


def _van(labels: torch.Tensor) -> tuple[int, int]:
    """The middle pixel, in reading order, of all vans."""
    rows, columns = np.nonzero(np.isin(labels.numpy(), Scenes.context_pairs[0]))
    return int(rows[len(rows) // 2]), int(columns[len(rows) // 2])


if __name__ == "__main__":
    main()
