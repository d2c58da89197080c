"""What the page keeps: states of images by their ids, bounded for each visitor and in all.

A visitor may keep :data:`MAX_KEPT` images and :data:`_MAX_OWN` bytes, all visitors
:data:`_MAX_ALL` bytes. Beyond that, results go before images, since they can be computed again, and
what was used last goes last. Where all visitors together have too much, the one with the most bytes
loses first, so that nobody can push out the images of the others.
"""

import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from typing import NamedTuple

from torch import Tensor

from scenewise.apps.app.state import ImageState

MAX_KEPT = 16  # images of one visitor
MAX_SECONDS = 3600  # for which an image is kept
_MAX_OWN = 2**29  # bytes of one visitor: 16 images of 2048 x 4096 pixels take 384 MiB
_MAX_ALL = 2**31  # bytes of all visitors
_LEAST = 2**20  # bytes that an image counts at least, which bounds the number of all images


class _Entry(NamedTuple):
    """An image that is kept, whose it is, and since when."""

    state: ImageState
    visitor: str
    since: float
    size: int  # bytes

    def with_state(self, state: ImageState) -> "_Entry":
        return self._replace(state=state, size=bytes_of(state))


@dataclass
class Kept:
    """States of images by id, the one used last at the end."""

    entries: OrderedDict[str, _Entry] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, image: str, state: ImageState, visitor: str = "") -> None:
        """Keep a new state of ``visitor``."""
        with self.lock:
            self.entries[image] = _Entry(state, visitor, time.monotonic(), bytes_of(state))
            self._bound(image)

    def get(self, image: str) -> ImageState | None:
        """The state of an image, which is now the one used last."""
        self.forget()
        with self.lock:
            if image not in self.entries:
                return None
            self.entries.move_to_end(image)
            return self.entries[image].state

    def merge(self, image: str, state: ImageState) -> None:
        """Keep what ``state`` has computed, unless the image was dropped in the meantime."""
        with self.lock:
            if image in self.entries:
                old = self.entries[image]
                self.entries[image] = old.with_state(old.state.merged(state))
                self._bound(image)

    def forget(self) -> None:
        """Drop what is too old."""
        oldest = time.monotonic() - MAX_SECONDS
        with self.lock:
            for image in [k for k, entry in self.entries.items() if entry.since < oldest]:
                del self.entries[image]

    def _bound(self, image: str) -> None:
        """Drop what exceeds the limits, but never ``image``, which is in use."""
        visitor = self.entries[image].visitor
        own = [k for k in self._of(visitor) if k != image]
        for k in own[: max(0, len(own) + 1 - MAX_KEPT)]:
            del self.entries[k]
        while self._bytes()[visitor] > _MAX_OWN and self._shed(visitor, image):
            pass
        while (sizes := self._bytes()).total() > _MAX_ALL:
            if not any(self._shed(heaviest, image) for heaviest, _ in sizes.most_common()):
                return

    def _shed(self, visitor: str, image: str) -> bool:
        """Drop the oldest results of a visitor, else the oldest image; False if there is none."""
        others = [k for k in self._of(visitor) if k != image]
        for k in others:
            if self.entries[k].state.results:
                self.entries[k] = self.entries[k].with_state(
                    replace(self.entries[k].state, results={})
                )
                return True
        if others:
            del self.entries[others[0]]
        return bool(others)

    def _of(self, visitor: str) -> list[str]:
        return [k for k, entry in self.entries.items() if entry.visitor == visitor]

    def _bytes(self) -> Counter[str]:
        """Bytes by visitor."""
        sizes = Counter[str]()
        for entry in self.entries.values():
            sizes[entry.visitor] += entry.size
        return sizes


def bytes_of(state: ImageState) -> int:
    """Bytes of an image and of all that was computed for it; shared memory counts once.

    >>> import torch
    >>> bytes_of(ImageState("a", torch.zeros(3, 1000, 2000, dtype=torch.uint8)))
    6000000
    """
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in _tensors(state)}
    return max(_LEAST, sum(storage.nbytes() for storage in storages.values()))


def _tensors(value: object) -> Iterator[Tensor]:
    """All tensors in mappings, lists and data classes, but not the weights of modules."""
    if isinstance(value, Tensor):
        yield value
        return
    parts: list[object] = []
    if isinstance(value, Mapping):
        parts = list(value.values())
    elif isinstance(value, list | tuple | deque):
        parts = list(value)
    elif is_dataclass(value):
        parts = list(vars(value).values())
    for part in parts:
        yield from _tensors(part)
