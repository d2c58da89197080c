"""``torch.export`` programs, .pt2 files, which run in PyTorch without this project."""

import json
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from scenewise.errors import UserError
from scenewise.exports.decompositions import PADDED
from scenewise.exports.metadata import Metadata
from scenewise.exports.trace import failed, quiet

ATTENTION = "fused operator (scaled_dot_product_attention)"
_FILE = "scenewise.json"


def convert(program: ExportedProgram) -> ExportedProgram:
    """The program without this project's custom operators.

    Raises:
        UserError: the decomposition failed.
    """
    try:
        with quiet():
            plain: ExportedProgram = program.run_decompositions(PADDED)
    except Exception as error:
        raise failed("torch.export", error) from error
    return plain


def save(program: ExportedProgram, metadata: Metadata, file: Path) -> None:
    """Write one file; the metadata is its extra file ``scenewise.json``."""
    with quiet():
        torch.export.save(program, file, extra_files={_FILE: json.dumps(metadata)})


class Pt2Engine:
    """A .pt2 file in PyTorch, on the CPU.

    PyTorch's loader may run code from the file: only for files that this process wrote.
    """

    def __init__(self, file: Path) -> None:
        extra = {_FILE: ""}
        with quiet():
            self.module = torch.export.load(file, extra_files=extra).module()
        self.metadata: Metadata = json.loads(extra[_FILE])

    def __call__(self, images: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                out: Tensor = self.module(images)
        except Exception as error:
            raise UserError(
                f"the exported program failed on an input of {tuple(images.shape)} ({error}); use "
                "another size, or the model itself"
            ) from error
        return out
