"""What becomes of folders as people have them: recognised, paired, named, and right to the pixel.

``python -m bench.layouts`` writes the table of docs/data.md. The trees of ``own_labels`` are in the
shared data (``SCENEWISE_SHARED_DATA``); the exports of labelling tools are made here by the tests'
code. A tree is compared with masks that were stored apart, or that are taken from its files by
other code than the reader's: PIL, slices of arrays.
"""

import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.marked import replace_marked
from scenewise.data.datasets import PairedDataset
from scenewise.data.formats.recognise import Source
from scenewise.errors import UserError
from tests.data.formats.tool_trees import FOLDER_TREES, TREES, truth
from tests.shared_data import ROOT as SHARED

DOCUMENT = Path(__file__).parents[1] / "docs" / "data.md"
OWN = SHARED / "own_labels"
Ids = NDArray[np.uint8]
# The right ids of an image: (root, path below it, split, name) -> (H, W), None if unknown.
Truth = Callable[[Path, str, str, str], Ids | None]


@dataclass(frozen=True)
class Layout:
    """A tree, its right masks, and options that a person has to give."""

    name: str
    root: Path
    right: Truth
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Outcome:
    """What a layout is read as; ``refusal`` if it is refused."""

    format: str = ""
    classes: tuple[str, ...] = ()
    pairs: int = 0
    right: int = 0
    refusal: str = ""


def by_name(folder: str) -> Truth:
    """Masks stored apart, in ``truth/FOLDER/SPLIT``, where the split is called as in the tree."""

    def find(root: Path, image: str, split: str, name: str) -> Ids | None:
        called = next((part for part in Path(image).parts if part.startswith(split)), split)
        path = OWN / "truth" / folder / called / f"{name}.png"
        return np.asarray(Image.open(path)) if path.exists() else None

    return find


def stored(image: str, mask: str, values: Any = None) -> Truth:
    """A mask file of a name that follows from the image's, with class ids, or these values.

    Args:
        image: pattern of the image's path.
        mask: replacement, the mask's path.
        values: the value, or the colour, of each class id; all others are ignored.
    """

    def find(root: Path, path: str, split: str, name: str) -> Ids | None:
        array = np.asarray(Image.open(root / re.sub(image, mask, path)))
        if values is None:
            return array
        ids = np.full(array.shape[:2], 255, np.uint8)
        for k, value in enumerate(values):
            ids[(array == value).all(axis=-1) if array.ndim == 3 else array == value] = k
        return ids

    return find


