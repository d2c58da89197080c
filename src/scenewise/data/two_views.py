"""A weak and a strong view of one window of an image without labels.

The weak view is scaled, cropped and mirrored; the strong one has the same pixels in other colours,
partly grey, blurred. UniMatch's strong view (Yang et al., CVPR 2023,
https://arxiv.org/abs/2208.09910): colours change in 80 % of the windows, 20 % are grey, half of
them blurred, and half get a box of another window (:class:`TwoViews` draws it, the training mixes).
Random numbers come from PyTorch alone.
"""

import math
from typing import TypedDict

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from scenewise.data.transforms import train_transform
from scenewise.data.value_range import ImageFormat

_COLORS, _GREY, _BLUR, _BOX = 0.8, 0.2, 0.5, 0.5  # shares of the windows
_JITTER = {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.25}
_AREA = (0.02, 0.4)  # of a box, as shares of the window
_RATIO = (0.3, 1 / 0.3)  # of a box, height to width


class Views(TypedDict):
    """Two views of one window.

    Attributes:
        weak: (C, h, w), uint8 or float.
        strong: the same pixels with strong changes.
        known: bool (h, w), false in the padding.
        box: int64 (4,), top, left, height and width of the pixels to take from another window;
            zeros for none.
    """

    weak: Tensor
    strong: Tensor
    known: Tensor
    box: Tensor


class TwoViews:
    """Cuts a random window and makes two views of it.

    Args:
        size: (height, width) of the windows.
        scale: smallest and largest factor of random scaling.
        flip: mirror half of the windows.
        images: channels and values of the images; only RGB has hue and saturation, other channels
            change in brightness and contrast.
        base: (short, long) side that images are scaled to in proportion at factor 1, or None.

    >>> views = TwoViews((8, 12))(torch.zeros(3, 5, 7, dtype=torch.uint8))
    >>> [tuple(views[name].shape) for name in ("weak", "strong", "known", "box")]
    [(3, 8, 12), (3, 8, 12), (8, 12), (4,)]
    """

    def __init__(
        self,
        size: tuple[int, int],
        scale: tuple[float, float] = (0.5, 2.0),
        *,
        flip: bool = True,
        images: ImageFormat = ImageFormat(),  # noqa: B008 - it is frozen
        base: tuple[float, float] | None = None,
    ) -> None:
        self.size, self.images = size, images
        self.weak = train_transform(
            size, scale, flip, photometric=False, ignore_index=255, images=images, base=base
        )
        self.jitter = v2.ColorJitter(**_JITTER)
        self.blur = v2.GaussianBlur(9, (0.1, 2.0))

    def __call__(self, image: Tensor) -> Views:
        """Views of an image (C, H, W)."""
        mask = torch.zeros(image.shape[1:], dtype=torch.uint8)
        window, ids = self.weak(tv_tensors.Image(image), tv_tensors.Mask(mask))
        weak = window.as_subclass(Tensor)
        known = ids.as_subclass(Tensor) != 255  # padding is ignored
        return {"weak": weak, "strong": self.strong(weak), "known": known, "box": self.box()}

    def strong(self, weak: Tensor) -> Tensor:
        """The strong view (C, h, w) of a weak one."""
        colors, grey, blurred = (torch.rand(3) < torch.tensor([_COLORS, _GREY, _BLUR])).tolist()
        low, high = self.images.value_range or (0.0, 255.0)
        view = weak.float().sub(low).div(high - low).clamp(0, 1)
        rgb = self.images.layout.rgb
        if colors:
            view = self.jitter(view) if rgb else _brightness_and_contrast(view)
        if grey and rgb:
            view = v2.functional.rgb_to_grayscale(view, num_output_channels=3)
        if blurred:
            view = self.blur(view)
        view = view.mul(high - low).add(low)
        return view.round().to(torch.uint8) if weak.dtype == torch.uint8 else view

    def box(self) -> Tensor:
        """A random box inside the window, or zeros."""
        mixed, area, ratio, top, left = torch.rand(5).tolist()
        if mixed >= _BOX:
            return torch.zeros(4, dtype=torch.int64)
        height, width = self.size
        pixels = height * width * (_AREA[0] + (_AREA[1] - _AREA[0]) * area)
        shape = math.exp(math.log(_RATIO[0]) + (math.log(_RATIO[1]) - math.log(_RATIO[0])) * ratio)
        rows = min(height, max(1, round(math.sqrt(pixels * shape))))
        columns = min(width, max(1, round(math.sqrt(pixels / shape))))
        start = int(top * (height - rows + 1)), int(left * (width - columns + 1))
        return torch.tensor([*start, rows, columns])


def _brightness_and_contrast(view: Tensor) -> Tensor:
    """Values in 0..1 times 0.5 to 1.5, then as far from their mean as 0.5 to 1.5 times before."""
    brightness, contrast = (0.5 + torch.rand(2)).tolist()
    view = view.mul(brightness).clamp(0, 1)
    mean = view.mean()
    return view.sub(mean).mul(contrast).add(mean).clamp(0, 1)
