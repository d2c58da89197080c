"""Tensors from files, safely: nothing in a file is executed."""

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scenewise.errors import UserError

_WRAPPERS = ("state_dict", "model", "model_state_dict")


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The named tensors of a ``.safetensors`` file or of a ``torch.save`` file.

    A dictionary around the tensors (``state_dict``, ``model``) and the prefix ``module.`` that
    DataParallel adds are taken off; entries that are no tensors are left out.

    Raises:
        UserError: the file is missing, damaged, holds no tensors, or wants to run code.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "w.pth"
    >>> torch.save({"state_dict": {"module.a": torch.ones(2)}, "epoch": 3}, file)
    >>> read_tensors(file)
    {'a': tensor([1., 1.])}
    """
    content = read_file(path)
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    tensors = {str(k).removeprefix("module."): v for k, v in content.items() if _is_tensor(v)}
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
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on old pickle formats
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"'{file}' holds more than tensors and is not opened, because that could run code; "
            "save its state_dict alone"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(f"'{file}' is damaged or no weights file; fetch it again") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"'{file}' is damaged; fetch it again") from error
    if not isinstance(content, dict):
        raise UserError(f"'{file}' holds no dictionary of tensors; give a state_dict")
    return content


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)
