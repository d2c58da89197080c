"""``Preprocessing``: what images a network takes, and their normalisation."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_Order = Literal["RGB", "BGR", "data"]
_MOST_CHANNELS = 1024
# Written only where they are not None or False, so that files of RGB networks stay as they were.
_OF_DATA = ("input_range", "channels", "pages", "shown")


@dataclass(frozen=True)
class Preprocessing:
    """Normalisation: ``(image * value_range - mean) / std``, for images in 0..1.

    uint8 images are divided by 255 first. With an ``input_range`` (low, high), images hold values
    of the sensor, of any type, and ``clamp((image - low) / (high - low), 0, 1)`` takes its place.

    Attributes:
        mean, std: for each channel, in the network's channel order and value range.
        channel_order: ``"RGB"``; ``"BGR"`` for networks trained on OpenCV images; ``"data"`` for
            channels that are not colours, in the order of the files.
        value_range: 1 if the network was trained on 0..1, 255 if on 0..255.
        input_range: the values that become 0 and 1; None for images of 8 bits.
        channels: which channels of a file are used, by index from 0; None for all but alpha.
        pages: whether the pages of a TIFF are channels.
        shown: the three channels that figures show as red, green and blue, of those used; None for
            the first three, or the first one in grey.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    channel_order: _Order = "RGB"
    value_range: float = 1.0
    input_range: tuple[float, float] | None = None
    channels: tuple[int, ...] | None = None
    pages: bool = False
    shown: tuple[int, ...] | None = None

    @property
    def in_channels(self) -> int:
        """How many channels the network takes."""
        return len(self.mean)

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W), uint8, float in 0..1, or values of the sensor -> normalised float.

        Grey images (B, 1, H, W) are repeated for a network of RGB.

        >>> Preprocessing()(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))[0, :, 0, 0]
        tensor([-2.1179, -2.0357, -1.8044])
        >>> twelve_bits = Preprocessing((0.0,), (1.0,), "data", input_range=(0, 4000))
        >>> twelve_bits(torch.tensor([1000, 5000]).view(1, 1, 1, 2)).flatten().tolist()
        [0.25, 1.0]
        """
        floats = images.float() if not images.is_floating_point() else images
        scale = self.value_range
        if self.input_range is not None:
            low, high = self.input_range
            floats = ((floats - low) / (high - low)).clamp(0, 1)
        elif images.dtype == torch.uint8:
            scale = self.value_range / 255
        if floats.shape[1] == 1 and self.channel_order != "data":
            floats = floats.expand(-1, self.in_channels, -1, -1)  # grey -> RGB
        if self.channel_order == "BGR":
            floats = floats.flip(1)  # RGB -> BGR
        mean = floats.new_tensor(self.mean).view(-1, 1, 1)  # (C, 1, 1)
        std = floats.new_tensor(self.std).view(-1, 1, 1)
        return (floats * scale - mean) / std

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, read by :meth:`from_dict`."""
        return {
            name: value for name, value in asdict(self).items() if name not in _OF_DATA or value
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Preprocessing":
        """The preprocessing that :meth:`to_dict` wrote.

        >>> Preprocessing.from_dict(Preprocessing().to_dict()) == Preprocessing()
        True
        """
        order = value["channel_order"]
        if order not in get_args(_Order):
            raise ValueError(f"channel_order must be 'RGB', 'BGR' or 'data', not {order!r}")
        mean, std = (tuple(float(number) for number in value[key]) for key in ("mean", "std"))
        value_range = float(value["value_range"])
        count = len(mean)
        most = _MOST_CHANNELS if order == "data" else 3
        least = 1 if order == "data" else 3
        if not least <= count <= most or len(std) != count or not all(map(math.isfinite, mean)):
            raise ValueError(
                f"mean {mean[:4]} and std {std[:4]} must be finite numbers, one a channel: three "
                "for RGB and BGR"
            )
        if not all(0 < number < math.inf for number in (*std, value_range)):
            raise ValueError(f"std {std} and value_range {value_range} must be above 0")
        return cls(mean, std, order, value_range, **_of_data(value, count))


def _of_data(value: dict[str, Any], count: int) -> dict[str, Any]:
    """The entries of ``_OF_DATA``, checked."""
    found: dict[str, Any] = {"pages": value.get("pages", False) is True}
    if (given := value.get("input_range")) is not None:
        low, high = map(float, given)
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"input_range {given} must be two finite numbers in ascending order")
        found["input_range"] = (low, high)
    if (given := value.get("channels")) is not None:
        found["channels"] = _indices(given, count, _MOST_CHANNELS, "channels")
    if (given := value.get("shown")) is not None:
        found["shown"] = _indices(given, 3, count, "shown")
    return found


def _indices(given: Sequence[Any], count: int, end: int, what: str) -> tuple[int, ...]:
    """``count`` indices below ``end``.

    >>> _indices([3, 0], 2, 4, "channels")
    (3, 0)
    """
    indices = tuple(given)
    if len(indices) != count or not all(type(i) is int and 0 <= i < end for i in indices):
        raise ValueError(f"{what} {list(indices)[:8]} must be {count} indices from 0 to {end - 1}")
    return indices
