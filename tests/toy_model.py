"""Small networks that make errors visible.

The output of :func:`toy_model` depends on the position of a pixel in its input: a misplaced window,
a wrong padding colour or a missing flip changes its logits, which a network of convolutions alone
would partly hide. Every block of :func:`random_danet` changes its input; several classes appear.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scenewise.classes import Classes
from scenewise.models import Preprocessing, Segmenter, create_model
from scenewise.models.heads import HeadOutput
from tests.attention.contract import randomise


class Pixels(nn.Module):
    """Every ``stride``-th pixel of the image as the feature map."""

    channels = (3,)

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images[..., :: self.stride, :: self.stride]]


class PlaceHead(nn.Module):
    """A 3x3 convolution at stride 2 plus a ramp over the rows and columns of the window."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, classes, 3, stride=2, padding=1)
        self.down = nn.Parameter(torch.linspace(-0.9, 0.7, classes))
        self.along = nn.Parameter(torch.linspace(0.8, -0.5, classes))

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        scores = self.conv(features[-1])
        rows = torch.linspace(0, 1, scores.shape[2], dtype=scores.dtype).view(-1, 1)
        columns = torch.linspace(0, 1, scores.shape[3], dtype=scores.dtype)
        ramp = self.down.view(-1, 1, 1) * rows**2 + self.along.view(-1, 1, 1) * columns
        return HeadOutput(scores + ramp, {}, {})


class PointwiseHead(nn.Module):
    """A 1x1 convolution: the logits of a pixel do not depend on its position."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, classes, 1)

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        return HeadOutput(self.conv(features[-1]), {}, {})


def toy_model(
    classes: int = 4, *, align_corners: bool = True, pointwise: bool = False, stride: int = 1
) -> Segmenter:
    """In float64, with a preprocessing in which black is far from the mean."""
    head = PointwiseHead(classes) if pointwise else PlaceHead(classes)
    model = Segmenter(
        Pixels(stride),
        head,
        classes=Classes.numbered(classes),
        preprocessing=Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)),
        align_corners=align_corners,
    )
    return model.double()


def random_danet(classes: Classes) -> Segmenter:
    """DANet on the tiny backbone, in evaluation mode; random weights, mean logits of 0."""
    images = torch.randn(4, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    model = randomise(create_model("danet", classes=classes, backbone="tiny")).eval()
    with torch.no_grad():
        mean = model(images).logits.mean((0, 2, 3))
        model.head.classify[1].bias -= mean
    return model
