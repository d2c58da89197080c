"""The fuzz targets: each reads bytes as a file and may raise a UserError, nothing else."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from fuzz import seeds
from fuzz.checksums import with_png_checksums, with_tar_checksums
from scenewise.classes import Classes
from scenewise.data.class_lists import read_classes
from scenewise.data.formats.matlab import id_map, read_mat
from scenewise.data.formats.pascal_context import _json_mask, _json_names
from scenewise.data.formats.regions import decode_runs
from scenewise.data.images import decode_image, decode_mask
from scenewise.data.shards import ShardSet, read_shard
from scenewise.errors import UserError
from scenewise.models.checkpoints import load_model
from scenewise.models.state_dict import read_tensors

FOLDER = Path(tempfile.mkdtemp(prefix="scenewise-fuzz-"))


class Target(NamedTuple):
    """A reader, and the files to start from."""

    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]


def image(data: bytes) -> object:
    """An image, with the checksums of a PNG corrected in every other run."""
    if len(data) % 2:
        data = with_png_checksums(data)
    image = decode_image(data, "x.png")
    assert image.ndim == 3
    assert image.shape[0] == 3
    assert image.dtype == torch.uint8
    return image


def mask(data: bytes) -> object:
    """A mask, likewise."""
    if len(data) % 2:
        data = with_png_checksums(data)
    ids = decode_mask(data, "x.png")
    assert ids.ndim == 2
    assert ids.dtype == torch.uint8
    return ids


def matlab(data: bytes) -> object:
    """The label map in a MATLAB file, in each of the fields where datasets keep it."""
    path = _file("x.mat", data)
    variables = read_mat(path)
    for fields in (["S"], ["LabelMap"], ["GTcls", "Segmentation"]):
        try:
            assert id_map(variables, path, *fields).ndim == 2
        except UserError as error:
            _sentence(error)
    return variables


def classes(data: bytes) -> object:
    """``classes.json``."""
    return read_classes(_file("classes.json", data))


def config(data: bytes) -> object:
    """``config.json`` next to valid weights."""
    if not (FOLDER / "model.safetensors").exists():
        _file("model.safetensors", seeds.weights())
    _file("config.json", data)
    return load_model(FOLDER)


def safetensors(data: bytes) -> object:
    """A file of weights."""
    return read_tensors(_file("x.safetensors", data))


def checkpoint(data: bytes) -> object:
    """A file of ``torch.save``, in the new or the old format."""
    return read_tensors(_file("x.pth", data))


def unpickled(data: bytes) -> object:
    """The pickle inside a valid archive of ``torch.save``."""
    return read_tensors(_file("y.pth", seeds.archive(data)))


def index(data: bytes) -> object:
    """``index.json`` of shards."""
    return ShardSet(_file("index.json", data).parent, "train")


def shard(data: bytes) -> object:
    """A shard, with the checksums of its headers corrected in every other run."""
    if len(data) % 2:
        data = with_tar_checksums(data)
    path = str(_file("x.tar", data))
    return [_read_all(path), _read_all(path, 0, 1)]


def _read_all(path: str, *span: int) -> int:
    """Bytes of the samples of a shard that is listed with two."""
    return sum(len(x.image) + len(x.mask) for x in read_shard(path, 2, *span))


def annotations(data: bytes) -> object:
    """PASCAL-Context's JSON file of masks."""
    path = _file("trainval_merged.json", data)
    return [_json_mask(path, name) for name in _json_names(path, "trainval")]


def run_lengths(data: bytes) -> object:
    """COCO's compressed run lengths, which may raise a ValueError."""
    try:
        return decode_runs(data, 5, 7)
    except ValueError:
        return None


TARGETS = {
    "image": Target(image, seeds.images),
    "mask": Target(mask, seeds.images),
    "matlab": Target(matlab, seeds.matlab),
    "classes": Target(classes, lambda: [json.dumps(Classes.numbered(3).to_dict()).encode()]),
    "config": Target(config, seeds.configs),
    "safetensors": Target(safetensors, seeds.tensors),
    "checkpoint": Target(checkpoint, seeds.checkpoints),
    "unpickled": Target(unpickled, seeds.pickles),
    "index": Target(index, seeds.indices),
    "shard": Target(shard, seeds.shards),
    "annotations": Target(annotations, seeds.annotations),
    "run_lengths": Target(run_lengths, lambda: [b"13", b"n0c0"]),
}


def attempt(name: str, data: bytes) -> bool:
    """Whether the target accepts ``data``; False if it raises a UserError of one sentence."""
    try:
        TARGETS[name].read(data)
    except UserError as error:
        _sentence(error)
        return False
    return True


def _sentence(error: UserError) -> None:
    assert str(error), "an empty message"
    assert "\n" not in str(error), f"more than one line: {error}"


def _file(name: str, data: bytes) -> Path:
    path = FOLDER / name
    path.write_bytes(data)
    return path
