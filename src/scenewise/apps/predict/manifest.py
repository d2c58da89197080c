"""Records of finished results: model, options and version, kept in each result to skip it later.

The record is part of the result (a text chunk of the PNG, a tag of the TIFF, the comment of the
video), so one cannot exist without the other.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from scenewise._version import __version__
from scenewise.data.rasters import read_tags
from scenewise.errors import UserError
from scenewise.exports.runtime import EngineSegmenter
from scenewise.models.fingerprint import model_fingerprint
from scenewise.models.segmenter import Segmenter
from scenewise.visualize import video
from scenewise.visualize.overlay import NOTE

Record = Mapping[str, Any]


def model_record(model: Segmenter, path: str | Path, options: Mapping[str, Any]) -> Record:
    """What a result depends on besides the image: model, options, version.

    Args:
        model: as it was loaded from ``path``.
        path: an exported model is identified by the bytes of its files.
        options: JSON-able.
    """
    if isinstance(model, EngineSegmenter):
        files = [file for file in (Path(path), Path(path).with_suffix(".bin")) if file.is_file()]
        key = " ".join(map(_sha256, files))
    else:
        config = {**model.config(), "align_corners": model.align_corners}
        config.pop("thresholds", None)  # those that are used are among the options
        key = model_fingerprint(model) + json.dumps(config, sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()
    return {"model": digest, "options": dict(options), "scenewise": __version__}


def result_record(file: Path, common: Record) -> Record:
    """``common`` with what identifies the input ``file``: its size and modification time.

    Raises:
        UserError: the file is gone.
    """
    try:
        status = file.stat()
    except OSError as error:
        raise UserError(f"'{file}' cannot be read: {error.strerror}; check the path") from error
    return {"image": [status.st_size, status.st_mtime_ns], **common}


def is_finished(results: Sequence[Path], record: Record) -> bool:
    """Whether all results exist and the last one holds every item of ``record``."""
    if not all(result.is_file() for result in results):
        return False
    return holds(stored_record(results[-1]), record)


def holds(stored: Record, record: Record) -> bool:
    """Whether a stored record has every item of ``record``, and perhaps others.

    >>> holds({"model": "a", "confidence": [0.5, 0.25]}, {"model": "a"})
    True
    """
    return stored.items() >= dict(record).items()


def stored_record(result: Path | BinaryIO) -> dict[str, Any]:
    """The record that a result holds; empty if it is of another program, or damaged.

    Args:
        result: a label file or video, or the first bytes of a label file.
    """
    try:
        stored = json.loads(_note(result))
    except Exception:  # decoders raise errors of many kinds
        return {}
    return stored if isinstance(stored, dict) else {}


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _note(result: Path | BinaryIO) -> str:
    if isinstance(result, Path) and result.suffix == ".mp4":
        return video.comment(result)
    if isinstance(result, Path) and result.suffix == ".tif":
        return read_tags(result)[NOTE]
    with Image.open(result, formats=["PNG"]) as image:
        return str(image.info[NOTE])
