"""Inert stand-ins for the classes that a checkpoint names, so that it loads without running them.

A checkpoint of a training script holds more than tensors: NumPy numbers, paths, dates, settings,
loss histories, at times the whole network. PyTorch refuses such a file, because a pickle may call
any function that it names. Here each name gets an empty class of its own instead, through
``torch.serialization.safe_globals``: an object keeps its state and has no methods. Calling is left
to the constructors of plain values below, as rewritten here; a file that calls anything else is
refused.
"""

import io
import math
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
import torch
from torch._utils import IMPORT_MAPPING, NAME_MAPPING  # Python 2's names, as PyTorch maps them

from scenewise.errors import UserError

_LONGEST = 1_000_000  # opcodes of a pickle; a ResNet-101 with its optimiser's state has 50,000
_LARGEST_ARRAY = 10_000  # items; longer ones are loss histories, which nothing here needs
_NUMBERS = re.compile(r"b1|[iu][1248]|f[248]|[SU]\d{1,4}")  # NumPy's codes of plain items
_TABLES = re.compile(r"(Dict|CfgNode|Munch|Box)$")  # subclasses of dict: mmengine's, yacs', ...
# Of builtins, the types that objects refer to; a pickle that names any other could run code.
_TYPES = {
    *("bool", "bytearray", "complex", "dict", "float", "int", "list", "object", "set", "str"),
    "tuple",
}
_SYSTEM = {"commands", "nt", "os", "posix", "subprocess", "sys"}
_STATISTICS = {"current", "max", "mean", "min"}  # methods that mmengine's HistoryBuffer refers to


class CallsCode(Exception):
    """The file would call a function; the message names it."""


class _Uncallable(type):
    """A class whose objects come from ``cls.__new__`` alone, as pickle's NEWOBJ makes them."""

    origin: str

    def __call__(cls, *_: object) -> Any:
        raise CallsCode(cls.origin)


class Inert(metaclass=_Uncallable):
    """An object of a class that the file names: its state, and no methods.

    Attributes:
        origin: the dotted name of the class in the file.
        state: what the file saved of it; None if nothing.
    """

    origin: ClassVar[str]
    state: Any = None

    def __new__(cls, *_: object) -> "Inert":
        """An object without state; the arguments are dropped."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Keep the state; ``__dict__`` stays untouched."""
        self.state = state


class _Value:
    """A plain value that nothing here needs, such as a date."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


class _DType:
    """``numpy.dtype``; ``code`` is None for items other than numbers and strings."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.code = code if isinstance(code, str) and _NUMBERS.fullmatch(code) else None

    def __setstate__(self, state: Any) -> None:
        if self.code is not None and isinstance(state, tuple) and state[1] in ("<", ">"):
            self.code = state[1] + self.code

    def items(self, data: object) -> np.ndarray[Any, Any]:
        """The items in ``data``; none if they are not plain."""
        if self.code is None or not isinstance(data, bytes):
            return np.array([])
        return np.frombuffer(data, np.dtype(self.code))


class _Array(list[Any]):
    """``numpy.ndarray`` as nested lists; empty if large or of other items than plain ones."""

    def __init__(self, *_: object) -> None:
        super().__init__()  # the shape comes with the state

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, column_major, data = state
        small = len(shape) > 0 and math.prod(shape) <= _LARGEST_ARRAY
        if not small or not isinstance(dtype, _DType):
            return
        items = dtype.items(data)
        if len(items) == math.prod(shape):
            self.extend(items.reshape(shape, order="F" if column_major else "C").tolist())


class _List(list[Any]):
    """``collections.deque``, filled afterwards."""

    def __init__(self, items: Any = (), *_: object) -> None:
        super().__init__(items)


class _Table:
    """A subclass of dict, as an OrderedDict: PyTorch fills exact dictionaries only."""

    def __new__(cls, items: Any = None, *_: object) -> Any:
        """A new dictionary with ``items``, the argument of mmengine's ConfigDict."""
        return OrderedDict(items) if isinstance(items, dict) else OrderedDict()


def _number(dtype: Any, data: object = b"") -> Any:
    """A NumPy scalar, as Python's; None if it is not plain."""
    items = dtype.items(data).tolist() if isinstance(dtype, _DType) else []
    return items[0] if len(items) == 1 else None


