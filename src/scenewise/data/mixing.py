"""Training windows that show rare classes more often: chosen, pasted, or put together from four."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors

from scenewise.data.datasets import SegmentationDataset, Transform

_Pair = tuple[Tensor, Tensor]  # image (C, H, W) and mask (H, W)


def rare_class(mask: Tensor, ignore_index: int = 255) -> int | None:
    r"""A class of the mask, drawn by the inverse of its pixels: :math:`P(k) \propto 1 / n_k`.

    Args:
        mask: class ids (H, W), uint8.
        ignore_index: id that is no class.

    Returns:
        The class, or None where no pixel is labelled.

    >>> rare_class(torch.tensor([[3, 3, 255]], dtype=torch.uint8))
    3
    >>> rare_class(torch.tensor([[255]], dtype=torch.uint8)) is None
    True
    """
    counts = torch.bincount(mask.flatten(), minlength=256)
    counts[ignore_index] = 0
    present = counts.nonzero().flatten()
    if not len(present):
        return None
    return int(present[torch.multinomial(1 / counts[present].double(), 1)])


def rare_pixel(mask: Tensor, ignore_index: int = 255) -> tuple[int, int] | None:
    """(row, column) of any pixel of a :func:`rare_class`; None where no pixel is labelled.

    >>> rare_pixel(torch.tensor([[255, 255], [255, 1]], dtype=torch.uint8))
    (1, 1)
    """
    chosen = rare_class(mask, ignore_index)
    if chosen is None:
        return None
    places = (mask == chosen).flatten().nonzero()  # (N, 1)
    place = int(places[torch.randint(len(places), ())])
    return divmod(place, mask.shape[1])


def pasted(image: Tensor, mask: Tensor, donor: _Pair, chosen: int) -> _Pair:
    """The pixels of class ``chosen`` of ``donor``, and their labels, over image and mask.

    Simple copy-paste (Ghiasi et al., CVPR 2021) with the pixels of a class for an instance, and
    without a soft edge: each pixel and its label come from one source.

    Args:
        image: (C, H, W).
        mask: class ids (H, W).
        donor: image and mask of the same sizes.
        chosen: a class; nothing else of ``donor`` is taken.

    >>> image, mask = torch.zeros(1, 1, 3), torch.zeros(1, 3, dtype=torch.uint8)
    >>> donor = torch.tensor([[[7.0, 8.0, 9.0]]]), torch.tensor([[2, 1, 255]], dtype=torch.uint8)
    >>> [t.flatten().tolist() for t in pasted(image, mask, donor, 2)]
    [[7.0, 0.0, 0.0], [2, 0, 0]]
    """
    here = donor[1] == chosen  # (H, W)
    return torch.where(here, donor[0], image), torch.where(here, donor[1], mask)


def mosaic(parts: list[_Pair]) -> _Pair:
    """Four images and masks as one: top left, top right, bottom left, bottom right (YOLOv4, 2020).

    >>> tile = lambda k: (torch.full((3, 2, 1), k), torch.full((2, 1), k))
    >>> mosaic([tile(k) for k in range(4)])[1]
    tensor([[0, 1],
            [0, 1],
            [2, 3],
            [2, 3]])
    """
    images, masks = zip(*parts, strict=True)
    rows = [torch.cat(images[:2], 2), torch.cat(images[2:], 2)]
    ids = [torch.cat(masks[:2], 1), torch.cat(masks[2:], 1)]
    return torch.cat(rows, 1), torch.cat(ids, 0)


class Windows(NamedTuple):
    """Transforms to windows of any size.

    Attributes:
        make: ``make(size, rare=share)`` is the transform to windows of that size.
        rare: share of ordinary windows that contain a rare class.
    """

    make: Callable[..., Transform]
    rare: float = 0.0


class Mix:
    """A joint transform that also takes pixels of other training images.

    A share ``mosaic`` of the results is put together from windows of four images that meet at a
    point in the middle half; a share ``copy_paste``, drawn apart from it, gets the pixels of one
    class of another image's window, the class drawn as :func:`rare_class`. All windows are cut,
    scaled, mirrored and coloured each by itself. Random numbers come from PyTorch alone.

    Args:
        windows: how windows are cut; those of which pixels are pasted all contain a rare class.
        size: (height, width) of the result, 2 or more each.
        dataset: the training images.
        copy_paste, mosaic: shares from 0 to 1.

    Shape:
        image (C, H, W), uint8 or float, and mask (H, W), uint8, to (C, *size) and size.
    """

    def __init__(
        self,
        windows: Windows,
        size: tuple[int, int],
        dataset: SegmentationDataset,
        *,
        copy_paste: float = 0.0,
        mosaic: float = 0.0,
    ) -> None:
        self.windows = windows
        self.size = size
        self.dataset = dataset
        self.copy_paste = copy_paste
        self.mosaic = mosaic

    def __call__(
        self, image: tv_tensors.Image, mask: tv_tensors.Mask
    ) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        mixed, pasting = (torch.rand(2) < torch.tensor([self.mosaic, self.copy_paste])).tolist()
        result = self._mosaic(image, mask) if mixed else self._window(self.size, (image, mask))
        if pasting:
            donor = self._window(self.size, self._other(), rare=1.0)
            chosen = rare_class(donor[1], self.dataset.classes.ignore_index)
            result = result if chosen is None else pasted(*result, donor, chosen)
        return tv_tensors.Image(result[0]), tv_tensors.Mask(result[1])

    def _mosaic(self, image: Tensor, mask: Tensor) -> _Pair:
        """Windows of this image and of three others, this one at any of the four places."""
        height, width = self.size
        top, left = _middle(height), _middle(width)
        sizes = [(h, w) for h in (top, height - top) for w in (left, width - left)]
        own = int(torch.randint(4, ()))
        pairs = [(image, mask) if k == own else self._other() for k in range(4)]
        return mosaic([self._window(s, pair) for s, pair in zip(sizes, pairs, strict=True)])

    def _other(self) -> _Pair:
        return self.dataset.read(int(torch.randint(len(self.dataset), ())))

    def _window(self, size: tuple[int, int], pair: _Pair, rare: float | None = None) -> _Pair:
        transform = self.windows.make(size, rare=self.windows.rare if rare is None else rare)
        image, mask = transform(tv_tensors.Image(pair[0]), tv_tensors.Mask(pair[1]))
        return image.as_subclass(Tensor), mask.as_subclass(Tensor)


def _middle(length: int) -> int:
    """A random place in the middle half of a side, with at least one pixel on each side of it."""
    low = max(1, length // 4)
    return low + int(torch.randint(length - 2 * low + 1, ()))
