"""Label Studio: its JSON of tasks, and "Brush labels to PNG", one PNG for each label."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scenewise.classes import Classes
from scenewise.data.formats.listing import Listing
from scenewise.data.formats.regions import Bitmap, Ellipse, Mask, Polygon, Shape, Size, rectangle
from scenewise.data.formats.tool_dataset import (
    Drawn,
    DrawnDataset,
    ImageFiles,
    by_split,
    drawn_classes,
    read_json,
    reading,
    warn,
    written_labels,
)
from scenewise.data.images import SUFFIXES
from scenewise.errors import UserError

_PNG = re.compile(r"task-(\d+)-annotation-(\d+)-by-\d+-tag-(.+)-\d+\.png")
_UPLOAD = re.compile(r"^[0-9a-f]{8}-")  # put before the name of an uploaded file
_RUN_BITS = (3, 4, 8, 16)  # lengths that a run may take in "rle"
# Types of regions that have an area, without and with their label.
_SHAPES = {
    "brush": "brushlabels",
    "polygon": "polygonlabels",
    "rectangle": "rectanglelabels",
    "ellipse": "ellipselabels",
}
_FEW = 20  # JSON files that are looked into
_TASK_KEYS = ('"data"', '"result"')


class LabelStudio(DrawnDataset):
    """The JSON export with the images: brush, polygons, rectangles and ellipses.

    Later regions are drawn on earlier ones, other pixels are background. Tasks without an
    annotation are left out, which is said; a file of predictions alone is read as labels, which is
    said too. An image is found by the name that the task gives, with or without the eight digits
    that an upload puts before it.
    """

    title = "Label Studio"
    needs = "a JSON export of tasks"

    @staticmethod
    def recognise(listing: Listing) -> str | None:
        """Why the folder holds an export of Label Studio, if it does."""
        files = _json_files(listing)
        if files:
            return f"'{files[0]}' has tasks of Label Studio"
        pngs = _png_files(listing)
        return f"'{pngs[0]}' is called as Label Studio's PNGs" if pngs else None

    @classmethod
    def parts(cls, listing: Listing) -> dict[str, list[str]]:
        files = _json_files(listing)
        if not files and _png_files(listing):
            raise UserError(
                f"the PNGs of Label Studio in '{listing.root}' name tasks, not images; add the "
                "JSON export of the same project, or give --data.format labelstudio_order, which "
                "takes the n-th task for the n-th image by name"
            )
        return by_split(files, names=True)

    def draw(self, listing: Listing, part: list[str]) -> tuple[list[Drawn], Classes]:
        every = [results for f in _json_files(listing) for *_, results in _tasks(listing, f)]
        everywhere = [result for results in every for result in results]
        classes, ids = drawn_classes(sorted({label for r in everywhere for label in _label(r)}))
        found = [(path, *task) for path in part for task in _tasks(listing, path)]
        images = _images(listing, [name for _, _, name, _ in found])
        items = []
        for (path, key, _, results), image in zip(found, images, strict=True):
            source = listing.root / path / key
            with reading(source, self.title):
                sizes = {(int(r["original_height"]), int(r["original_width"])) for r in results}
                if len(sizes) > 1:
                    raise ValueError("its regions are of images of different sizes")
                regions = [(ids[label], _shape(r)) for r in results for label in _label(r)]
                items.append(Drawn(image, source, next(iter(sizes), None), regions))
        return items, classes


class LabelStudioOrder(DrawnDataset):
    """ "Brush labels to PNG" without the JSON: the n-th task is taken for the n-th image.

    The PNGs are called ``task-ID-annotation-ID-by-ID-tag-LABEL-N.png``, so that nothing says which
    image a task is of. Tasks are sorted by number, images by name, without the eight digits of an
    upload. That is right only if the images were uploaded in that order, so this layout is never
    recognised and has to be chosen. Opaque pixels have the label, all others are background.
    """

    title = "Label Studio"
    needs = "PNG files called task-1-annotation-1-by-1-tag-LABEL-0.png"

    @classmethod
    def parts(cls, listing: Listing) -> dict[str, list[str]]:
        files = _png_files(listing)
        return {"all": files} if files else {}

    def draw(self, listing: Listing, part: list[str]) -> tuple[list[Drawn], Classes]:
        tasks: dict[int, dict[str, list[str]]] = {}
        for path in part:
            task, annotation, _ = _png_name(path)
            tasks.setdefault(task, {}).setdefault(annotation, []).append(path)
        classes, ids = drawn_classes(sorted({_png_name(path)[2] for path in part}))
        images = [p for p in listing.paths if p.lower().endswith(SUFFIXES) and p not in part]
        images.sort(key=lambda p: _UPLOAD.sub("", PurePosixPath(p).name))
        if len(images) != len(tasks):
            raise UserError(
                f"'{listing.root}' has {len(images)} images and PNGs of {len(tasks)} tasks; add "
                "the JSON export, which says which task is of which image"
            )
        items = []
        for task, image in zip(sorted(tasks), images, strict=True):
            if len(tasks[task]) > 1:
                raise UserError(f"task {task} has several annotations; leave one in the folder")
            (files,) = tasks[task].values()
            source = listing.root / files[0]
            regions = [(ids[_png_name(f)[2]], _PngFile(listing.root / f)) for f in files]
            items.append(Drawn(listing.root / image, source, None, regions))
        return items, classes


@dataclass(frozen=True)
class _PngFile:
    """A PNG of one label: its non-zero pixels."""

    path: Path

    def mask(self, size: Size) -> Mask:
        return Bitmap(self.path.read_bytes()).mask(size)


@dataclass(frozen=True)
class Brush:
    """A brush stroke: Label Studio's run lengths of an RGBA image, whose opaque pixels count.

    The bits are a header (number of values, bits of a value, bits of four kinds of lengths), then
    runs: a bit "one value", the kind and the length, and one value or as many as the length.
    """

    rle: bytes
    size: Size

    def mask(self, size: Size) -> Mask:
        if self.size != size:
            raise ValueError("a brush stroke is of another image size")
        bits = _Bits(self.rle)
        count = bits.read(32)
        if count != 4 * size[0] * size[1]:
            raise ValueError("a brush stroke does not fill its image")
        word = bits.read(5) + 1
        if word != 8:
            raise ValueError("a brush stroke needs values of 8 bits")
        kinds = [bits.read(4) + 1 for _ in range(4)]
        values = np.zeros(count, np.uint8)
        at = 0
        while at < count:
            repeated = bits.read(1)
            end = at + 1 + bits.read(kinds[bits.read(2)])
            if end > count:
                raise ValueError("a brush stroke is longer than its image")
            if repeated:
                values[at:end] = bits.read(word)
            else:
                values[at:end] = [bits.read(word) for _ in range(at, end)]
            at = end
        opaque: Mask = values.reshape(*size, 4)[..., 3] > 0  # (H, W)
        return opaque


class _Bits:
    """Numbers of so many bits each, the highest bit first."""

    def __init__(self, data: bytes) -> None:
        self._text = "".join(f"{byte:08b}" for byte in data)
        self._at = 0

    def read(self, count: int) -> int:
        self._at += count
        if self._at > len(self._text):
            raise ValueError("a brush stroke is truncated")
        return int(self._text[self._at - count : self._at], 2)


def encode_brush(mask: Mask) -> list[int]:
    """A mask (H, W) as Label Studio's run lengths, all four channels 255 where it is set.

    >>> pixels = np.array([[True, False, True]])
    >>> Brush(bytes(encode_brush(pixels)), (1, 3)).mask((1, 3)).tolist()
    [[True, False, True]]
    """
    flat = mask.ravel()
    bits = [f"{4 * flat.size:032b}", f"{7:05b}", *(f"{n - 1:04b}" for n in _RUN_BITS)]
    starts = np.flatnonzero(np.diff(flat, prepend=not flat[0]))
    ends = np.append(starts[1:], flat.size)
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        value, length = 255 * int(flat[start]), 4 * (end - start)
        while length:
            step = min(length, 2**16)
            kind = next(k for k, n in enumerate(_RUN_BITS) if step <= 2**n)
            bits.append(f"1{kind:02b}{step - 1:0{_RUN_BITS[kind]}b}{value:08b}")
            length -= step
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


def label_studio_tasks(
    predictions: Iterable[tuple[str, NDArray[np.uint8]]], classes: Classes
) -> Iterator[dict[str, Any]]:
    """Label maps as tasks with predictions: one brush region for each class of an image.

    Args:
        predictions: where Label Studio finds the image, and class ids (H, W), of each image.
        classes: the classes of the ids.
    """
    for image, ids in predictions:
        result = [
            {
                "id": f"{label}_{k}",
                "from_name": "tag",
                "to_name": "image",
                "type": "brushlabels",
                "original_width": ids.shape[1],
                "original_height": ids.shape[0],
                "image_rotation": 0,
                "value": {"format": "rle", "rle": encode_brush(ids == k), "brushlabels": [label]},
            }
            for k, label in written_labels(classes).items()
            if (ids == k).any()
        ]
        predicted = {"model_version": "scenewise", "result": result}
        yield {"data": {"image": image}, "predictions": [predicted]}


def label_studio_config(classes: Classes) -> str:
    """The labelling interface whose names the tasks use."""
    from xml.sax.saxutils import quoteattr

    labels = []
    for k, name in written_labels(classes).items():
        red, green, blue = classes.colors[k] if k < len(classes) else (0, 0, 0)
        color = f"#{red:02x}{green:02x}{blue:02x}"
        labels.append(f'    <Label value={quoteattr(name)} background="{color}"/>\n')
    return (
        '<View>\n  <Image name="image" value="$image"/>\n'
        f'  <BrushLabels name="tag" toName="image">\n{"".join(labels)}  </BrushLabels>\n</View>\n'
    )


def _png_files(listing: Listing) -> list[str]:
    """The files of "Brush labels to PNG"."""
    return [path for path in listing.paths if _PNG.fullmatch(PurePosixPath(path).name)]


def _png_name(path: str) -> tuple[int, str, str]:
    """Task, annotation and label of a PNG."""
    match = _PNG.fullmatch(PurePosixPath(path).name)
    assert match is not None
    return int(match[1]), match[2], match[3]


def _json_files(listing: Listing) -> list[str]:
    """The JSON files whose content is a list of tasks; they are near the root."""
    near = [path for path in listing.match("*.json") if path.count("/") < 2][:_FEW]
    return [path for path in near if _is_tasks(listing.text(path))]


def _is_tasks(text: str) -> bool:
    annotated = '"annotations"' in text or '"predictions"' in text
    return text.lstrip().startswith("[") and annotated and all(key in text for key in _TASK_KEYS)


@lru_cache(maxsize=1)
def _content(path: Path, modified: int) -> Any:
    return read_json(path, "Label Studio")


def _tasks(listing: Listing, path: str) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Task, name of its image, and regions, of the tasks of a file that are labelled."""
    source = listing.root / path
    tasks = _content(source, source.stat().st_mtime_ns)
    with reading(source, "Label Studio"):
        labelled = [(task, _annotation(task, "annotations")) for task in tasks]
        if not any(annotation for _, annotation in labelled):
            warn(f"'{source}' holds predictions and no annotations; they are read as labels")
            labelled = [(task, _annotation(task, "predictions")) for task in tasks]
        lone = [task for task, annotation in labelled if annotation is None]
        if lone:
            warn(f"{len(lone)} of {len(tasks)} tasks in '{source}' have no annotation, left out")
        return [
            (str(task.get("id", k)), _image_name(task["data"]), _regions(annotation["result"]))
            for k, (task, annotation) in enumerate(labelled)
            if annotation is not None
        ]