def _no_bytes(*_: object) -> bytes:
    """``bytes()``, as Python 3 writes empty bytes in the format of Python 2."""
    return b""


def _path(*parts: Any) -> str:
    return str(PurePosixPath(*map(str, parts)))


def _method(owner: Any, name: str) -> str:
    """``getattr(owner, name)`` for the one class that needs it: the name, nothing more."""
    if getattr(owner, "origin", "").endswith("HistoryBuffer") and name in _STATISTICS:
        return name
    raise CallsCode("getattr")


_CORE = ("numpy.core", "numpy._core")  # NumPy 1 and 2
_CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    **{f"{core}.multiarray.scalar": _number for core in _CORE},
    **{f"{core}.multiarray._reconstruct": _Array for core in _CORE},
    "numpy.dtype": _DType,
    "numpy.ndarray": _Array,
    **{
        f"numpy.random._pickle.__{kind}_ctor": _Value
        for kind in ("randomstate", "generator", "bit_generator")
    },
    "numpy.random.bit_generator.__pyx_unpickle_SeedSequence": _Value,
    "builtins.bytes": _no_bytes,
    "builtins.frozenset": _List,
    "builtins.getattr": _method,
    "builtins.range": _Value,
    "builtins.slice": _Value,
    "collections.defaultdict": _Table,
    "collections.deque": _List,
    "mmcv.utils.config.ConfigDict": _Table,
    "mmengine.config.config.ConfigDict": _Table,
    "types.SimpleNamespace": _Value,
    **{
        f"{module}.{kind}": _path
        for module in ("pathlib", "pathlib._local")  # the latter since Python 3.13
        for kind in ("Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath")
    },
    **{
        f"datetime.{kind}": _Value for kind in ("date", "datetime", "time", "timedelta", "timezone")
    },
    "decimal.Decimal": _Value,
    "fractions.Fraction": _Value,
}


def stand_ins(names: list[str]) -> list[tuple[Any, str]]:
    """What ``torch.serialization.safe_globals`` takes: a stand-in for each name, and the name.

    Raises:
        CallsCode: a name is one of the operating system's or Python's own functions.

    >>> [(made, name)] = stand_ins(["argparse.Namespace"])
    >>> made.__new__(made).origin
    'argparse.Namespace'
    >>> stand_ins(["builtins.eval"])
    Traceback (most recent call last):
    scenewise.models.stand_ins.CallsCode: eval
    """
    return [(_stand_in(name), name) for name in names]


def _stand_in(name: str) -> Any:
    if name in _CONSTRUCTORS:
        return _CONSTRUCTORS[name]
    module, _, last = name.rpartition(".")
    if module in _SYSTEM or (module == "builtins" and last not in _TYPES):
        raise CallsCode(name.removeprefix("builtins."))
    return _Table if _TABLES.search(last) else _Uncallable(last, (Inert,), {"origin": name})


def unsafe_names(file: Path) -> list[str]:
    """The names in the file's pickle, without those that PyTorch allows by itself.

    Of a file from before PyTorch 1.6 all names, where PyTorch prefers what it allows.

    Raises:
        UserError: the pickle is longer than any network's.
        Exception: any other, where the file is damaged.
    """
    with file.open("rb") as stream:
        archived = stream.read(4) == b"PK\3\4"
        stream.seek(0)
        pickles: Any = _data(stream) if archived else stream
        count = 1 if archived else 4  # before PyTorch 1.6 the fourth pickle is the data
        names = {name for _ in range(count) for name in _names(pickles, file)}
    if archived:
        return torch.serialization.get_unsafe_globals_in_checkpoint(file)
    return sorted(names)


def _data(stream: Any) -> io.BytesIO:
    with zipfile.ZipFile(stream) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        return io.BytesIO(archive.read(name))


def _names(stream: Any, file: Path) -> Iterator[str]:
    """The dotted names in the next pickle."""
    for position, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if position == _LONGEST:
            raise UserError(
                f"'{file}' holds more than {_LONGEST:,} entries and is not opened; save its "
                "state_dict alone"
            )
        if opcode.name == "GLOBAL":
            module, name = str(argument).split(" ", 1)
            module, name = NAME_MAPPING.get((module, name), (module, name))
            yield f"{IMPORT_MAPPING.get(module, module)}.{name}"