def boxes(corners: Callable[[Path, str, tuple[int, int]], Iterator[NDArray[Any]]]) -> Truth:
    """Upright rectangles of class 1 on the background, by the corners in the annotations."""

    def find(root: Path, path: str, split: str, name: str) -> Ids | None:
        width, height = Image.open(root / path).size
        ids = np.zeros((height, width), np.uint8)
        for points in corners(root, path, (width, height)):
            (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
            ids[top:bottom, left:right] = 1
        return ids

    return find


def _coco(root: Path, path: str, size: tuple[int, int]) -> Iterator[NDArray[Any]]:
    content = json.loads((root / "train" / "_annotations.coco.json").read_text())
    number = next(i["id"] for i in content["images"] if i["file_name"] == Path(path).name)
    for entry in content["annotations"]:
        if entry["image_id"] == number:
            yield np.array(entry["segmentation"][0]).reshape(-1, 2)


def _labelme(root: Path, path: str, size: tuple[int, int]) -> Iterator[NDArray[Any]]:
    for shape in json.loads((root / path).with_suffix(".json").read_text())["shapes"]:
        yield np.array(shape["points"])


def _yolo(root: Path, path: str, size: tuple[int, int]) -> Iterator[NDArray[Any]]:
    file = (root / path.replace("images", "labels")).with_suffix(".txt")
    for line in file.read_text().splitlines():
        shares = np.array(line.split()[1:], float).reshape(-1, 2)
        yield np.rint(shares * size).astype(int)


def _brush(root: Path, path: str, split: str, name: str) -> Ids:
    """The PNGs of one task of Label Studio, whose number is in the image's name here."""
    number = int(re.findall(r"p(\d+)\.jpg", path)[0])
    ids = np.zeros(Image.open(root / path).size[::-1], np.uint8)
    for k, label in enumerate(("box", "disc"), start=1):
        for file in root.glob(f"brush/task-{number}-*-tag-{label}-*.png"):
            ids[np.asarray(Image.open(file)) > 0] = k
    return ids


_SAME = stored(r"^images/(.*)\.\w+$", r"masks/\1.png")
_CVAT = [(0, 0, 0), (250, 50, 83), (51, 221, 255)]
_STORED: dict[str, Truth] = {
    "coco": boxes(_coco),
    "cvat": stored(r"^JPEGImages/(.*)\.jpg$", r"SegmentationClass/\1.png", _CVAT),
    "labelme": boxes(_labelme),
    "labelme_voc": stored(r"^JPEGImages/(.*)\.jpg$", r"SegmentationClassPNG/\1.png"),
    "labelstudio": _brush,
    "mmseg": stored(r"^img_dir/(.*)\.jpg$", r"ann_dir/\1.png"),
    "onebased_0void": stored(r"^images/(.*)\.jpg$", r"masks/\1.png", [1, 2]),
    "roboflow": stored(r"\.jpg$", "_mask.png"),
    "yolo": boxes(_yolo),
}
_AS_STORED = {"flat", "mac_noclasses", "negatives", "u16_12bit", "u16_ct_tif", "ultra"}
_THREE = {"onebased", "rgb", "rgb_same", "rgba", "supervisely_vals"}
_OPTIONS: dict[str, dict[str, Any]] = {
    "labelstudio": {"format": "labelstudio_order"},
    "negatives": {"without_mask": "skip"},
}


def layouts(made: Path) -> Iterator[Layout]:
    """All layouts; exports of tools are written into ``made``."""
    for root in sorted(path for path in OWN.iterdir() if path.is_dir() and path.name != "truth"):
        name = root.name
        right = _STORED.get(name) or by_name("n3" if name in _THREE else "n2")
        if name in _AS_STORED or name.startswith("t_"):
            right = _SAME
        yield Layout(name, root, right)
        if name in _OPTIONS:
            yield Layout(name, root, right, _OPTIONS[name])
    for name, write in [*FOLDER_TREES.items(), *TREES.items()]:
        (made / name).mkdir()
        write(made / name)
        yield Layout(f"{name}, made by the tests", made / name, _made(name))


def _made(tool: str) -> Truth:
    def find(root: Path, path: str, split: str, name: str) -> Ids:
        second = "p.2" in name
        ids = truth(second)
        if tool == "coco" and second:  # see tool_trees.coco
            ids[:3, :3], ids[1, 2] = 1, 2
        return ids

    return find


def outcome(layout: Layout) -> Outcome:
    """Read a layout as ``--data.root`` would, and compare every mask."""
    try:
        source = Source(layout.root, **layout.options)
        found = Outcome(source.format)
        for split in source.available or ("train", "val"):
            dataset = source._open(split, None)
            assert isinstance(dataset, PairedDataset)
            found.classes = dataset.classes.names
            for index, name in enumerate(dataset.names):
                path = dataset.images[index].relative_to(layout.root).as_posix()
                place = "train" if split == "all" else split
                expected = layout.right(layout.root, path, place, name)
                found.pairs += 1
                found.right += np.array_equal(dataset.read(index)[1].numpy(), expected)
    except UserError as error:
        return Outcome(refusal=str(error).replace(str(layout.root), layout.name))
    return found


def row(layout: Layout, found: Outcome) -> str:
    """A line of the table."""
    options = "".join(f" `{key}={value}`" for key, value in layout.options.items())
    if found.refusal:
        return f"| {layout.name}{options} | refused | | | {found.refusal.replace('|', ' ')} |"
    right = "all" if found.right == found.pairs else f"**{found.right} of {found.pairs}**"
    names = ", ".join(found.classes)
    return f"| {layout.name}{options} | `{found.format}` | {found.pairs} | {names} | {right} |"


def main() -> None:
    """Write the table."""
    logging.disable(logging.WARNING)
    lines = ["| layout | read as | pairs | classes | masks equal to the truth |"]
    lines.append("|---|---|---|---|---|")
    wrong = 0
    with tempfile.TemporaryDirectory() as made:
        for layout in layouts(Path(made)):
            found = outcome(layout)
            wrong += found.pairs - found.right
            lines.append(row(layout, found))
            print(lines[-1])
    counted = len(lines) - 2
    refused = sum("| refused |" in line for line in lines)
    text = f"{counted} layouts, {refused} of them refused, {wrong} masks wrong.\n\n"
    replace_marked(DOCUMENT, "layouts", text + "\n".join(lines))


if __name__ == "__main__":
    main()
