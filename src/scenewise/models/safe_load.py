"""Load tensors from untrusted files; nothing in a file is executed."""

import pickle
import threading
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from scenewise.errors import UserError
from scenewise.models.file_formats import describe_file, describe_missing
from scenewise.models.stand_ins import CallsCode, Inert, stand_ins, unsafe_names

_MOST_RECORDS = 100_000  # in an archive of torch.save, one a tensor
_allowing = threading.Lock()


def read_file(path: str | Path) -> dict[str, Any]:
    """The dictionary in a file of tensors and plain values, unchanged.

    Objects of other classes become :mod:`inert <scenewise.models.stand_ins>`.

    Raises:
        UserError: the file is missing, damaged, no dictionary, or would run code.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "w.pth"
    >>> torch.save({"state_dict": {"a": torch.ones(2)}, "folder": Path("/data")}, file)
    >>> read_file(file)
    {'state_dict': {'a': tensor([1., 1.])}, 'folder': '/data'}
    """
    file = Path(path)
    if not file.is_file():
        missing = f"no such file: '{file}'; give the path of a weights file"
        raise UserError(describe_missing(path) or missing)
    _check_archive(file)
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        content = _unpickle(file)
    except UserError:
        raise
    except CallsCode as error:
        raise UserError(
            f"'{file}' calls {error} and is not opened, because that could run code; save its "
            "state_dict alone"
        ) from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"'{file}' holds more than tensors and plain values and is not opened, because that "
            "could run code; save its state_dict alone"
        ) from error
    except Exception as error:  # damaged bytes raise anything
        raise UserError(f"'{file}' is damaged or not a weights file; fetch it again") from error
    if isinstance(content, Inert):  # torch.save(network)
        return {"model": content}
    if not isinstance(content, dict):
        raise UserError(f"'{file}' holds no dictionary of tensors; give a state_dict")
    return content


def _unpickle(file: Path) -> Any:
    """What ``torch.load`` returns, with stand-ins for what it refuses to name."""
    with warnings.catch_warnings(), _allowing:  # the allowed names are global
        warnings.simplefilter("ignore")  # about old pickle formats
        with torch.serialization.safe_globals([*stand_ins(unsafe_names(file))]):
            return torch.load(file, map_location="cpu", weights_only=True)


def _check_archive(file: Path) -> None:
    """Refuse another format, and an archive that unpacks to more than its size.

    ``torch.save`` never compresses.
    """
    entries: list[zipfile.ZipInfo] = []
    try:
        what = describe_file(file)
        with file.open("rb") as start:
            archived = start.read(4) == b"PK\3\4"
        if archived:
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
    except Exception as error:
        raise UserError(f"'{file}' is damaged or not a weights file; fetch it again") from error
    if what is not None:
        raise UserError(f"'{file}' is {what}")
    unpacked = sum(entry.file_size for entry in entries)  # as it claims
    if len(entries) > _MOST_RECORDS:
        raise UserError(
            f"'{file}' holds {len(entries):,} records and is not opened; no network has more than "
            f"{_MOST_RECORDS:,} tensors"
        )
    if unpacked > file.stat().st_size:
        raise UserError(
            f"'{file}' would unpack to {unpacked:,} bytes from {file.stat().st_size:,} and is not "
            "opened; a file of torch.save is not compressed"
        )
