"""The windows in which a large image is predicted."""

from typing import NamedTuple

from torch import Tensor

from scenewise.inference.sliding_window import intervals, pair, two_thirds
from scenewise.visualize.attention_maps import Place


class Box(NamedTuple):
    """Rows and columns of an image, the last ones excluded."""

    top: int
    left: int
    bottom: int
    right: int

    def of(self, x: Tensor) -> Tensor:
        """The part of (..., H, W) inside."""
        return x[..., self.top : self.bottom, self.left : self.right]


def windows(size: tuple[int, int], side: int) -> list[Box]:
    """The windows of ``side`` pixels in which an image is predicted.

    >>> windows((700, 1300), 768)
    [Box(top=0, left=0, bottom=700, right=768), Box(top=0, left=512, bottom=700, right=1280), ...]
    """
    stride = two_thirds(pair(side))[0]
    rows, columns = (intervals(length, side, stride) for length in size)
    return [Box(t, left, b, right) for t, b in rows for left, right in columns]


def nearest_window(at: Place, size: tuple[int, int], side: int) -> Box:
    """The window whose centre is nearest to the pixel ``at``.

    >>> nearest_window((300, 1000), (700, 1300), 768)
    Box(top=0, left=532, bottom=700, right=1300)
    """

    def distance(box: Box) -> float:
        rows, columns = box.top + box.bottom, box.left + box.right  # twice the centre
        return (2 * at[0] - rows) ** 2 + (2 * at[1] - columns) ** 2

    return min(windows(size, side), key=distance)