def _annotation(task: dict[str, Any], key: str) -> dict[str, Any] | None:
    """The annotation that counts: the only one, or the one marked as ground truth."""
    found = [a for a in task.get(key) or [] if isinstance(a, dict) and not a.get("was_cancelled")]
    truth = [annotation for annotation in found if annotation.get("ground_truth")]
    chosen = truth if len(truth) == 1 else found
    if len(chosen) > 1:
        raise ValueError(f"task {task.get('id')} has {len(chosen)} {key}; mark one as ground truth")
    return chosen[0] if chosen else None


def _image_name(data: dict[str, Any]) -> str:
    """The file that the data of a task name."""
    values = [v for v in data.values() if isinstance(v, str)]
    images = [v for v in values if v.split("?")[0].lower().endswith(SUFFIXES)]
    named = images or [v for v in values if v.lower().endswith(SUFFIXES)]  # ?d=folder/a.jpg
    if len(named) != 1:
        raise ValueError(f"a task names {len(named)} images; it needs one")
    name = named[0] if not images else named[0].split("?")[0]
    return name.rpartition("=")[2].rpartition("/")[2]


def _images(listing: Listing, names: list[str]) -> list[Path]:
    """The images of tasks by their names, else without the digits of an upload."""
    files = ImageFiles(listing)
    found = files.find(names, [])
    if any(path.exists() for path in found):
        return found
    return files.find([_UPLOAD.sub("", name) for name in names], [])


