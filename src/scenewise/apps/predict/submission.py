"""Submissions: label files in the format of the test servers of Cityscapes and PASCAL VOC."""

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from torch import Tensor

from scenewise.classes import Classes
from scenewise.data.formats import cityscapes, voc
from scenewise.errors import UserError
from scenewise.visualize.overlay import save_image, save_labels

Server = Literal["cityscapes", "voc"]
_CLASSES: dict[str, Classes] = {"cityscapes": cityscapes.CLASSES, "voc": voc.CLASSES}
# comp6: also trained on images from outside the competition, for example ImageNet
_VOC_FOLDER = Path("results", "VOC2012", "Segmentation", "comp6_test_cls")


def check_server(server: Server, classes: Classes) -> None:
    """Check that a model's classes are those that the server scores, in the same order.

    Raises:
        UserError: they are not.

    >>> check_server("voc", voc.CLASSES)
    """
    expected = _CLASSES[server].names
    if classes.names != expected:
        raise UserError(
            f"the model's classes are not the {len(expected)} of {server}, in the same order "
            f"({', '.join(expected[:3])}, ...); give a model trained on {server}"
        )


def submission_file(server: Server, folder: Path, name: str) -> Path:
    """Where ``server`` expects the labels of the image ``name``.

    >>> submission_file("cityscapes", Path("sent"), "bonn_000000_000019").as_posix()
    'sent/bonn_000000_000019.png'
    """
    return folder / (_VOC_FOLDER if server == "voc" else "") / f"{name}.png"


def save_submission(server: Server, folder: Path, name: str, labels: Tensor) -> Path:
    """Write the labels (H, W) of one image where and how ``server`` expects them.

    Cityscapes takes the ids of its full table (7 for road) in ``NAME.png``, where NAME starts with
    ``city_sequence_frame``; VOC takes class ids with its palette in ``results/VOC2012/...``.

    Returns:
        The file.
    """
    file = submission_file(server, folder, name)
    if server == "voc":
        save_labels(file, labels, _CLASSES[server])
        return file
    ids = np.array(cityscapes.SERVER_IDS, dtype=np.uint8)[labels.cpu().numpy()]  # (H, W)
    save_image(file, Image.fromarray(ids))
    return file
