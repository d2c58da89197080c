"""The files of ``--probabilities`` and ``--maps``: class probabilities, confidence and entropy."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from scenewise.classes import Classes
from scenewise.errors import UserError, choose
from scenewise.files import atomic_write
from scenewise.inference.prediction import Prediction
from scenewise.visualize.overlay import save_image

ProbabilityFormat = Literal["npz", "png", "tiff"]
Map = Literal["confidence", "entropy"]
_PAGE_NAME = 285  # tag of a TIFF's page
_CLASSIC = 4_000_000_000  # bytes from which a TIFF needs the format BigTIFF


def needs_scores(args: argparse.Namespace) -> bool:
    """Whether files are written that need more of a prediction than labels and confidence."""
    return args.probabilities is not None or "entropy" in args.maps


def score_record(args: argparse.Namespace, classes: Classes) -> dict[str, Any]:
    """What these files add to the record of a result, so that others are written again.

    Raises:
        UserError: ``--probability-classes`` names an unknown class, or is given alone.

    >>> options = {"probabilities": "png", "probability_classes": ["sky"], "maps": ["entropy"]}
    >>> classes = Classes(("road", "sky"), ((0, 0, 0), (1, 1, 1)))
    >>> score_record(argparse.Namespace(**options), classes)
    {'probabilities': ['png', [1]], 'entropy_map': True}
    """
    record: dict[str, Any] = {}
    if args.probabilities is not None:
        record["probabilities"] = [args.probabilities, _chosen(args, classes)]
    elif args.probability_classes is not None:
        raise UserError("--probability-classes needs --probabilities; add it or leave them out")
    return record | {f"{name}_map": True for name in args.maps}


def score_files(args: argparse.Namespace, out: Path, name: str, classes: Classes) -> list[Path]:
    """The files of the image ``name``."""
    files = [out / kind / f"{name}.png" for kind in args.maps]
    if args.probabilities == "png":
        return [*files, *_class_files(args, out, name, classes).values()]
    if args.probabilities is not None:
        files.append(out / "probabilities" / f"{name}.{args.probabilities}")
    return files


def write_scores(
    args: argparse.Namespace, out: Path, name: str, prediction: Prediction, classes: Classes
) -> None:
    """Write the files of :func:`score_files`, each whole or not at all.

    Raises:
        UserError: a file cannot be written.
    """
    for kind in args.maps:
        _save_grey(out / kind / f"{name}.png", getattr(prediction, kind))
    if args.probabilities is None:
        return
    chosen = _chosen(args, classes)
    probabilities = prediction.probabilities(chosen)  # (C, H, W)
    if args.probabilities == "png":
        files = _class_files(args, out, name, classes)
        for number, values in zip(chosen, probabilities, strict=True):
            _save_grey(files[number], values)
        return
    names = [classes.names[number] for number in chosen]
    file = out / "probabilities" / f"{name}.{args.probabilities}"
    if args.probabilities == "npz":
        _save_npz(file, probabilities.numpy(), chosen, names)
    else:
        _save_tiff(file, probabilities.numpy(), names)


def _chosen(args: argparse.Namespace, classes: Classes) -> list[int]:
    """The class ids whose probabilities are written, in the order of the option."""
    if args.probability_classes is None:
        return list(range(len(classes)))
    for name in args.probability_classes:
        if name not in classes.names:
            hint = choose(name, classes.names)
            raise UserError(f"--probability-classes names an unknown class '{name}'; {hint}")
    return [classes.names.index(name) for name in dict.fromkeys(args.probability_classes)]


def _class_files(
    args: argparse.Namespace, out: Path, name: str, classes: Classes
) -> dict[int, Path]:
    """The PNG of each chosen class, in a folder called by its id and name."""
    folders = {k: re.sub(r"[^\w.-]+", "_", classes.names[k]) for k in _chosen(args, classes)}
    top = out / "probabilities"
    return {k: top / f"{k}_{folder}" / f"{name}.png" for k, folder in folders.items()}


def _save_grey(file: Path, values: Tensor) -> None:
    """0..1 (H, W) as an 8-bit grey PNG, round(255 v)."""
    save_image(file, Image.fromarray(values.mul(255).round().byte().numpy()))


def _save_npz(
    file: Path, values: NDArray[np.float32], ids: Sequence[int], names: Sequence[str]
) -> None:
    """Not compressed: that takes seconds and gains little."""
    arrays = {
        "probabilities": values.astype(np.float16),
        "class_ids": np.array(ids, np.uint8),
        "classes": np.array(names),
    }
    with atomic_write(file) as temporary, temporary.open("wb") as opened:
        np.savez(opened, **arrays)  # type: ignore[arg-type]  # of numpy's own option


def _save_tiff(file: Path, values: NDArray[np.float32], names: Sequence[str]) -> None:
    """A page for each class, float32, named as the class."""
    import tifffile  # start-up is faster without it

    large = values.nbytes > _CLASSIC
    with atomic_write(file) as temporary, tifffile.TiffWriter(temporary, bigtiff=large) as writer:
        for page, name in zip(values, names, strict=True):
            writer.write(
                page,
                photometric="minisblack",
                metadata=None,
                extratags=[(_PAGE_NAME, "s", 0, name.encode("utf-8"), True)],
            )
