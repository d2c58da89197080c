"""Reading label maps from MATLAB files in plain Python: scipy's reader can crash on damaged files.

The format is the "Level 5 MAT-file" of MathWorks' documentation (``save -v6``, ``-v7``): elements
of a tag (type, length) and data; matrices hold flags, dimensions, a name, and their values.
"""

import struct
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scenewise.errors import UserError

_TYPES = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"
}  # fmt: skip
_MATRIX, _COMPRESSED = 14, 15  # types of elements
_CELL, _STRUCT, _NUMBERS = 1, 2, range(6, 16)  # classes of matrices
_MAX_PARTS, _MAX_DEPTH = 4096, 8  # of a matrix or a file; of nested cells
_MAX_BYTES = 2**28  # of a file's decompressed variables


@dataclass(frozen=True)
class _Variable:
    """One matrix: its class, dimensions, and undecoded content."""

    kind: int
    dims: tuple[int, ...]
    name: str
    body: bytes
    order: str  # "<" or ">", the byte order


def read_mat(path: Path) -> dict[str, _Variable]:
    """The variables of a MATLAB file by name.

    Raises:
        UserError: the file is missing, unreadable, or of another version.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"label '{path}' not found; check the path") from None
    except OSError as error:
        raise UserError(f"cannot read label '{path}' ({error}); check the file") from None
    if data.startswith(b"MATLAB 7.3"):
        raise UserError(f"label '{path}' is a MATLAB file of version 7.3; save it with -v7")
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128], "")  # the end of the header
    if not order:
        raise UserError(f"label '{path}' is not a MATLAB file; extract the archive again")
    variables, room = {}, _MAX_BYTES
    try:
        for kind, content in _elements(data[128:], order):
            if kind == _COMPRESSED:
                unpacked = zlib.decompressobj().decompress(content, room)
                room -= len(unpacked)
                if room <= 0:
                    raise ValueError(f"it unpacks to more than {_MAX_BYTES:,} bytes")
                kind, content = _elements(unpacked, order)[0]
            if kind == _MATRIX:
                variable = _variable(content, order)
                variables[variable.name] = variable
    except (struct.error, ValueError, IndexError, zlib.error, MemoryError) as error:
        raise UserError(f"cannot read label '{path}' ({error}); extract it again") from error
    return variables


def id_map(variables: dict[str, _Variable], path: Path, *fields: str) -> NDArray[Any]:
    """The integers (H, W) in ``variables[fields[0]]``, its field ``fields[1]``, and so on.

    Of a cell array the first entry is read.

    Raises:
        UserError: the field is missing, or does not hold a matrix of integers.
    """
    try:
        variable = _enter(variables[fields[0]])
        for field in fields[1:]:
            variable = _enter(_field(variable, field))
        return _numbers(variable)
    except (struct.error, ValueError, IndexError, KeyError, TypeError) as error:
        raise UserError(
            f"cannot read ids from '{'.'.join(fields)}' of label '{path}' ({error}); extract the "
            "archive again"
        ) from error


def _elements(data: bytes, order: str) -> list[tuple[int, bytes]]:
    """Type and content of every element in ``data``."""
    elements: list[tuple[int, bytes]] = []
    at = 0
    while at + 8 <= len(data):
        if len(elements) == _MAX_PARTS:
            raise ValueError(f"more than {_MAX_PARTS} parts")
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start = at + 8
        if kind >> 16:  # up to four bytes of data, packed into the tag
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
            end = at + 8
        else:
            end = start + size + (-size % 8 if kind != _COMPRESSED else 0)  # padded to 8
        if start + size > len(data) or (start == at + 4 and size > 4):
            raise ValueError("truncated")
        elements.append((kind, data[start : start + size]))
        at = end
    return elements


def _variable(content: bytes, order: str) -> _Variable:
    flags, dims, name = _elements(content, order)[:3]
    (kind,) = struct.unpack_from(f"{order}I", flags[1])
    sizes = struct.unpack(f"{order}{len(dims[1]) // 4}i", dims[1])
    return _Variable(kind & 0xFF, sizes, name[1].decode("latin-1"), content, order)


def _values(variable: _Variable) -> list[tuple[int, bytes]]:
    """The elements after flags, dimensions and name."""
    return _elements(variable.body, variable.order)[3:]


def _enter(variable: _Variable) -> _Variable:
    for _ in range(_MAX_DEPTH):
        if variable.kind != _CELL:
            return variable
        variable = _variable(_values(variable)[0][1], variable.order)
    raise ValueError(f"more than {_MAX_DEPTH} nested cells")


def _field(variable: _Variable, name: str) -> _Variable:
    if variable.kind != _STRUCT:
        raise ValueError("not a struct")
    length, names, *values = _values(variable)
    (step,) = struct.unpack(f"{variable.order}i", length[1])  # bytes of a field's name
    if step < 1:
        raise ValueError("fields without names")
    starts = range(0, len(names[1]), step)
    fields = [names[1][k : k + step].split(b"\0")[0].decode("latin-1") for k in starts]
    return _variable(values[fields.index(name)][1], variable.order)


def _numbers(variable: _Variable) -> NDArray[Any]:
    if variable.kind not in _NUMBERS or len(variable.dims) != 2:
        raise ValueError("not a matrix of numbers")
    (kind, content), *imaginary = _values(variable)
    if imaginary:
        raise ValueError("complex numbers")
    values = np.frombuffer(content, np.dtype(variable.order + _TYPES[kind]))
    if min(variable.dims) < 1 or len(values) != prod(variable.dims):
        raise ValueError("wrong number of values")
    if values.dtype.kind == "f":
        if not (values == np.floor(values)).all() or abs(values).max() > 2**53:  # exact in a double
            raise ValueError("not integers")
        values = values.astype(np.int64)
    native = values.astype(values.dtype.newbyteorder("="))
    return native.reshape(variable.dims, order="F")  # (H, W), stored by columns