def _regions(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results that have an area; choices and texts about the whole image are left out.

    An interface with separate tags for shapes and labels gives two results of one id, the second
    of type ``labels`` with both.
    """
    labelled = {r.get("id") for r in results if r.get("type") == "labels"}
    return [
        result
        for result in results
        if "original_width" in result
        and "value" in result
        and not (result["type"] in _SHAPES and result.get("id") in labelled)
    ]


def _label(result: dict[str, Any]) -> list[str]:
    kind = result["type"]
    if kind not in (*_SHAPES.values(), "labels"):
        raise ValueError(f"a region of type {kind} has no area or no label; delete it")
    labels = result["value"][kind]
    if len(labels) != 1:
        raise ValueError(f"a region has {len(labels)} labels; give it one")
    return [str(labels[0])]


def _shape(result: dict[str, Any]) -> Shape:
    value, kind = result["value"], result["type"]
    height, width = int(result["original_height"]), int(result["original_width"])
    if result.get("image_rotation"):
        raise ValueError("a region is on a rotated image; label it unrotated")
    if kind == "brushlabels" or (kind == "labels" and "rle" in value):
        return Brush(bytes(value["rle"]), (height, width))
    across, down = width / 100, height / 100  # pixels of one percent
    if kind == "polygonlabels" or (kind == "labels" and "points" in value):
        return Polygon([[v for x, y in value["points"] for v in (x * across, y * down)]])
    x, y, degrees = value["x"] * across, value["y"] * down, float(value.get("rotation", 0))
    if kind == "ellipselabels" or (kind == "labels" and "radiusX" in value):
        return Ellipse((x, y), (value["radiusX"] * across, value["radiusY"] * down), degrees)
    return rectangle(x, y, value["width"] * across, value["height"] * down, degrees)
