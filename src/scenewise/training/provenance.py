"""Provenance of a score: fingerprints of model and data, protocol and version.

Two runs scored the same thing if their fingerprints agree, whatever the names of the files.
"""

import hashlib
from pathlib import Path
from typing import Any

from torch import nn

from scenewise._version import __version__
from scenewise.data.datasets import PairedDataset, SegmentationDataset
from scenewise.models.fingerprint import model_fingerprint

# What validation and test do by default; see docs/evaluation.md.
_WHOLE_IMAGE = "whole image, one scale, no flip, at the size of the label"


def data_revision(dataset: SegmentationDataset) -> dict[str, Any]:
    """The number of images of a split, and the SHA-256 of the sorted list of their names.

    For images in files, the size of each image and mask in bytes is in the list too.

    Returns:
        ``{"images": count, "sha256": digest}``
    """
    lines = [str(name) for name in dataset.names]
    if isinstance(dataset, PairedDataset):
        files = zip(dataset.images, dataset.masks, strict=True)
        sizes = [f"{_bytes(image)} {_bytes(mask)}" for image, mask in files]
        lines = [f"{name} {size}" for name, size in zip(lines, sizes, strict=True)]
    digest = hashlib.sha256("\n".join(sorted(lines)).encode())
    return {"images": len(lines), "sha256": digest.hexdigest()}


def _bytes(path: Path) -> int:
    """The size of a file, or of the file that ``path`` names an entry of (``labels.json/NAME``)."""
    return (path.parent if path.parent.is_file() else path).stat().st_size


def provenance(model: nn.Module, protocol: str | None = None) -> dict[str, Any]:
    """The entries of ``metrics.json`` about a model and its protocol."""
    return {
        "protocol": protocol or _WHOLE_IMAGE,
        "model_sha256": model_fingerprint(model),
        "scenewise": __version__,
    }
