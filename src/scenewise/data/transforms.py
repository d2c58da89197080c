"""Joint transforms of an image and its mask.

Images keep their values, 8-bit ones as uint8; ``model.normalize`` scales them on the device. All
random numbers are drawn from PyTorch's generator, which the data loader seeds.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from scenewise.data.datasets import Transform
from scenewise.data.mixing import rare_pixel
from scenewise.data.photometric import PhotometricDistortion
from scenewise.data.value_range import ImageFormat

_MAX_CROPS = 10
_Span = tuple[int, int, int]  # start, length, length after scaling


class RandomScaleCrop(nn.Module):
    """Scale by a random factor, then take a random crop of ``size``.

    The crop is taken before it is scaled, so the cost depends on the crop's size, not the image's.
    If the scaled image is smaller than the crop, it is padded at the right and the bottom.

    Args:
        size: (height, width) of the result.
        scale: smallest and largest factor.
        ignore_index: id of the padding in the mask.
        step: distance between possible factors, counted from the smallest; 0 for any factor.
        base: (short, long) side that the image is fitted into at factor 1, in proportion; ``None``
            for its own size.
        max_share: draw another crop, up to nine times, while more than this share of the labelled
            pixels belongs to one class.
        padding: the value of each channel in the padding of the image.
        rare: share of the crops that contain a pixel of a class drawn by the inverse of its pixels
            in this image; where in the crop is random.

    Shape:
        image (C, H, W), uint8 or float, and mask (H, W), uint8, to (C, *size) and size.
    """

    def __init__(
        self,
        size: tuple[int, int],
        scale: tuple[float, float] = (0.5, 2.0),
        ignore_index: int = 255,
        *,
        step: float = 0.0,
        base: tuple[float, float] | None = None,
        max_share: float = 1.0,
        padding: Sequence[float] = ImageFormat().padding,
        rare: float = 0.0,
    ) -> None:
        super().__init__()
        self.size = size
        self.scale = scale
        self.ignore_index = ignore_index
        self.step = step
        self.base = base
        self.max_share = max_share
        self.padding = list(padding)
        self.rare = rare

    def forward(
        self, image: tv_tensors.Image, mask: tv_tensors.Mask
    ) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        rows, columns = self._choose(mask.as_subclass(Tensor), self._factor(mask))
        (top, height, out_height), (left, width, out_width) = rows, columns
        ids = mask.as_subclass(Tensor)[None, top : top + height, left : left + width]  # (1, h, w)
        patch = image.as_subclass(Tensor)[:, top : top + height, left : left + width]
        if (height, width) != (out_height, out_width):
            patch = F.resize(patch, [out_height, out_width], antialias=True)
            ids = F.resize(ids, [out_height, out_width], v2.InterpolationMode.NEAREST_EXACT)
        padding = [
            0,
            0,
            self.size[1] - out_width,
            self.size[0] - out_height,
        ]  # left top right bottom
        if any(padding):
            patch = F.pad(patch, padding, fill=self.padding)
            ids = F.pad(ids, padding, fill=self.ignore_index)
        return tv_tensors.Image(patch), tv_tensors.Mask(ids[0])  # (C, *size), size

    def _factor(self, mask: Tensor) -> float:
        low, high = self.scale
        if self.step:
            factor = low + self.step * int(torch.randint(round((high - low) / self.step) + 1, ()))
        else:
            factor = low + (high - low) * float(torch.rand(()))
        return factor if self.base is None else factor * _fitting(mask.shape, self.base)

    def _choose(self, mask: Tensor, factor: float) -> tuple[_Span, _Span]:
        rare = self.rare > 0 and float(torch.rand(())) < self.rare
        pixel = rare_pixel(mask, self.ignore_index) if rare else None
        row, column = pixel or (None, None)
        for _ in range(_MAX_CROPS):
            rows = _random_span(mask.shape[0], self.size[0], factor, row)
            columns = _random_span(mask.shape[1], self.size[1], factor, column)
            if self.max_share >= 1:
                break
            ids = mask[rows[0] : rows[0] + rows[1], columns[0] : columns[0] + columns[1]]
            if _largest_share(ids, self.ignore_index) < self.max_share:
                break
        return rows, columns


def _fitting(size: Sequence[int], base: tuple[float, float]) -> float:
    """The factor that fits an image into the (short, long) sides ``base`` in proportion.

    >>> _fitting((1024, 2048), (512, 2048)), _fitting((500, 375), (520, 520))
    (0.5, 1.04)
    """
    return min(base[0] / min(size), base[1] / max(size))


def _largest_share(ids: Tensor, ignore_index: int = 255) -> float:
    """The share of the most frequent class among the labelled pixels; 1 if none is labelled.

    >>> _largest_share(torch.tensor([[1, 1, 1, 2, 255]], dtype=torch.uint8))
    0.75
    """
    counts = torch.bincount(ids.flatten(), minlength=256)
    counts[ignore_index] = 0
    total = int(counts.sum())
    return int(counts.max()) / total if total else 1.0


def _random_span(length: int, crop: int, factor: float, at: int | None = None) -> _Span:
    """A random span along one side of an image that has ``crop`` pixels after scaling.

    With ``at`` it contains this place.
    """
    span = min(length, max(1, round(crop / factor)))
    low, high = 0, length - span
    if at is not None:
        low, high = max(low, at - span + 1), min(high, at)
    start = low + int(torch.randint(high - low + 1, ()))
    scaled = crop if span < length else min(crop, max(1, round(length * factor)))
    return start, span, scaled


def train_transform(
    crop_size: tuple[int, int],
    scale: tuple[float, float] = (0.5, 2.0),
    flip: bool = True,
    photometric: bool = True,
    ignore_index: int = 255,
    rotate: float = 0.0,
    blur: bool = False,
    images: ImageFormat = ImageFormat(),  # noqa: B008 - it is frozen
    **crop: Any,
) -> Transform:
    """Random scale and crop to ``crop_size``, then rotation, blur, flip and change of colours.

    Half of the crops are rotated by up to ``rotate`` degrees, their corners ignored; half are
    blurred with a 5 x 5 Gaussian, as in hszhao/semseg. ``images`` says what values the images have;
    only colours are changed. ``crop`` takes the further options of :class:`RandomScaleCrop`.

    >>> transform = train_transform((8, 12))
    >>> image = tv_tensors.Image(torch.zeros(3, 5, 7, dtype=torch.uint8))
    >>> mask = tv_tensors.Mask(torch.zeros(5, 7, dtype=torch.uint8))
    >>> [tuple(t.shape) for t in transform(image, mask)]
    [(3, 8, 12), (8, 12)]
    """
    padding = list(images.padding)
    steps: list[nn.Module] = [
        RandomScaleCrop(crop_size, scale, ignore_index, padding=padding, **crop)
    ]
    if rotate:
        fill = {tv_tensors.Image: padding, tv_tensors.Mask: ignore_index}
        rotation = v2.RandomRotation(rotate, v2.InterpolationMode.BILINEAR, fill=fill)
        steps.append(v2.RandomApply([rotation]))
    if blur:
        steps.append(v2.RandomApply([v2.GaussianBlur(5, 1.1)]))
    if flip:
        steps.append(v2.RandomHorizontalFlip())
    if photometric and images.layout.rgb:
        steps.append(PhotometricDistortion(value_range=images.value_range))
    transform: Transform = v2.Compose(steps)
    return transform


def eval_transform() -> Transform:
    """The identity: images are evaluated whole, at their own size."""
    transform: Transform = v2.Identity()
    return transform
