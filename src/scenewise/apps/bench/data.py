"""From a picture's file to a training window, on one core, against PIL and OpenCV.

The pictures are 1024 x 2048 and look like photographs to a compressor; the windows are 768 x 768 at
eight scales from 0.75 to 2, as DANet was trained on Cityscapes.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
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
from scenewise.data.transforms import MEAN_COLOR, RandomScaleCrop

cv2: Any = None
with suppress(ImportError):  # pip install 'scenewise[bench]'
    cv2 = import_module("cv2")

SIZE, WINDOW, CLASSES = (1024, 2048), 768, 19
SCALES = tuple(0.75 + 1.25 * k / 7 for k in range(8))
Pair = tuple[Any, Any]
Step = Callable[[float], object]


@dataclass(frozen=True)
class Rate:
    """One way of one piece of work: its time, and over that of the first way."""

    work: str
    way: str
    pictures_per_second: float
    milliseconds: float
    time_ratio: float

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form."""
        return asdict(self)


def rows(repeats: int = 5) -> list[Rate]:
    """The whole way for PNG and JPEG pictures, then each step alone."""
    found: list[Rate] = []
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        mask, pictures = write_pictures(Path(folder))
        for kind, picture in pictures.items():
            work = f"{kind} of {picture.stat().st_size / 1e6:.1f} MB to window"
            found += compare(work, whole_ways(picture, mask), repeats)
        for kind, picture in pictures.items():
            found += compare(f"step: decode {kind}", decoders(picture), repeats)
        found += compare("step: decode mask", mask_decoders(mask), repeats)
        image, ids = images.read_image(pictures["PNG"]), images.read_mask(mask)
        found += compare("step: scale, window, flip", croppers(image, ids), repeats)
        found += compare("step: all colour changes", colorists(image), repeats)
    return found


