"""What a result tells of its origin, so that the same work is not done twice.

The record lies inside the result (a text of the PNG, the comment of the video), so one cannot
appear without the other.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from scenewise._version import __version__
from scenewise.errors import UserError
from scenewise.exports.runtime import EngineSegmenter
from scenewise.models.segmenter import Segmenter
from scenewise.training.provenance import model_fingerprint
from scenewise.visualize import video
from scenewise.visualize.overlay import NOTE

Record = Mapping[str, Any]


def origin(model: Segmenter, path: str | Path, options: Mapping[str, Any]) -> Record:
    """What decides on a result beside the picture: model, options, version.

    Args:
        model: as it was loaded from ``path``.
        path: of an exported file its bytes are the model.
        options: JSON-able.
    """
    if isinstance(model, EngineSegmenter):
        files = [file for file in (Path(path), Path(path).with_suffix(".bin")) if file.is_file()]
        key = " ".join(map(_digest, files))
    else:
        config = {**model.config(), "align_corners": model.align_corners}
        key = model_fingerprint(model) + json.dumps(config, sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()
    return {"model": digest, "options": dict(options), "scenewise": __version__}


def record(file: Path, common: Record) -> Record:
    """The record of the result of ``file`` as the file is now: its length and time of change.

    Raises:
        UserError: the file is gone.
    """
    try:
        found = file.stat()
    except OSError as error:
        raise UserError(f"'{file}' cannot be read: {error.strerror}; check the path") from error
    return {"picture": [found.st_size, found.st_mtime_ns], **common}


def is_finished(results: Sequence[Path], wanted: Record) -> bool:
    """Whether all results are there, the last of them with all that ``wanted`` says."""
    if not all(result.is_file() for result in results):
        return False
    try:
        found = json.loads(_note(results[-1]))
        return isinstance(found, dict) and found.items() >= dict(wanted).items()
    except Exception:  # not ours, or damaged: decoders raise errors of many kinds
        return False


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _note(result: Path) -> str:
    if result.suffix == ".mp4":
        return video.comment(result)
    with Image.open(result, formats=["PNG"]) as picture:
        return str(picture.info[NOTE])
