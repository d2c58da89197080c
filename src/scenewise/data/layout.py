"""``Layout``: which channels the images of a dataset have, and of how many bits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from scenewise.data.tiff import Kind
from scenewise.errors import UserError

_K = TypeVar("_K", bool, int)


@dataclass(frozen=True)
class Layout:
    """What all images of a dataset have in common.

    Attributes:
        count: number of channels.
        rgb: whether they are red, green and blue; grey images are then repeated.
        wide: whether values have more than 8 bits or are floats; they are read as float32.
        channels: the channels that are taken from a file, by index from 0; None for all but alpha.
        pages: whether the pages of a TIFF are channels.
    """

    count: int = 3
    rgb: bool = True
    wide: bool = False
    channels: tuple[int, ...] | None = None
    pages: bool = False

    def __str__(self) -> str:
        """In words, for a report.

        >>> str(Layout()), str(Layout(8, rgb=False, wide=True))
        ('3 channels (RGB) of 8 bits', '8 channels of more than 8 bits')
        """
        name = " (RGB)" if self.rgb else " (grey)" if self.count == 1 else ""
        taken = "" if self.channels is None else f" ({', '.join(map(str, self.channels))})"
        plural = "" if self.count == 1 else "s"
        bits = "more than 8 bits" if self.wide else "8 bits"
        return f"{self.count} channel{plural}{taken or name} of {bits}"


RGB = Layout()


def common_layout(
    kinds: Sequence[tuple[str, Kind]],
    channels: Sequence[int] | None = None,
    *,
    pages: bool = False,
) -> Layout:
    """The layout that images with these names and kinds share.

    Grey images among RGB ones count as RGB.

    Raises:
        UserError: they differ in channels or bits, or lack one of ``channels``.

    >>> grey, rgb = Kind(1, 0, False, False), Kind(3, 0, True, False)
    >>> common_layout([("a.png", grey), ("b.png", rgb)]).count, common_layout([("a.png", grey)]).rgb
    (3, False)
    """
    if not kinds:
        return RGB
    wide = _same(
        {kind.wide: name for name, kind in kinds}, {True: "more than 8 bits", False: "8 bits"}
    )
    if channels is not None:
        chosen = tuple(channels)
        if not chosen or min(chosen) < 0:
            raise UserError(f"--data.channels is {list(chosen)}; give indices from 0 up")
        for name, kind in kinds:
            if max(chosen) >= kind.channels + kind.alpha:
                raise UserError(
                    f"image '{name}' has {kind.channels + kind.alpha} channels, so none with index "
                    f"{max(chosen)}; correct --data.channels"
                )
        rgb = chosen == (0, 1, 2) and all(kind.rgb for _, kind in kinds)
        return Layout(len(chosen), rgb, wide, chosen, pages)
    colors = any(kind.rgb and kind.channels == 3 for _, kind in kinds)
    names = {3 if colors and kind.channels == 1 else kind.channels: name for name, kind in kinds}
    count = _same(names, {n: f"{n} channels" for n in names})
    rgb = count == 3 and all(kind.rgb or kind.channels == 1 for _, kind in kinds)
    return Layout(count, rgb, wide, None, pages)


def _same(names: dict[_K, str], words: dict[_K, str]) -> _K:
    """The one key; an error that names an image of two keys."""
    first, *others = names
    if others:
        raise UserError(
            f"image '{names[first]}' has {words[first]} and '{names[others[0]]}' "
            f"{words[others[0]]}; the images of a dataset must agree, so convert or remove some"
        )
    return first


def usage(kinds: Sequence[tuple[str, Kind]], layout: Layout) -> list[str]:
    """What is not used of the images, or used though one may not expect it, and the options.

    >>> usage([("a.png", Kind(3, 1, True, False))], RGB)
    ['the 4th channel is transparency and is not used; --data.channels [0,1,2,3] uses it']
    """
    if layout.channels is not None or not kinds:
        return []
    most = max((kind for _, kind in kinds), key=lambda kind: kind.channels + kind.alpha)
    total = most.channels + most.alpha
    if most.alpha == 1:
        every = ",".join(map(str, range(total)))
        return [
            f"the {total}th channel is transparency and is not used; --data.channels [{every}] "
            "uses it"
        ]
    if most.rgb and most.channels > 3:
        return [
            f"red, green, blue and {most.channels - 3} more channels are used; --data.channels "
            "[0,1,2] uses red, green and blue alone"
        ]
    return []
