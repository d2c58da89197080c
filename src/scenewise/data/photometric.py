"""Random changes of colour, as mmsegmentation and SSD make them."""

import torch
from torch import Tensor, nn
from torchvision import tv_tensors


class PhotometricDistortion(nn.Module):
    """Brightness, contrast, saturation and hue, each changed in half of the pictures.

    mmsegmentation's ranges by default: up to ``brightness`` levels of 255 are added; contrast and
    saturation (the S of HSV) are multiplied by 1 - x to 1 + x; the hue turns by up to ``hue`` of a
    full circle. Contrast comes before saturation and hue or after them, as often. In between,
    values are floats within 0..255; they are rounded once, at the end.

    Shape:
        picture (3, H, W), uint8, and any mask, to the same; the mask is not touched.
    """

    def __init__(
        self,
        brightness: float = 32.0,
        contrast: float = 0.5,
        saturation: float = 0.5,
        hue: float = 0.1,
    ) -> None:
        super().__init__()
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue

    def forward(
        self, image: tv_tensors.Image, mask: tv_tensors.Mask
    ) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        changes = tuple((torch.rand(5) < 0.5).tolist())
        if not any(changes[:4]):
            return image, mask
        return tv_tensors.Image(self.change(image.as_subclass(Tensor), changes)), mask

    def change(self, image: Tensor, changes: tuple[bool, ...]) -> Tensor:
        """Change (brightness, contrast, saturation, hue), contrast early, by random amounts."""
        brighter, contrasting, saturated, turned, early = changes
        added, contrast, saturation, turn = self._amounts()
        pixels = image.to(torch.float32, memory_format=torch.contiguous_format)
        if brighter:
            pixels.add_(added).clamp_(0, 255)
        if contrasting and early:
            pixels.mul_(contrast).clamp_(0, 255)
        if saturated or turned:
            pixels = turn_hue(pixels, turn * turned, saturation if saturated else 1.0)
        if contrasting and not early:
            pixels.mul_(contrast).clamp_(0, 255)
        return pixels.round_().to(torch.uint8)

    def _amounts(self) -> tuple[float, float, float, float]:
        added, contrast, saturation, turn = (2 * torch.rand(4) - 1).tolist()
        return (
            added * self.brightness,
            1 + contrast * self.contrast,
            1 + saturation * self.saturation,
            turn * self.hue,
        )


def turn_hue(pixels: Tensor, turn: float, saturation: float = 1.0) -> Tensor:
    """Turn the hue of HSV by ``turn`` circles and multiply its saturation, which ends at 1.

    With v the largest and c the largest less the smallest of red, green and blue, and h in sixths
    of a circle: channel n becomes v - c clamp(min(k, 4 - k), 0, 1) with k = (h + n) mod 6 and n =
    5, 3, 1. It never builds the HSV picture, which makes it about twice as fast as torchvision.

    Args:
        pixels: (3, H, W), float, red, green, blue, not below 0.
        turn: in full circles.
        saturation: a factor.

    >>> red = torch.tensor([200.0, 0.0, 0.0]).view(3, 1, 1)
    >>> turn_hue(red, 1 / 3).flatten().round().tolist()  # green
    [0.0, 200.0, 0.0]
    >>> turn_hue(red, 0, saturation=0.5).flatten().tolist()
    [200.0, 100.0, 100.0]
    """
    red, green, blue = pixels.unbind(0)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    per_chroma = chroma.clamp(min=1e-6).reciprocal_()
    hue = torch.where(
        value == red,
        (green - blue).mul_(per_chroma),
        torch.where(
            value == green,
            (blue - red).mul_(per_chroma).add_(2),
            (red - green).mul_(per_chroma).add_(4),
        ),
    )
    hue.add_(6 * turn)
    chroma = torch.minimum(chroma.mul_(saturation), value)
    out = torch.empty_like(pixels)
    for channel, offset in enumerate((5, 3, 1)):
        place = (hue + offset).remainder_(6)
        torch.minimum(place, 4 - place, out=place).clamp_(0, 1).mul_(chroma)
        torch.sub(value, place, out=out[channel])
    return out
