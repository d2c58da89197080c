"""What training scripts save beside the weights loads without running anything."""

import argparse
import builtins
import collections
import datetime
import functools
import io
import os
import pathlib
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scenewise.errors import UserError
from scenewise.models.safe_load import read_file

WEIGHTS = {"a.w": torch.ones(2, 2)}


class HistoryBuffer:
    """As mmengine's: arrays, and methods by name."""

    def __init__(self) -> None:
        self._log_history = np.arange(3.0)
        self._count_history = np.array([1, 1, 1])
        self._statistics_methods = {"min": HistoryBuffer.min}

    def min(self) -> float:
        raise AssertionError("executed")

    def __setstate__(self, _: object) -> None:
        raise AssertionError("executed")


class ConfigDict(dict[str, Any]):
    """As mmcv's, yacs' and others'."""


@pytest.fixture(autouse=True)
def _mmengine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module that the pickle names, while it is written; none is there to read it."""
    for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(HistoryBuffer, "__module__", name)
    monkeypatch.setattr(HistoryBuffer.min, "__module__", name)
    monkeypatch.setattr(sys.modules[name], "HistoryBuffer", HistoryBuffer, raising=False)


# content -> what is read; ... where only that nothing is executed matters
SAVED: dict[str, tuple[Any, Any]] = {
    "DANet's best_pred": (np.float64(0.75), 0.75),
    "half": (np.float32(1.5), 1.5),
    "count": (np.int64(7), 7),
    "flag": (np.bool_(True), True),
    "palette": (np.arange(6, dtype=np.uint8).reshape(2, 3), [[0, 1, 2], [3, 4, 5]]),
    "by columns": (np.asfortranarray([[0.0, 1.0], [2.0, 3.0]]), [[0.0, 1.0], [2.0, 3.0]]),
    "big-endian": (np.array([1, 2], dtype=">i4"), [1, 2]),
    "names": (np.array(["road", "sky"]), ["road", "sky"]),
    "no items": (np.array([]), []),
    "too many items": (np.zeros(20_000), []),
    "objects": (np.array([None, "a"], dtype=object), []),
    "path": (pathlib.PurePosixPath("/data/x"), "/data/x"),
    "settings": (ConfigDict(lr=0.1), {"lr": 0.1}),
    "default": (collections.defaultdict(list, {"a": [1]}), {"a": [1]}),
    "queue": (collections.deque([1, 2], 5), [1, 2]),
    "bytes": (b"", b""),
    "set": ({1}, {1}),
    "arguments": (argparse.Namespace(lr=0.1, root=Path("x")), ...),
    "now": (datetime.datetime(2020, 1, 1), ...),
    "duration": (datetime.timedelta(1), ...),
    "generator": (np.random.default_rng(0), ...),
    "random state": (np.random.get_state(), ...),
    "version": (torch.torch_version.TorchVersion("2.0"), ...),
    "namespace": (types.SimpleNamespace(a=1), ...),
}


@pytest.mark.parametrize("old", [False, True])
def test_values_of_training_scripts(tmp_path: Path, old: bool) -> None:
    file = tmp_path / "x.pth"
    values = {name: saved for name, (saved, _) in SAVED.items()}
    hub = {"message_hub": {"log_scalars": {"train/loss": HistoryBuffer()}}}
    torch.save(
        {"state_dict": WEIGHTS, **values, **hub}, file, _use_new_zipfile_serialization=not old
    )
    content = read_file(file)
    assert torch.equal(content["state_dict"]["a.w"], WEIGHTS["a.w"])
    for name, (_, expected) in SAVED.items():
        assert expected is ... or content[name] == expected, name
    assert content["arguments"].state == {"lr": 0.1, "root": "x"}
    buffer = content["message_hub"]["log_scalars"]["train/loss"]
    assert buffer.state["_log_history"] == [0.0, 1.0, 2.0]
    assert not isinstance(buffer, HistoryBuffer)


class Calls:
    """An object whose pickle calls ``function``, and then sets a state."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.call


class Touches:
    def __setstate__(self, state: Any) -> None:
        Path("executed").touch()

    def __reduce__(self) -> Any:
        return (Touches, (), {"a": 1})


TOUCH = "open('executed', 'w')"
MALICIOUS: dict[str, Any] = {
    "os": Calls(os.system, "touch executed"),
    "subprocess": Calls(subprocess.Popen, ["touch", "executed"]),
    "eval": Calls(eval, TOUCH),
    "exec": Calls(exec, TOUCH),
    "import": Calls(builtins.__import__, "os"),
    "open": Calls(open, "executed", "w"),
    "io": Calls(io.FileIO, "executed", "w"),
    "nested": [{"a": (Calls(eval, TOUCH),)}],
    "with a state": Calls(Calls, print, state={"a": 1}),
    "a __setstate__": Touches(),
    "numpy.load": Calls(np.load, "x.npy", None, True),
    "numpy.fromfile": Calls(np.fromfile, "x"),
    "torch.load": Calls(torch.load, "x.pth"),
    "torch.hub.load": Calls(torch.hub.load, "a/b", "c"),
    "a method": Calls(getattr, Path, "touch"),
    "a method of a layer": Calls(getattr, torch.nn.Linear, "forward"),
    "a layer": Calls(torch.nn.Linear, 3, 4),
    "map": Calls(map, print, [1]),
    "partial": Calls(functools.partial, eval, TOUCH),
    "a name alone": eval,
    "os by name alone": os.system,
    "rebuilt": Calls(torch._tensor._rebuild_from_type_v2, argparse.Namespace, torch.Tensor, (), {}),
}


@pytest.mark.parametrize("name", MALICIOUS)
def test_what_calls_a_function_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for old in (False, True):
        content = {"state_dict": WEIGHTS, "x": MALICIOUS[name]}
        torch.save(content, "x.pth", _use_new_zipfile_serialization=not old)
        with pytest.raises(UserError, match="could run code; save its state_dict alone") as error:
            read_file("x.pth")
        assert "\n" not in str(error.value)
    assert not Path("executed").exists()


def test_a_method_of_a_history_cannot_be_called(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "x.pth")
    method = b"c__builtin__\ngetattr\ncmmengine.logging.history_buffer\nHistoryBuffer\nX"
    for name, ending, message in [
        (b"min", b"\x86R)R.", "could run code"),  # the method, called without arguments
        (b"update", b"\x86R.", "calls getattr"),
    ]:
        content = b"\x80\x02" + method + len(name).to_bytes(4, "little") + name + ending
        with (
            zipfile.ZipFile(tmp_path / "x.pth") as whole,
            zipfile.ZipFile(tmp_path / "y.pth", "w") as changed,
        ):
            for entry in whole.namelist():
                data = content if entry.endswith("data.pkl") else whole.read(entry)
                changed.writestr(entry, data)
        with pytest.raises(UserError, match=message):
            read_file(tmp_path / "y.pth")


@pytest.mark.parametrize("old", [False, True])
def test_a_pickle_longer_than_any_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    monkeypatch.setattr("scenewise.models.stand_ins._LONGEST", 1000)
    shared = torch.ones(1)
    content = {f"a{i}": shared for i in range(500)}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=not old)
    with pytest.raises(UserError, match="holds more than 1,000 entries and is not opened"):
        read_file(tmp_path / "x.pth")


def test_stand_ins_leave_no_trace(tmp_path: Path) -> None:
    torch.save({"a": argparse.Namespace(b=1)}, tmp_path / "x.pth")
    before = set(torch.serialization.get_safe_globals())
    read_file(tmp_path / "x.pth")
    assert set(torch.serialization.get_safe_globals()) == before
