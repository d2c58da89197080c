"""The images of the page: samples, uploads under ids that nobody can guess, and their results.

Uploads are kept in memory only, see :mod:`scenewise.apps.app.kept`.
"""

import io
import secrets
import threading
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from scenewise.apps.app.kept import MAX_SECONDS, Kept
from scenewise.apps.app.state import ImageState
from scenewise.data.images import SUFFIXES, decode_image
from scenewise.data.layout import RGB, Layout
from scenewise.data.scenes import Scenes
from scenewise.data.tiff import is_tiff, tiff_size
from scenewise.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MAX_BYTES = 20 * 2**20  # of an uploaded file
MAX_PIXELS = 2**23  # 2048 x 4096: larger images are shrunk to it
_MAX_DECODED = 2**26  # 8192 x 8192: larger images are refused
_MAX_SAMPLES = 24  # their thumbnails are loaded by every visitor
_SCENES = 6
_LARGE = threading.Lock()  # one image that must be shrunk is decoded at one time


class UnknownImage(UserError):
    """An id that no image has, or no longer."""


@dataclass(frozen=True)
class Images:
    """The images that the page knows.

    Attributes:
        layout: the channels and bits that the networks take.
        folder: of sample images; None offers generated scenes.
    """

    layout: Layout = RGB
    folder: Path | None = None
    _uploads: Kept = field(default_factory=Kept)
    _opened: Kept = field(default_factory=Kept)

    @cached_property
    def samples(self) -> dict[str, str]:
        """Names of the samples that can be read, by id.

        Raises:
            UserError: the folder does not exist or holds no image.
        """
        names = [name for name in self._names() if self._readable(name)]
        return {f"sample-{index}": name for index, name in enumerate(names)}

    def add(self, content: bytes, name: str, visitor: str = "") -> str:
        """Keep a file that ``visitor`` uploaded; returns its id.

        Raises:
            UserError: as :func:`read_upload`.
        """
        image = secrets.token_urlsafe(16)
        self._uploads.put(image, read_upload(content, name, self.layout), visitor)
        return image

    def get(self, image: str) -> ImageState:
        """The image of an id, and what was computed for it.

        Raises:
            UnknownImage: there is none.
        """
        state = self._store(image).get(image)
        if state is None and image in self.samples:
            state = self._read(self.samples[image])
            self._opened.put(image, state)
        if state is None:
            raise UnknownImage(
                "this image is no longer here; upload it again (images are removed after "
                f"{MAX_SECONDS // 60} minutes, or sooner when there are many)"
            )
        return state

    def keep(self, image: str, state: ImageState) -> None:
        """Keep what ``state`` has computed for an image."""
        self._store(image).merge(image, state)

    def forget(self) -> None:
        """Drop what is too old."""
        self._uploads.forget()
        self._opened.forget()

    def _store(self, image: str) -> Kept:
        return self._opened if image in self.samples else self._uploads

    def _names(self) -> list[str]:
        if self.folder is None:
            return [f"scene {k}" for k in range(_SCENES)] if self.layout == RGB else []
        if not self.folder.is_dir():
            raise UserError(f"folder '{self.folder}' not found; give --samples a folder of images")
        names = sorted(p.name for p in self.folder.iterdir() if p.suffix.lower() in SUFFIXES)
        if not names:
            raise UserError(f"no image in '{self.folder}'; give --samples a folder of images")
        return names[:_MAX_SAMPLES]

    def _read(self, name: str) -> ImageState:
        if self.folder is None:
            names = self._names()
            return ImageState(name, Scenes(len(names)).read(names.index(name))[0])
        path = self.folder / name
        if path.stat().st_size > MAX_BYTES:
            raise _too_many_bytes(name, path.stat().st_size)
        return read_upload(path.read_bytes(), name, self.layout)

    def _readable(self, name: str) -> bool:
        try:
            self._read(name)
        except (UserError, OSError):
            return False
        return True


def read_upload(content: bytes, name: str, layout: Layout = RGB) -> ImageState:
    """A state of the image file called ``name``; a large image is shrunk to ``MAX_PIXELS``.

    Raises:
        UserError: too many bytes or pixels, not an image of a supported format, or one of other
            channels or bits than ``layout``.
    """
    formats = f"supported are {', '.join(FORMATS)}"
    if len(content) > MAX_BYTES:
        raise _too_many_bytes(name, len(content))
    try:
        height, width = _size_of(content)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"'{name}' claims far too many pixels; {formats}") from error
    except Exception as error:  # decoders raise errors of many types on broken files
        raise UserError(f"'{name}' is not a readable image; {formats}") from error
    size = layout.count * (4 if layout.wide else 1)  # bytes of a pixel
    most = 3 * _MAX_DECODED // size
    if width * height > most:
        raise UserError(
            f"'{name}' has {height} x {width} pixels, more than the limit of "
            f"{most / 1e6:.1f} million; make it smaller, or use scenewise predict"
        )
    try:
        if width * height <= 3 * MAX_PIXELS // size:
            return ImageState(name, decode_image(content, name, layout))
        with _LARGE:
            return _shrunk(name, decode_image(content, name, layout), 3 * MAX_PIXELS // size)
    except UserError as error:
        if isinstance(error.__cause__, UserError):  # other channels or bits
            raise
        raise UserError(f"'{name}' is damaged; {formats}") from error


def _too_many_bytes(name: str, size: int) -> UserError:
    return UserError(
        f"'{name}' has {size / 2**20:.1f} MiB, more than the limit of "
        f"{MAX_BYTES // 2**20}; save it smaller"
    )


def _shrunk(name: str, image: Tensor, pixels: int) -> ImageState:
    """A state of an image (C, H, W) that is resized, antialiased, to at most ``pixels``."""
    height, width = image.shape[1:]
    factor = (pixels / (height * width)) ** 0.5
    size = max(1, int(height * factor)), max(1, int(width * factor))
    small = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
    return ImageState(name, small, shrunk_from=(height, width))


def _size_of(content: bytes) -> tuple[int, int]:
    """Height and width, from the header of an image."""
    if is_tiff(content):
        return tiff_size(content)
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        return image.height, image.width
