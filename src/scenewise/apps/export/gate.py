"""The images that ``--precision`` is calibrated on and scored on."""

import argparse
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import torch
import yaml
from torch import Tensor

from scenewise.apps.check import progress
from scenewise.apps.predict.inputs import Inputs, is_video
from scenewise.data.datasets import SegmentationDataset
from scenewise.data.images import read_image
from scenewise.data.module import SegmentationData
from scenewise.errors import UserError
from scenewise.exports.gate import Gate, Labeller
from scenewise.inference.predictor import layout_of
from scenewise.models.segmenter import Segmenter
from scenewise.training.metrics.confusion import confusion_matrix, mean_iou, pixel_accuracy

_CALIBRATED = 300  # images at most, as NNCF's default
# The options of a run's data that say which images and labels it has, not how it trains on them.
_SOURCE = (
    *("format", "root", "labels", "without_mask", "val_share", "val_seed", "splits"),
    *("scenes_train", "scenes_val", "scenes_size", "seed"),
)


def gate_of(args: argparse.Namespace, model: Segmenter) -> Gate:
    """Scores on the validation images, and calibration images, of ``--data`` or of the run.

    Raises:
        UserError: no data, classes of another model, or no calibration images.
    """
    data = _data(args.data, args.model)
    if data.classes.names != model.classes.names:
        raise UserError(
            f"the data has the classes {', '.join(data.classes.names)}, the model "
            f"{', '.join(model.classes.names)}; give the data of this model with --data DIR"
        )
    layout = layout_of(model)
    validation = data.dataset("val")
    validation.layout = layout
    calibration: Sequence[Tensor] = ()
    if args.precision == "int8":
        if args.calibrate is not None:
            files = [file for file, _ in Inputs([str(args.calibrate)]) if not is_video(file)]
            calibration = _Images(files, lambda file: read_image(file, layout))
        else:
            train = data.dataset("train")
            train.layout = layout
            calibration = _Images(range(len(train)), lambda index: train[index]["image"])
    return Gate(_score(validation, model), len(validation), calibration, args.max_drop)


class _Images(Sequence[Tensor]):
    """Images (C, H, W), read when asked for; of many, 300 that are evenly spread."""

    def __init__(self, sources: Sequence[Any], read: Any) -> None:
        count = min(len(sources), _CALIBRATED)
        self._sources = [sources[i * len(sources) // count] for i in range(count)]
        self._read = read

    def __len__(self) -> int:
        return len(self._sources)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...

    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self._one(source) for source in self._sources[index]]
        return self._one(self._sources[index])

    def _one(self, source: Any) -> Tensor:
        return torch.as_tensor(self._read(source)).as_subclass(Tensor)


def _score(validation: SegmentationDataset, model: Segmenter) -> Any:
    """mIoU in points, and the pixel accuracy of each image: the ``score`` of a gate."""
    count, ignored = len(model.classes), model.classes.ignore_index

    def score(label: Labeller, indices: Sequence[int]) -> tuple[float, list[float]]:
        matrix, accuracies = torch.zeros(count, count, dtype=torch.int64), []
        for index in progress(indices, len(indices), "scoring validation images"):
            sample = validation[index]
            labels = label(sample["image"].as_subclass(Tensor))
            of_image = confusion_matrix(labels, sample["mask"].as_subclass(Tensor), count, ignored)
            matrix += of_image
            accuracies.append(pixel_accuracy(of_image) if of_image.any() else 1.0)
        return 100 * mean_iou(matrix), accuracies

    return score


def _data(root: Path | None, model: str) -> SegmentationData:
    """The data under ``root``, or that a run folder was trained on."""
    if root is not None:
        return SegmentationData(root=str(root))
    file = Path(model) / "config.yaml"
    if not file.is_file():
        raise UserError(
            f"'{model}' is not a run folder, so its data is unknown; give labelled images with "
            "--data DIR"
        )
    try:
        section = yaml.safe_load(file.read_text(encoding="utf-8"))["data"]
        chosen = {name: section[name] for name in _SOURCE if name in section}
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(
            f"'{file}' has no section of data that can be read; give labelled images with --data "
            "DIR"
        ) from error
    assert set(chosen) <= set(inspect.signature(SegmentationData).parameters)
    data = SegmentationData(**chosen)
    data.use_division(Path(model))
    return data
