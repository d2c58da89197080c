"""Random changes of brightness, contrast, saturation and hue, as in mmsegmentation and SSD."""

import torch
from torch import Tensor, nn
from torchvision import tv_tensors


class PhotometricDistortion(nn.Module):
    """Brightness, contrast, saturation and hue, each changed in half of the images.

    By default mmsegmentation's ranges: up to ``brightness`` levels of 255 are added; contrast and
    saturation (the S of HSV) are multiplied by 1 - x to 1 + x; the hue is rotated by up to ``hue``
    of a full circle. Contrast comes before or after saturation and hue, with equal probability. In
    between, values are floats in 0..255; those of uint8 are rounded once, at the end.

    Args:
        brightness, contrast, saturation, hue: see above.
        value_range: of images that are not uint8: the values that count as 0 and 255.

    Shape:
        image (3, H, W), uint8 or float, and any mask, to the same; the mask is unchanged.
    """

    def __init__(
        self,
        brightness: float = 32.0,
        contrast: float = 0.5,
        saturation: float = 0.5,
        hue: float = 0.1,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue
        self.value_range = value_range

    def forward(
        self, image: tv_tensors.Image, mask: tv_tensors.Mask
    ) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        changes = tuple((torch.rand(5) < 0.5).tolist())
        if not any(changes[:4]):
            return image, mask
        return tv_tensors.Image(self.change(image.as_subclass(Tensor), changes)), mask

    def change(self, image: Tensor, changes: tuple[bool, ...]) -> Tensor:
        """Apply the chosen ``changes``: brightness, contrast, saturation, hue; contrast early."""
        brighter, contrasting, saturated, rotated, early = changes
        added, contrast, saturation, hue = self._amounts()
        pixels = image.to(torch.float32, memory_format=torch.contiguous_format)
        low, high = self.value_range or (0, 255)
        if self.value_range is not None:
            pixels = pixels.sub(low).mul_(255 / (high - low)).clamp_(0, 255)
        if brighter:
            pixels.add_(added).clamp_(0, 255)
        if contrasting and early:
            pixels.mul_(contrast).clamp_(0, 255)
        if saturated or rotated:
            pixels = _rotate_hue(pixels, hue * rotated, saturation if saturated else 1.0)
        if contrasting and not early:
            pixels.mul_(contrast).clamp_(0, 255)
        if self.value_range is None:
            return pixels.round_().to(torch.uint8)
        return pixels.mul_((high - low) / 255).add_(low)

    def _amounts(self) -> tuple[float, float, float, float]:
        added, contrast, saturation, hue = (2 * torch.rand(4) - 1).tolist()  # -1 to 1
        return (
            added * self.brightness,
            1 + contrast * self.contrast,
            1 + saturation * self.saturation,
            hue * self.hue,
        )


def _rotate_hue(pixels: Tensor, turns: float, saturation: float = 1.0) -> Tensor:
    """Rotate the hue of HSV by ``turns`` circles and multiply its saturation, at most to 1.

    With v the largest and c the largest less the smallest of red, green and blue, and h in sixths
    of a circle: channel n becomes v - c clamp(min(k, 4 - k), 0, 1) with k = (h + n) mod 6 and n =
    5, 3, 1. The HSV image is never built, which is about twice as fast as torchvision.

    Args:
        pixels: (3, H, W), float, red, green, blue, non-negative.
        turns: in full circles.
        saturation: a factor.

    >>> red = torch.tensor([200.0, 0.0, 0.0]).view(3, 1, 1)
    >>> _rotate_hue(red, 1 / 3).flatten().round().tolist()  # green
    [0.0, 200.0, 0.0]
    >>> _rotate_hue(red, 0, saturation=0.5).flatten().tolist()
    [200.0, 100.0, 100.0]
    """
    red, green, blue = pixels.unbind(0)  # (H, W) each
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    per_chroma = chroma.clamp(min=1e-6).reciprocal_()  # a grey pixel has any hue
    hue = torch.where(
        value == red,
        (green - blue).mul_(per_chroma),
        torch.where(
            value == green,
            (blue - red).mul_(per_chroma).add_(2),
            (red - green).mul_(per_chroma).add_(4),
        ),
    )
    hue.add_(6 * turns)  # in sixths of a circle
    chroma = torch.minimum(chroma.mul_(saturation), value)  # saturation = chroma / value <= 1
    out = torch.empty_like(pixels)
    for channel, offset in enumerate((5, 3, 1)):
        k = (hue + offset).remainder_(6)
        torch.minimum(k, 4 - k, out=k).clamp_(0, 1).mul_(chroma)
        torch.sub(value, k, out=out[channel])
    return out
