"""The screenshot of ``scenewise app`` in the docs: docs/images/app.png.

    scenewise demo --size 128 384 --steps 300 --out runs/page
    python -m bench.screenshots runs/page

Shows both networks of the demo, with a pixel that DANet's position attention decides and that FCN
labels otherwise.
"""

import argparse
from pathlib import Path

from bench.browser import browser, served
from bench.moving_image import decided
from scenewise import Predictor, load_model

_OUT = Path(__file__).parents[1] / "docs" / "images" / "app.png"


def main() -> None:
    """Open the page with a pin and take the screenshot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("demo", type=Path, help="folder that scenewise demo wrote")
    parser.add_argument("--sample", type=int, default=0, help="index of the sample image")
    args = parser.parse_args()
    models = args.demo / "danet", args.demo / "fcn"
    samples = args.demo / "images"
    image = sorted(samples.iterdir())[args.sample]
    danet, fcn = (Predictor(load_model(model))(image).labels for model in models)
    row, column = next(at for at in decided(models[0], image) if danet[at] != fcn[at])
    with served(*models, samples=samples) as address, browser() as opened:
        page = opened.new_page(viewport={"width": 1400, "height": 900}, device_scale_factor=1.25)
        page.goto(f"{address}/#model=0&compare=1&image=sample-{args.sample}&pin={row},{column}")
        page.locator("html[data-started]").wait_for(timeout=60_000)
        page.locator(".badge").wait_for(timeout=60_000)
        page.locator(".bars").nth(1).wait_for(timeout=60_000)  # the gradients of FCN
        _OUT.parent.mkdir(exist_ok=True)
        page.screenshot(path=_OUT, animations="disabled")


if __name__ == "__main__":
    main()
