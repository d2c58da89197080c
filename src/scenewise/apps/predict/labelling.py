"""Predictions as labelling tools import them, so that a person corrects instead of draws."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args
from xml.etree import ElementTree  # writes; nothing is parsed here

import numpy as np
from numpy.typing import NDArray

from scenewise.apps.predict.ranking import Labelled
from scenewise.classes import Classes
from scenewise.data.formats.coco_json import coco_json
from scenewise.data.formats.cvat import cvat_xml
from scenewise.data.formats.label_studio import label_studio_config, label_studio_tasks
from scenewise.data.formats.labelme import labelme_json
from scenewise.data.formats.yolo import write_yolo_config, yolo_lines
from scenewise.data.images import read_mask
from scenewise.data.prepare import link_file
from scenewise.files import atomic_write, write_json, write_text

Tool = Literal["coco", "yolo", "labelme", "cvat", "labelstudio"]
Format = Literal["coco", "yolo", "labelme", "cvat", "labelstudio", "geojson"]  # of --format
# Where each tool expects the images, below its folder.
_IMAGES = {"yolo": "images/train", "cvat": "images", "labelstudio": "images"}


def write_for_tool(tool: Tool, folder: Path, results: Sequence[Labelled], classes: Classes) -> None:
    """Write the labels in the format of ``tool``, with links to the images, into ``folder``.

    The background is not drawn, ignored pixels are regions called ``__ignore__``.

    Raises:
        UserError: a label file is unreadable, or ``folder`` is not writable.
    """
    assert tool in get_args(Tool)
    images = folder / _IMAGES.get(tool, "")
    for result in results:
        link = images / result.file_name
        if link.exists() and not link.samefile(result.image):  # of an earlier run
            link.unlink()
        link_file(result.image, link)
    if tool == "coco":
        write_json(folder / "_annotations.coco.json", coco_json(_named(results), classes))
    elif tool == "cvat":
        with atomic_write(folder / "annotations.xml") as temporary:
            document = ElementTree.ElementTree(cvat_xml(_named(results), classes))
            document.write(temporary, encoding="utf-8", xml_declaration=True)
    elif tool == "labelstudio":
        places = ((f"/data/local-files/?d=images/{name}", ids) for name, ids in _named(results))
        tasks = list(label_studio_tasks(places, classes))
        write_text(folder / "tasks.json", json.dumps(tasks, ensure_ascii=False))
        write_text(folder / "config.xml", label_studio_config(classes))
    elif tool == "labelme":
        for result, (name, ids) in zip(results, _named(results), strict=True):
            value = labelme_json(Path(name).name, ids, classes)
            write_json((folder / result.file_name).with_suffix(".json"), value)
    else:
        for result, (_, ids) in zip(results, _named(results), strict=True):
            path = (folder / "labels" / "train" / result.file_name).with_suffix(".txt")
            write_text(path, yolo_lines(ids, classes))
        write_yolo_config(folder / "data.yaml", classes)


def _named(results: Sequence[Labelled]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The name of each image in the tool, and its class ids (H, W)."""
    for result in results:
        yield result.file_name, read_mask(result.labels).numpy()
