"""Maps of ids in MATLAB files, read in plain Python because scipy's reader can crash on a damaged
file and take the whole process with it.

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

_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"} | {
    12: "i8",
    13: "u8",
}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _NUMBERS = 1, 2, range(6, 16)
_MOST, _DEEPEST = 4096, 8  # parts of a matrix or a file, cells within cells
_LARGEST = 2**28  # bytes that the compressed variables of a file may grow to


@dataclass(frozen=True)
class Variable:
    """One matrix: what kind, its dimensions, and the bytes of what it holds."""

    kind: int
    dims: tuple[int, ...]
    name: str
    body: bytes
    order: str  # "<" or ">", the byte order


def read_mat(path: Path) -> dict[str, Variable]:
    """The variables of a MATLAB file by name.

    Raises:
        UserError: the file is missing, unreadable, or of another version.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"no such label: '{path}'; check the path") from None
    except OSError as error:
        raise UserError(f"cannot read label '{path}' ({error}); check the file") from None
    if data.startswith(b"MATLAB 7.3"):
        raise UserError(f"label '{path}' is a MATLAB file of version 7.3; save it with -v7")
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128], "")
    if not order:
        raise UserError(f"label '{path}' is no MATLAB file; extract the archive again")
    variables, room = {}, _LARGEST
    try:
        for kind, content in _elements(data[128:], order):
            if kind == _COMPRESSED:
                unpacked = zlib.decompressobj().decompress(content, room)
                room -= len(unpacked)
                if room <= 0:
                    raise ValueError(f"it unpacks to more than {_LARGEST:,} bytes")
                kind, content = _elements(unpacked, order)[0]
            if kind == _MATRIX:
                variable = _variable(content, order)
                variables[variable.name] = variable
    except (struct.error, ValueError, IndexError, zlib.error, MemoryError) as error:
        raise UserError(f"cannot read label '{path}' ({error}); extract it again") from error
    return variables


def id_map(variables: dict[str, Variable], path: Path, *fields: str) -> NDArray[Any]:
    """The whole numbers (H, W) at ``variables[fields[0]]``, its field ``fields[1]``, and so on.

    Cells are entered at their first entry.

    Raises:
        UserError: there is no such field, or it holds something else.
    """
    try:
        found = _enter(variables[fields[0]])
        for field in fields[1:]:
            found = _enter(_field(found, field))
        return _numbers(found)
    except (struct.error, ValueError, IndexError, KeyError, TypeError) as error:
        raise UserError(
            f"label '{path}' holds no map of ids in '{'.'.join(fields)}' ({error}); extract the "
            "archive again"
        ) from error


def _elements(data: bytes, order: str) -> list[tuple[int, bytes]]:
    """Type and content of every element in ``data``."""
    elements: list[tuple[int, bytes]] = []
    at = 0
    while at + 8 <= len(data):
        if len(elements) == _MOST:
            raise ValueError(f"more than {_MOST} parts")
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start = at + 8
        if kind >> 16:  # up to four bytes, packed into the tag
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
            end = at + 8
        else:
            end = start + size + (-size % 8 if kind != _COMPRESSED else 0)
        if start + size > len(data) or (start == at + 4 and size > 4):
            raise ValueError("cut off")
        elements.append((kind, data[start : start + size]))
        at = end
    return elements


def _variable(content: bytes, order: str) -> Variable:
    flags, dims, name = _elements(content, order)[:3]
    (kind,) = struct.unpack_from(f"{order}I", flags[1])
    sizes = struct.unpack(f"{order}{len(dims[1]) // 4}i", dims[1])
    return Variable(kind & 0xFF, sizes, name[1].decode("latin-1"), content, order)


def _held(variable: Variable) -> list[tuple[int, bytes]]:
    """The elements behind flags, dimensions and name."""
    return _elements(variable.body, variable.order)[3:]


def _enter(variable: Variable) -> Variable:
    for _ in range(_DEEPEST):
        if variable.kind != _CELL:
            return variable
        variable = _variable(_held(variable)[0][1], variable.order)
    raise ValueError(f"more than {_DEEPEST} cells within cells")


def _field(variable: Variable, name: str) -> Variable:
    if variable.kind != _STRUCT:
        raise ValueError("no struct")
    length, names, *values = _held(variable)
    (step,) = struct.unpack(f"{variable.order}i", length[1])
    if step < 1:
        raise ValueError("no names")
    starts = range(0, len(names[1]), step)
    fields = [names[1][k : k + step].split(b"\0")[0].decode("latin-1") for k in starts]
    return _variable(values[fields.index(name)][1], variable.order)


def _numbers(variable: Variable) -> NDArray[Any]:
    if variable.kind not in _NUMBERS or len(variable.dims) != 2:
        raise ValueError("no matrix of numbers")
    (kind, content), *imaginary = _held(variable)
    if imaginary:
        raise ValueError("complex numbers")
    values = np.frombuffer(content, np.dtype(variable.order + _TYPES[kind]))
    if min(variable.dims) < 1 or len(values) != prod(variable.dims):
        raise ValueError("wrong number of values")
    if values.dtype.kind == "f":
        if not (values == np.floor(values)).all() or abs(values).max() > 2**53:
            raise ValueError("no whole numbers")
        values = values.astype(np.int64)
    native = values.astype(values.dtype.newbyteorder("="))
    return native.reshape(variable.dims, order="F")