def compare(work: str, ways: dict[str, Step], repeats: int) -> list[Rate]:
    """Each way at all scales, in turns, ``repeats`` rounds after one that does not count."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    for counts in [False] + [True] * repeats:
        for way, step in ways.items():
            start = time.perf_counter()
            for scale in SCALES:
                step(scale)
            if counts:
                times[way].append((time.perf_counter() - start) / len(SCALES))
    seconds = {way: statistics.median(values) for way, values in times.items()}
    first = next(iter(seconds.values()))
    return [Rate(work, way, 1 / s, 1000 * s, s / first) for way, s in seconds.items()]


def whole_ways(picture: Path, mask: Path) -> dict[str, Step]:
    """From the files to a window: the ways of :func:`decoders` with those of :func:`croppers`."""
    ways: dict[str, Step] = {
        "PIL + torchvision v2": lambda s: v2_window(open_pil(picture), open_pil(mask), s)
    }
    if cv2 is not None:
        ways["OpenCV"] = lambda s: cv2_whole(*open_cv2(cv2, picture, mask), s)
        ways["OpenCV, window first"] = lambda s: cv2_window(*open_cv2(cv2, picture, mask), s)
    dataset = PairedDataset([picture], [mask], Classes.numbered(CLASSES))

    def ours(scale: float) -> object:
        dataset.transform = our_transform(scale)
        return dataset[0]

    return ways | {"scenewise, PIL alone": slowly(ours), "scenewise": ours}


def decoders(picture: Path) -> dict[str, Step]:
    """To an array of red, green, blue."""
    ways: dict[str, Step] = {"PIL": lambda s: np.array(open_pil(picture))}
    if cv2 is not None:
        read = partial(cv2.imread, str(picture), cv2.IMREAD_COLOR)
        ways["OpenCV"] = lambda s: read()
    ours: Step = lambda s: images.read_image(picture)  # noqa: E731
    return ways | {"scenewise, PIL alone": slowly(ours), "scenewise": ours}


def mask_decoders(mask: Path) -> dict[str, Step]:
    """To an array of ids; ours also looks for ids that are no class."""
    ways: dict[str, Step] = {"PIL": lambda s: np.array(open_pil(mask))}
    if cv2 is not None:
        read = partial(cv2.imread, str(mask), cv2.IMREAD_UNCHANGED)
        ways["OpenCV"] = lambda s: read()
    return ways | {"scenewise": lambda s: images.read_mask(mask)}


def croppers(image: Tensor, ids: Tensor) -> dict[str, Step]:
    """From a decoded picture to a window."""
    array, mask = image.permute(1, 2, 0).contiguous().numpy(), ids.numpy()
    pictures = Image.fromarray(array), Image.fromarray(mask)
    ways: dict[str, Step] = {"PIL + torchvision v2": lambda s: v2_window(*pictures, s)}
    if cv2 is not None:
        ways["OpenCV"] = lambda s: cv2_whole(array, mask, s)
        ways["OpenCV, window first"] = lambda s: cv2_window(array, mask, s)
    pair = tv_tensors.Image(image), tv_tensors.Mask(ids)
    return ways | {"scenewise": lambda s: finished(*our_transform(s)(*pair))}


def colorists(image: Tensor) -> dict[str, Step]:
    """Brightness, contrast, saturation and hue of a window, all four of them."""
    window = tv_tensors.Image(image[:, :WINDOW, :WINDOW].contiguous())
    standard = v2.RandomPhotometricDistort(p=1.0)
    ways: dict[str, Step] = {"torchvision v2": lambda s: standard(window)}
    if cv2 is not None:
        array = window.permute(1, 2, 0).contiguous().numpy()
        ways["OpenCV"] = lambda s: cv2_colors(cv2, array)
    ours = PhotometricDistortion()
    return ways | {"scenewise": lambda s: ours.change(window.as_subclass(Tensor), (True,) * 5)}


def our_transform(scale: float) -> v2.Compose:
    """Scale, window and flip, the transforms of training at one scale."""
    crop = RandomScaleCrop((WINDOW, WINDOW), (scale, scale))
    steps: list[nn.Module] = [crop, v2.RandomHorizontalFlip()]
    return v2.Compose(steps)


def finished(image: Tensor, mask: Tensor) -> Pair:
    """Contiguous, as a batch needs them."""
    return image.as_subclass(Tensor).contiguous(), mask.as_subclass(Tensor).contiguous()


def open_pil(file: Path) -> Image.Image:
    """The picture, decoded."""
    picture = Image.open(file)
    picture.load()
    return picture


def v2_window(picture: Image.Image, mask: Image.Image, scale: float) -> Pair:
    """The usual way with torchvision: resize all, cut a window, mirror, make tensors."""
    size = [round(side * scale) for side in SIZE]
    both = v2.functional.resize(picture, size), tv_tensors.Mask(np.array(mask)[None])
    fill: dict[Any, Any] = {Image.Image: MEAN_COLOR, tv_tensors.Mask: 255}
    steps = v2.Compose(
        [
            v2.RandomCrop(WINDOW, pad_if_needed=True, fill=fill),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
        ]
    )
    ids = v2.functional.resize(both[1], size, v2.InterpolationMode.NEAREST)
    return finished(*steps(both[0], tv_tensors.Mask(ids)))


def open_cv2(cv2: ModuleType, picture: Path, mask: Path) -> Pair:
    """Image (blue, green, red) and mask."""
    return cv2.imread(str(picture), cv2.IMREAD_COLOR), cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)


def cv2_whole(image: Any, mask: Any, scale: float) -> Pair:
    """The usual way with OpenCV: resize all, cut a window, mirror, make tensors."""
    assert cv2 is not None
    size = (round(SIZE[1] * scale), round(SIZE[0] * scale))
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    top, left = (int(torch.randint(max(1, n - WINDOW), ())) for n in mask.shape)
    cut = slice(top, top + WINDOW), slice(left, left + WINDOW)
    return cv2_finished(image[cut], mask[cut])


def cv2_window(image: Any, mask: Any, scale: float) -> Pair:
    """The window cut before it is scaled, as ours."""
    assert cv2 is not None
    side = min(SIZE[0], round(WINDOW / scale))
    top, left = (int(torch.randint(n - side + 1, ())) for n in SIZE)
    cut = slice(top, top + side), slice(left, left + side)
    image = cv2.resize(image[cut], (WINDOW, WINDOW), interpolation=cv2.INTER_LINEAR)
    return cv2_finished(image, cv2.resize(mask[cut], (WINDOW, WINDOW), interpolation=0))


def cv2_finished(image: Any, mask: Any) -> Pair:
    """Mirrored half of the time; red, green, blue; tensors."""
    if torch.rand(()) < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    planes = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))
    return torch.from_numpy(planes), torch.from_numpy(np.ascontiguousarray(mask))


def cv2_colors(cv2: ModuleType, image: Any) -> Any:
    """Brightness, contrast, saturation and hue as mmsegmentation changes them."""

    def convert(values: Any, factor: float, added: float) -> Any:
        floats = values.astype(np.float32) * factor + added
        return np.clip(floats, 0, 255).astype(np.uint8)

    image = convert(convert(image, 1, 20), 1.2, 0)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 1] = convert(hsv[..., 1], 1.2, 0)
    hsv[..., 0] = (hsv[..., 0].astype(int) + 9) % 180
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def write_pictures(folder: Path) -> tuple[Path, dict[str, Path]]:
    """A mask of large regions, and one picture as PNG and as JPEG."""
    generator = torch.Generator().manual_seed(0)

    def noise(channels: int, rows: int) -> Tensor:
        small = torch.randn(1, channels, rows, 2 * rows, generator=generator)
        return nn.functional.interpolate(small, SIZE, mode="bicubic")[0]

    layers = [noise(3, rows) * (8 / rows) ** 0.7 for rows in (8, 32, 128, 512)]
    total = torch.stack(layers).sum(0)
    pixels = (110 + 45 * (total - total.mean()) / total.std()).clamp(0, 255).byte()
    picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    ids = (noise(1, 32)[0] * 4 + CLASSES / 2).clamp(0, CLASSES - 1).byte()
    paths = {"PNG": folder / "a.png", "JPEG": folder / "a.jpg"}
    picture.save(paths["PNG"])
    picture.save(paths["JPEG"], quality=90)
    Image.fromarray(ids.numpy()).save(folder / "mask.png")
    return folder / "mask.png", paths


def slowly(step: Step) -> Step:
    """The step without the decoders of the extra ``fast``."""

    def run(scale: float) -> object:
        with patch.multiple(images, pyspng=None, simplejpeg=None):
            return step(scale)

    return run


@contextmanager
def one_thread() -> Iterator[None]:
    """As in a worker of a data loader."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    if cv2 is not None:
        cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
