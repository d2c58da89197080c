"""Datasets, generated scenes, joint transforms and the Lightning data module."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scenewise.data.datasets import PairedDataset, SegmentationDataset
    from scenewise.data.formats.folder import FolderDataset
    from scenewise.data.formats.recognise import open_dataset
    from scenewise.data.images import read_image, read_mask
    from scenewise.data.module import SegmentationData
    from scenewise.data.scenes import Scenes
    from scenewise.data.transforms import eval_transform, train_transform

__all__ = [
    "FolderDataset",
    "PairedDataset",
    "Scenes",
    "SegmentationData",
    "SegmentationDataset",
    "eval_transform",
    "open_dataset",
    "read_image",
    "read_mask",
    "train_transform",
]

_HOME = {
    "FolderDataset": "formats.folder",
    "PairedDataset": "datasets",
    "Scenes": "scenes",
    "SegmentationData": "module",
    "SegmentationDataset": "datasets",
    "eval_transform": "transforms",
    "open_dataset": "formats.recognise",
    "read_image": "images",
    "read_mask": "images",
    "train_transform": "transforms",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'scenewise.data' has no attribute '{name}'")
    return getattr(import_module(f"scenewise.data.{_HOME[name]}"), name)
