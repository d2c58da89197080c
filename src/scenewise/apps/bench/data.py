"""Benchmark of data loading: from an image file to a training crop, against PIL and OpenCV.

The images are 1024 x 2048 and compress like photographs; the crops are 768 x 768 at eight scales
from 0.75 to 2, as in DANet's training on Cityscapes. One thread, as in a data loader's worker.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from scenewise.classes import Classes
from scenewise.data import images
from scenewise.data.datasets import PairedDataset
from scenewise.data.photometric import PhotometricDistortion
from scenewise.data.transforms import RandomScaleCrop
from scenewise.data.value_range import ImageFormat

cv2: Any = None
with suppress(ImportError):  # pip install 'scenewise[bench]'
    cv2 = import_module("cv2")

_SIZE, _CROP, _CLASSES = (1024, 2048), 768, 19
_SCALES = tuple(0.75 + 1.25 * k / 7 for k in range(8))  # 0.75 to 2
_Pair = tuple[Any, Any]
_Step = Callable[[float], object]


@dataclass(frozen=True)
class Rate:
    """One variant of one piece of work: its time, and the ratio to that of the first variant."""

    work: str
    variant: str
    images_per_second: float
    milliseconds: float
    time_ratio: float


def rows(repeats: int = 5) -> list[Rate]:
    """The whole pipeline for PNG and JPEG images, then each step alone."""
    table: list[Rate] = []
    with _one_thread(), tempfile.TemporaryDirectory() as folder:
        mask, files = _write_images(Path(folder))
        for kind, file in files.items():
            work = f"{kind} of {file.stat().st_size / 1e6:.1f} MB to crop"
            table += _compare(work, _pipelines(file, mask), repeats)
        for kind, file in files.items():
            table += _compare(f"step: decode {kind}", _decoders(file), repeats)
        table += _compare("step: decode mask", _mask_decoders(mask), repeats)
        image, ids = images.read_image(files["PNG"]), images.read_mask(mask)
        table += _compare("step: scale, crop, flip", _croppers(image, ids), repeats)
        table += _compare("step: all colour changes", _color_changes(image), repeats)
    return table


def _compare(work: str, variants: dict[str, _Step], repeats: int) -> list[Rate]:
    """Each variant at all scales, in turns, ``repeats`` rounds after a warm-up round."""
    times: dict[str, list[float]] = {variant: [] for variant in variants}
    for counts in [False] + [True] * repeats:
        for variant, step in variants.items():
            start = time.perf_counter()
            for scale in _SCALES:
                step(scale)
            if counts:
                times[variant].append((time.perf_counter() - start) / len(_SCALES))
    seconds = {variant: statistics.median(values) for variant, values in times.items()}
    first = next(iter(seconds.values()))
    return [Rate(work, variant, 1 / s, 1000 * s, s / first) for variant, s in seconds.items()]


def _pipelines(file: Path, mask: Path) -> dict[str, _Step]:
    """From the files to a crop: the variants of :func:`_decoders` and :func:`_croppers`."""
    variants: dict[str, _Step] = {
        "PIL + torchvision v2": lambda s: _v2_crop(_open_pil(file), _open_pil(mask), s)
    }
    if cv2 is not None:
        variants["OpenCV"] = lambda s: _cv2_resize_first(*_open_cv2(file, mask), s)
        variants["OpenCV, crop first"] = lambda s: _cv2_crop_first(*_open_cv2(file, mask), s)
    dataset = PairedDataset([file], [mask], Classes.numbered(_CLASSES))

    def scenewise(scale: float) -> object:
        dataset.transform = _training_transform(scale)
        return dataset[0]

    return variants | {"scenewise, PIL alone": _without_fast(scenewise), "scenewise": scenewise}


def _decoders(file: Path) -> dict[str, _Step]:
    """To an array of red, green, blue."""
    variants: dict[str, _Step] = {"PIL": lambda s: np.array(_open_pil(file))}
    if cv2 is not None:
        read = partial(cv2.imread, str(file), cv2.IMREAD_COLOR)
        variants["OpenCV"] = lambda s: read()
    scenewise: _Step = lambda s: images.read_image(file)  # noqa: E731
    return variants | {"scenewise, PIL alone": _without_fast(scenewise), "scenewise": scenewise}


def _mask_decoders(mask: Path) -> dict[str, _Step]:
    """To an array of class ids; scenewise also rejects invalid ids."""
    variants: dict[str, _Step] = {"PIL": lambda s: np.array(_open_pil(mask))}
    if cv2 is not None:
        read = partial(cv2.imread, str(mask), cv2.IMREAD_UNCHANGED)
        variants["OpenCV"] = lambda s: read()
    return variants | {"scenewise": lambda s: images.read_mask(mask)}


def _croppers(image: Tensor, ids: Tensor) -> dict[str, _Step]:
    """From a decoded image to a crop."""
    array, mask = image.permute(1, 2, 0).contiguous().numpy(), ids.numpy()  # (H, W, 3), (H, W)
    both = Image.fromarray(array), Image.fromarray(mask)
    variants: dict[str, _Step] = {"PIL + torchvision v2": lambda s: _v2_crop(*both, s)}
    if cv2 is not None:
        variants["OpenCV"] = lambda s: _cv2_resize_first(array, mask, s)
        variants["OpenCV, crop first"] = lambda s: _cv2_crop_first(array, mask, s)
    pair = tv_tensors.Image(image), tv_tensors.Mask(ids)
    return variants | {"scenewise": lambda s: _contiguous(*_training_transform(s)(*pair))}


def _color_changes(image: Tensor) -> dict[str, _Step]:
    """Brightness, contrast, saturation and hue of a crop, all four of them."""
    crop = tv_tensors.Image(image[:, :_CROP, :_CROP].contiguous())
    standard = v2.RandomPhotometricDistort(p=1.0)
    variants: dict[str, _Step] = {"torchvision v2": lambda s: standard(crop)}
    if cv2 is not None:
        array = crop.permute(1, 2, 0).contiguous().numpy()  # (H, W, 3)
        variants["OpenCV"] = lambda s: _cv2_colors(array)
    distort = PhotometricDistortion()
    return variants | {"scenewise": lambda s: distort.change(crop.as_subclass(Tensor), (True,) * 5)}


def _training_transform(scale: float) -> v2.Compose:
    """Scale, crop and flip, the transforms of training at one scale."""
    crop = RandomScaleCrop((_CROP, _CROP), (scale, scale))
    steps: list[nn.Module] = [crop, v2.RandomHorizontalFlip()]
    return v2.Compose(steps)


def _contiguous(image: Tensor, mask: Tensor) -> _Pair:
    """Plain contiguous tensors, as a batch needs them."""
    return image.as_subclass(Tensor).contiguous(), mask.as_subclass(Tensor).contiguous()


def _open_pil(file: Path) -> Image.Image:
    image = Image.open(file)
    image.load()  # decodes
    return image


def _v2_crop(image: Image.Image, mask: Image.Image, scale: float) -> _Pair:
    """The usual torchvision pipeline: resize the whole image, crop, flip, make tensors."""
    size = [round(side * scale) for side in _SIZE]
    both = v2.functional.resize(image, size), tv_tensors.Mask(np.array(mask)[None])
    fill: dict[Any, Any] = {Image.Image: ImageFormat().padding, tv_tensors.Mask: 255}
    steps = v2.Compose(
        [
            v2.RandomCrop(_CROP, pad_if_needed=True, fill=fill),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
        ]
    )
    ids = v2.functional.resize(both[1], size, v2.InterpolationMode.NEAREST)
    return _contiguous(*steps(both[0], tv_tensors.Mask(ids)))


def _open_cv2(file: Path, mask: Path) -> _Pair:
    """Image (blue, green, red) and mask."""
    return cv2.imread(str(file), cv2.IMREAD_COLOR), cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)


def _cv2_resize_first(image: Any, mask: Any, scale: float) -> _Pair:
    """The usual OpenCV pipeline: resize the whole image, crop, flip, make tensors."""
    size = (round(_SIZE[1] * scale), round(_SIZE[0] * scale))  # OpenCV wants (width, height)
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    top, left = (int(torch.randint(max(1, n - _CROP), ())) for n in mask.shape)
    cut = slice(top, top + _CROP), slice(left, left + _CROP)
    return _cv2_tensors(image[cut], mask[cut])


def _cv2_crop_first(image: Any, mask: Any, scale: float) -> _Pair:
    """Crop before resizing, as scenewise does."""
    side = min(_SIZE[0], round(_CROP / scale))
    top, left = (int(torch.randint(n - side + 1, ())) for n in _SIZE)
    cut = slice(top, top + side), slice(left, left + side)
    image = cv2.resize(image[cut], (_CROP, _CROP), interpolation=cv2.INTER_LINEAR)
    return _cv2_tensors(image, cv2.resize(mask[cut], (_CROP, _CROP), interpolation=0))


def _cv2_tensors(image: Any, mask: Any) -> _Pair:
    """Flipped with probability 1/2, in the order red, green, blue, as tensors."""
    if torch.rand(()) < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    planes = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))  # (3, H, W)
    return torch.from_numpy(planes), torch.from_numpy(np.ascontiguousarray(mask))


def _cv2_colors(image: Any) -> Any:
    """Brightness, contrast, saturation and hue as in mmsegmentation."""

    def convert(values: Any, factor: float, added: float) -> Any:
        floats = values.astype(np.float32) * factor + added
        return np.clip(floats, 0, 255).astype(np.uint8)

    image = convert(convert(image, 1, 20), 1.2, 0)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 1] = convert(hsv[..., 1], 1.2, 0)
    hsv[..., 0] = (hsv[..., 0].astype(int) + 9) % 180  # OpenCV stores half of the degrees
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _write_images(folder: Path) -> tuple[Path, dict[str, Path]]:
    """Write a mask of large regions, and one image as PNG and as JPEG."""
    generator = torch.Generator().manual_seed(0)

    def noise(channels: int, rows: int) -> Tensor:
        low_res = torch.randn(1, channels, rows, 2 * rows, generator=generator)
        return nn.functional.interpolate(low_res, _SIZE, mode="bicubic")[0]

    layers = [noise(3, rows) * (8 / rows) ** 0.7 for rows in (8, 32, 128, 512)]  # a 1/f spectrum
    total = torch.stack(layers).sum(0)
    pixels = (110 + 45 * (total - total.mean()) / total.std()).clamp(0, 255).byte()
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    ids = (noise(1, 32)[0] * 4 + _CLASSES / 2).clamp(0, _CLASSES - 1).byte()
    paths = {"PNG": folder / "a.png", "JPEG": folder / "a.jpg"}
    image.save(paths["PNG"])
    image.save(paths["JPEG"], quality=90)
    Image.fromarray(ids.numpy()).save(folder / "mask.png")
    return folder / "mask.png", paths


def _without_fast(step: _Step) -> _Step:
    """The step without the decoders of the extra ``fast``."""

    def run(scale: float) -> object:
        with patch.multiple(images, pyspng=None, simplejpeg=None):
            return step(scale)

    return run


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    if cv2 is not None:
        cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
