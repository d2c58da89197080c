"""The values of a dataset's images: their range, mean and spread, measured on a sample."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scenewise.data.datasets import SegmentationDataset
from scenewise.data.images import to_display
from scenewise.data.layout import RGB, Layout, common_layout, usage
from scenewise.errors import UserError

_IMAGES = 32  # measured, spread evenly
_PIXELS = 2**16  # of each at most, on a grid
_PERCENTILES = (0.1, 99.9)
_MEAN_COLOR = (124.0, 116.0, 104.0)  # of ImageNet: padding is near 0 when normalised
_IMAGENET_MEAN = (0.485, 0.456, 0.406)


@dataclass(frozen=True)
class ImageFormat:
    """What a network has to know of the images of a dataset.

    Attributes:
        layout: channels and bits.
        value_range: the values that become 0 and 1; None for 8 bits.
        mean, std: of each channel in 0..1; None for RGB, which is normalised as the backbone was.
        shown: the channels that figures show as red, green and blue.
        sampled: how many images were measured; 0 if none had to be.
        notes: what is used of the images, where it may surprise.
    """

    layout: Layout = RGB
    value_range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    shown: tuple[int, ...] | None = None
    sampled: int = 0
    notes: tuple[str, ...] = ()

    @property
    def padding(self) -> tuple[float, ...]:
        """The value of each channel around an image, near 0 when normalised."""
        if self.value_range is None:
            return _MEAN_COLOR if self.mean is None else tuple(round(255 * m) for m in self.mean)
        low, high = self.value_range
        return tuple(low + (high - low) * m for m in self.mean or _IMAGENET_MEAN)

    def display(self, image: Tensor) -> Tensor:
        """What people see of an image (C, H, W) of the dataset: (3, H, W), uint8, RGB."""
        moments = None if self.mean is None or self.std is None else (self.mean, self.std)
        return to_display(image, self.value_range, self.shown, moments)

    def __str__(self) -> str:
        """In one line.

        >>> str(ImageFormat())
        'images: 3 channels (RGB) of 8 bits, values from 0 to 255'
        """
        text = f"images: {self.layout}"
        if self.value_range is None:
            text += ", values from 0 to 255"
        else:
            low, high = self.value_range
            text += f", values from {low:g} to {high:g} become 0 to 1"
            text += (
                f" ({_PERCENTILES[0]} and {_PERCENTILES[1]} percentiles)" if self.sampled else ""
            )
        return "; ".join([text, *self.notes])


def image_format(
    dataset: SegmentationDataset,
    channels: Sequence[int] | None = None,
    *,
    pages: bool = False,
    value_range: tuple[float, float] | None = None,
    shown: Sequence[int] | None = None,
) -> ImageFormat:
    """Find the layout of a dataset, use it for the dataset, and measure a sample of its images.

    8-bit RGB needs no measuring. Else one range for all images and channels is taken from the
    percentiles of the sample, and unless the channels are RGB, their mean and standard deviation.

    Args:
        dataset: its layout is set.
        channels: the channels to use, by index from 0; None for all but alpha.
        pages: whether the pages of a TIFF are channels.
        value_range: in place of the measured one.
        shown: the channels to show as red, green and blue, of those used.

    Raises:
        UserError: images differ in channels or bits, an index is out of range, an image cannot be
            read, or all values are the same.
    """
    kinds = dataset.kinds(pages=pages)
    layout = dataset.layout = common_layout(kinds, channels, pages=pages)
    three = _checked(shown, layout)
    notes = tuple(usage(kinds, layout))
    if value_range is not None and not layout.wide:
        raise UserError("--data.value_range is for images of more than 8 bits; leave it out")
    if value_range is not None and not value_range[0] < value_range[1]:  # NaN too
        raise UserError(f"--data.value_range {value_range} must be two numbers in ascending order")
    if layout.rgb and (not layout.wide or value_range is not None):
        return ImageFormat(layout, value_range, shown=three, notes=notes)
    pixels = list(_sample(dataset))
    measured = value_range or (_range(pixels) if layout.wide else None)
    mean, std = (None, None) if layout.rgb else _moments(pixels, measured or (0, 255))
    sampled = len(pixels) if value_range is None and layout.wide else 0
    return ImageFormat(layout, measured, mean, std, three, sampled, notes)


def _checked(shown: Sequence[int] | None, layout: Layout) -> tuple[int, ...] | None:
    if shown is None:
        return None
    if len(shown) != 3 or not all(0 <= k < layout.count for k in shown):
        raise UserError(
            f"--data.shown {list(shown)} must be three indices from 0 to {layout.count - 1}, of "
            "the channels that are used"
        )
    return tuple(shown)


def _sample(dataset: SegmentationDataset) -> Iterator[NDArray[np.floating]]:
    """Pixels (C, N) of images that are spread evenly over the dataset."""
    count = min(_IMAGES, len(dataset))
    for i in range(count):
        try:
            image, _ = dataset.read(i * len(dataset) // count)
        except UserError:  # the check of the labels reports it
            continue
        step = int(max(1, (image.shape[1] * image.shape[2] / _PIXELS) ** 0.5))
        yield image[:, ::step, ::step].flatten(1).numpy().astype(np.float64)


def _range(pixels: Sequence[NDArray[np.floating]]) -> tuple[float, float]:
    """The percentiles of all values, which are values of the data; else the extremes.

    Raises:
        UserError: no image could be read, or all values are the same.

    >>> _range([np.arange(5000.0)[None]])
    (4.0, 4995.0)
    """
    if not pixels:
        raise UserError("no image of the sample could be read; scenewise check says why")
    values = np.concatenate([image.ravel() for image in pixels])
    low, high = np.percentile(values, _PERCENTILES, method="inverted_cdf")
    if low == high:
        low, high = values.min(), values.max()
    if low == high:
        raise UserError(
            f"all values of {len(pixels)} images are {low:g}; check the images, or give the range "
            "with --data.value_range"
        )
    return float(low), float(high)


def _moments(
    pixels: Sequence[NDArray[np.floating]], value_range: tuple[float, float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, of values that are scaled to 0..1.

    >>> _moments([np.array([[0.0, 50, 100]])], (0, 100))[0]
    (0.5,)
    """
    low, high = value_range
    values = np.concatenate(pixels, axis=1)  # (C, N)
    unit = ((values - low) / (high - low)).clip(0, 1)
    std = unit.std(axis=1)
    std[std < 1e-9] = 1  # a channel of one value; others may be small beside the range of all
    return _rounded(unit.mean(axis=1)), _rounded(std)


def _rounded(values: NDArray[np.floating]) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in values)
