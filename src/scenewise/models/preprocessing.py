"""``Preprocessing``: normalisation of images for a network."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Normalisation: ``(image * value_range - mean) / std``, for images in 0..1.

    Attributes:
        mean, std: for each channel, in the network's channel order and value range.
        channel_order: ``"RGB"``, or ``"BGR"`` for networks trained on OpenCV images.
        value_range: 1 if the network was trained on 0..1, 255 if on 0..255.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    channel_order: Literal["RGB", "BGR"] = "RGB"
    value_range: float = 1.0

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB, uint8 or float in 0..1 -> normalised float.

        >>> Preprocessing()(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))[0, :, 0, 0]
        tensor([-2.1179, -2.0357, -1.8044])
        """
        scale = self.value_range / 255 if images.dtype == torch.uint8 else self.value_range
        floats = images.float() if not images.is_floating_point() else images
        if self.channel_order == "BGR":
            floats = floats.flip(1)  # RGB -> BGR
        mean = floats.new_tensor(self.mean).view(-1, 1, 1)  # (3, 1, 1)
        std = floats.new_tensor(self.std).view(-1, 1, 1)
        return (floats * scale - mean) / std

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, read by :meth:`from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Preprocessing":
        """The preprocessing that :meth:`to_dict` wrote.

        >>> Preprocessing.from_dict(Preprocessing().to_dict()) == Preprocessing()
        True
        """
        order = value["channel_order"]
        if order not in ("RGB", "BGR"):
            raise ValueError(f"channel_order must be 'RGB' or 'BGR', not {order!r}")
        mean, std = (tuple(float(number) for number in value[key]) for key in ("mean", "std"))
        value_range = float(value["value_range"])
        if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, mean)):
            raise ValueError(f"mean {mean} and std {std} must be three finite numbers each")
        if not all(0 < number < math.inf for number in (*std, value_range)):
            raise ValueError(f"std {std} and value_range {value_range} must be above 0")
        return cls(mean, std, order, value_range)
