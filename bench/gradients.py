"""Draw docs/images/gradient.png: what moves the score of a van in a network without attention.

    scenewise demo --size 128 384 --steps 300 --out runs/page
    python -m bench.gradients runs/page

Marks a pixel that DANet's position attention decides, so that the two pages show the same problem:
the signal that says what the van is, is outside what the FCN's gradient reaches. Needs the extra
``gradient``.
"""

import argparse
from pathlib import Path

from bench.moving_image import decided
from scenewise import load_model
from scenewise.visualize import gradient_figure

OUT = Path(__file__).parents[1] / "docs" / "images" / "gradient.png"


def main() -> None:
    """Draw the figure and print its sentence."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("demo", type=Path, help="folder that scenewise demo wrote")
    args = parser.parse_args()
    image = min((args.demo / "images").iterdir())
    model = load_model(args.demo / "fcn")
    at = decided(args.demo / "danet", image)[:1]
    drawn = gradient_figure(model, image, at, OUT)
    print(drawn.pixels[0].sentence(model.classes))


if __name__ == "__main__":
    main()
