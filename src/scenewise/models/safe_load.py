"""Load tensors from untrusted files; nothing in a file is executed."""

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from scenewise.errors import UserError

_WRAPPERS = ("state_dict", "model", "model_state_dict")  # keys around the tensors


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The named tensors of a ``.safetensors`` file or of a ``torch.save`` file.

    A dictionary around the tensors (``state_dict``, ``model``) and the prefix ``module.`` that
    DataParallel adds are removed; other entries than tensors are ignored.

    Raises:
        UserError: the file is missing, damaged, holds no tensors, or would run code.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "w.pth"
    >>> torch.save({"state_dict": {"module.a": torch.ones(2)}, "epoch": 3}, file)
    >>> read_tensors(file)
    {'a': tensor([1., 1.])}
    """
    return tensors_of(read_file(path), path)


def tensors_of(content: dict[str, Any], path: str | Path) -> dict[str, Tensor]:
    """The named tensors in the result of :func:`read_file`.

    Raises:
        UserError: no tensor is found.
    """
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    named = ((str(k).removeprefix("module."), v) for k, v in content.items())
    tensors = {key: value for key, value in named if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"weights '{path}' hold no named tensors; give a state_dict")
    return tensors


def read_file(path: str | Path) -> dict[str, Any]:
    """The dictionary in a file of tensors and plain values, unchanged.

    Raises:
        UserError: as :func:`read_tensors`.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"no such file: '{file}'; give the path of a weights file")
    _check_archive(file)
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle formats
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"'{file}' holds more than tensors and plain values and is not opened, because that "
            "could run code (NumPy numbers are refused too); save its state_dict alone"
        ) from error
    except Exception as error:  # damaged bytes raise anything
        raise UserError(f"'{file}' is damaged or not a weights file; fetch it again") from error
    if not isinstance(content, dict):
        raise UserError(f"'{file}' holds no dictionary of tensors; give a state_dict")
    return content


def _check_archive(file: Path) -> None:
    """Refuse an archive that unpacks to more than its size: torch.save never compresses."""
    try:
        with file.open("rb") as start:
            if start.read(4) != b"PK\3\4":  # not a zip archive
                return
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())  # as it claims
    except Exception as error:
        raise UserError(f"'{file}' is damaged or not a weights file; fetch it again") from error
    if unpacked > file.stat().st_size:
        raise UserError(
            f"'{file}' would unpack to {unpacked:,} bytes from {file.stat().st_size:,} and is not "
            "opened; a file of torch.save is not compressed"
        )
