"""Joint transforms of a picture and its mask.

Pictures stay uint8: ``model.normalize`` makes floats of them on the device. Every random number is
drawn from PyTorch, whose generators the data loader seeds.
"""

import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from scenewise.data.datasets import Transform

MEAN_COLOR = (124.0, 116.0, 104.0)  # of ImageNet, so that padding is near 0 once normalised


class RandomScaleCrop(nn.Module):
    """Scale by a factor drawn from ``scale``, then cut a random window of ``size``.

    The window is cut before it is scaled, so the cost is that of the window and not of the picture.
    Where the scaled picture is smaller than the window, it is padded at the right and the bottom.

    Args:
        size: (height, width) of the result.
        scale: smallest and largest factor.
        ignore_index: what padding means in the mask.

    Shape:
        picture (3, H, W) and mask (H, W), both uint8, to (3, *size) and size.
    """

    def __init__(
        self,
        size: tuple[int, int],
        scale: tuple[float, float] = (0.5, 2.0),
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        self.size = size
        self.scale = scale
        self.ignore_index = ignore_index

    def forward(
        self, image: tv_tensors.Image, mask: tv_tensors.Mask
    ) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        low, high = self.scale
        factor = low + (high - low) * float(torch.rand(()))
        rows = _window(mask.shape[0], self.size[0], factor)
        columns = _window(mask.shape[1], self.size[1], factor)
        (top, height, out_height), (left, width, out_width) = rows, columns
        ids = mask.as_subclass(Tensor)[None, top : top + height, left : left + width]
        patch = image.as_subclass(Tensor)[:, top : top + height, left : left + width]
        if (height, width) != (out_height, out_width):
            patch = F.resize(patch, [out_height, out_width], antialias=True)
            ids = F.resize(ids, [out_height, out_width], v2.InterpolationMode.NEAREST_EXACT)
        padding = [0, 0, self.size[1] - out_width, self.size[0] - out_height]
        if any(padding):
            patch = F.pad(patch, padding, fill=list(MEAN_COLOR))
            ids = F.pad(ids, padding, fill=self.ignore_index)
        return tv_tensors.Image(patch), tv_tensors.Mask(ids[0])


def _window(length: int, wanted: int, factor: float) -> tuple[int, int, int]:
    """Where a window starts along one side, how long it is, and how long after scaling."""
    window = min(length, max(1, round(wanted / factor)))
    start = int(torch.randint(length - window + 1, ()))
    scaled = wanted if window < length else min(wanted, max(1, round(length * factor)))
    return start, window, scaled


def photometric_distortion() -> v2.Compose:
    """Brightness, contrast, saturation and hue, each changed in half of the pictures."""
    return v2.Compose(
        [
            v2.RandomApply([v2.ColorJitter(brightness=0.25)]),
            v2.RandomApply([v2.ColorJitter(contrast=0.5)]),
            v2.RandomApply([v2.ColorJitter(saturation=0.5)]),
            v2.RandomApply([v2.ColorJitter(hue=0.05)]),
        ]
    )


def train_transform(
    crop_size: tuple[int, int],
    scale: tuple[float, float] = (0.5, 2.0),
    flip: bool = True,
    photometric: bool = True,
    ignore_index: int = 255,
) -> Transform:
    """Random scale and crop to ``crop_size``, then flip and change of colours.

    >>> transform = train_transform((8, 12))
    >>> image = tv_tensors.Image(torch.zeros(3, 5, 7, dtype=torch.uint8))
    >>> mask = tv_tensors.Mask(torch.zeros(5, 7, dtype=torch.uint8))
    >>> [tuple(t.shape) for t in transform(image, mask)]
    [(3, 8, 12), (8, 12)]
    """
    steps: list[nn.Module] = [RandomScaleCrop(crop_size, scale, ignore_index)]
    if flip:
        steps.append(v2.RandomHorizontalFlip())
    if photometric:
        steps.append(photometric_distortion())
    transform: Transform = v2.Compose(steps)
    return transform


def eval_transform() -> Transform:
    """Nothing: pictures are evaluated whole, at their own size."""
    transform: Transform = v2.Identity()
    return transform
