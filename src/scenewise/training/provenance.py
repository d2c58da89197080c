"""Where a score comes from: model, data, protocol and version, so that two scores can be compared.

Two runs scored the same thing if their fingerprints agree, whatever the files are called.
"""

import hashlib
from typing import Any

import torch
from torch import nn

from scenewise._version import __version__
from scenewise.data.datasets import PairedDataset, SegmentationDataset

# What validation and test do unless told otherwise; see docs/evaluation.md.
WHOLE_PICTURE = "whole picture, one scale, no flip, at the size of the label"


def model_fingerprint(model: nn.Module) -> str:
    """sha256 of names, types, shapes and numbers of all parameters and buffers, in order of name.

    >>> with torch.no_grad():
    ...     layer = nn.Linear(2, 1)
    ...     before = model_fingerprint(layer)
    ...     _ = layer.bias.add_(1)
    >>> before == model_fingerprint(layer)
    False
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def data_revision(dataset: SegmentationDataset) -> dict[str, Any]:
    """How many pictures a split has, and the sha256 of the sorted list of their names.

    For pictures in files, the size of each picture and mask in bytes is in the list too.

    Returns:
        ``{"pictures": count, "sha256": digest}``
    """
    lines = [str(name) for name in dataset.names]
    if isinstance(dataset, PairedDataset):
        files = zip(dataset.images, dataset.masks, strict=True)
        sizes = [f"{image.stat().st_size} {mask.stat().st_size}" for image, mask in files]
        lines = [f"{name} {size}" for name, size in zip(lines, sizes, strict=True)]
    digest = hashlib.sha256("\n".join(sorted(lines)).encode())
    return {"pictures": len(lines), "sha256": digest.hexdigest()}


def provenance(model: nn.Module, protocol: str | None = None) -> dict[str, Any]:
    """What ``metrics.json`` says of a score beside its numbers and its data."""
    return {
        "protocol": protocol or WHOLE_PICTURE,
        "model_sha256": model_fingerprint(model),
        "scenewise": __version__,
    }
