"""Untrusted configurations and weights: refused with one sentence, and nothing is executed."""

import json
import pickle
import re
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fuzz import seeds
from scenewise import create_model, load_model
from scenewise.apps.cli import main
from scenewise.data.class_lists import read_classes
from scenewise.data.formats.hugging_face import _from_id2label
from scenewise.data.formats.pascal_context import _json_names
from scenewise.data.shards import ShardSet
from scenewise.errors import UserError
from scenewise.exports import load_exported
from tests.untrusted import bounded


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


READERS: dict[str, Callable[[Path], object]] = {
    "classes.json": read_classes,
    "id2label.json": _from_id2label,
    "index.json": lambda path: ShardSet(path.parent),
    "trainval_merged.json": lambda path: _json_names(path, "train"),
    "config.json": lambda path: load_model(path.parent),
}
INVALID_JSON = {
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"names":' * 100_000,
    "not UTF-8": b'{"names": ["\xff\xfe"]}',
    "a key twice": b'{"names": ["a"], "names": ["b"]}',
    "NaN": b'{"names": NaN}',
    "a number beyond floats": b'{"names": 1e999}',
    "a number of 5000 digits": b'{"names": ' + b"9" * 5000 + b"}",
    "half a character": b'{"names": ["\\ud800"]}',
    "another type": b'"names"',
    "nothing": b"",
}


@pytest.mark.parametrize("attack", INVALID_JSON)
@pytest.mark.parametrize("name", READERS)
def test_json_that_is_invalid_or_ambiguous(tmp_path: Path, name: str, attack: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(seeds.weights())
    (tmp_path / name).write_bytes(INVALID_JSON[attack])
    with pytest.raises(UserError, match=re.escape(name)) as error:
        READERS[name](tmp_path / name)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "value",
    [
        {"names": [], "colors": []},
        {"names": ["a"] * 257},
        {"names": "ab"},
        {"names": {"a": 1}},
        {"names": ["a"], "colors": [[0, 0]]},
        {"names": ["a"], "colors": [[0, 0, 256]]},
        {"names": ["a"], "colors": "abc"},
        {"names": ["a"], "ignore_index": 256},
        {"names": ["a"], "ignore_index": "255"},
        {"names": ["\x1b[2Ja"]},
        {"classes": [{"id": 0}]},
        {"classes": {"0": ["a"]}},
        {"classes": [{"id": 0, "name": ["a"]}]},
    ],
)
def test_class_lists_of_wrong_types(tmp_path: Path, value: object) -> None:
    (tmp_path / "classes.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=r"cannot use class list .*classes\.json") as error:
        read_classes(tmp_path / "classes.json")
    assert str(error.value).isprintable()


def folder(tmp_path: Path, part: str, name: str, value: object) -> Path:
    """A valid model folder, except for one entry of its configuration."""
    model = create_model("fcn", num_classes=2, backbone="tiny")
    model.save_pretrained(tmp_path)
    config: dict[str, Any] = model.config()
    config[part][name] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("model", "backbone", "hf-hub:other/model"),
        ("model", "backbone", "hf_hub:other/model"),
        ("model", "backbone", "local-dir:/tmp"),
        ("model", "backbone", "../../tiny"),
        ("model", "backbone", 5),
        ("model", "backbone_weights", "/etc/passwd"),
        ("model", "pretrained", True),
        ("model", "name", "os.system"),
        ("model", "name", ["fcn"]),
        ("model", "unknown option", 1),
        ("model", "width", 10**9),
        ("model", "width", -1),
        ("model", "width", "64"),
        ("model", "align_corners", "no"),
        ("model", "output_stride", 8.5),
        ("classes", "ignore_index", 10**400),
        ("classes", "ignore_index", -1),
        ("classes", "names", 7),
        ("classes", "names", ["\x1b[2Ja", "b"]),
        ("preprocessing", "mean", [0.5]),
        ("preprocessing", "std", [0, 1, 1]),
        ("preprocessing", "value_range", 0),
        ("preprocessing", "channel_order", "GBR"),
    ],
)
def test_configurations_with_forbidden_values(
    tmp_path: Path, part: str, name: str, value: object
) -> None:
    with bounded(64), pytest.raises(UserError) as error:
        load_model(folder(tmp_path, part, name, value))
    assert str(error.value).isprintable()


def test_a_configuration_builds_no_class(tmp_path: Path) -> None:
    model = create_model("chain", num_classes=2, backbone="tiny", contexts=["cbam"])
    model.save_pretrained(tmp_path)
    config = model.config()
    made = tmp_path / "executed"
    context = {"class_path": "logging.FileHandler", "init_args": {"filename": str(made)}}
    config["model"]["contexts"] = [context]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot be built"):
        load_model(tmp_path)
    assert not made.exists()


HANDLER = "{class_path: logging.FileHandler, init_args: {filename: MADE}}"
TAG = "!!python/object/apply:os.system ['touch MADE']"


@pytest.mark.parametrize(
    "text",
    [
        f"model: {{network: {TAG}}}",
        f"trainer: {{callbacks: [{HANDLER}]}}",
        f"trainer: {{logger: {HANDLER}}}",
    ],
)
def test_yaml_refuses_tags_and_classes_of_another_type(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    made = tmp_path / "executed"
    config = tmp_path / "c.yaml"
    config.write_text(text.replace("MADE", str(made)))
    assert main(["fit", "--config", str(config), "--data.format", "scenes"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not made.exists()


GADGETS = ["os system", "builtins eval", "builtins getattr", "torch load", "torch.hub load"]


@pytest.mark.parametrize("suffix", [".ckpt", ".pth", ".pt", ".bin", ".pth.tar"])
@pytest.mark.parametrize("gadget", GADGETS)
def test_a_pickle_calls_nothing(
    tmp_path: Path, gadget: str, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module, name = gadget.split()
    call = f"c{module}\n{name}\n(S'touch executed'\ntR.".encode()
    for content in (seeds.archive(call), call, pickle.dumps({"a": 1}) + call):
        (tmp_path / f"x{suffix}").write_bytes(content)
        with pytest.raises(UserError):
            load_model(tmp_path / f"x{suffix}")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [{"scenewise": 5}, {"scenewise": {}, "state_dict": [1]}])
def test_checkpoints_of_wrong_types(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"x\.ckpt' is damaged"):
        load_model(tmp_path / "x.ckpt")


def test_weights_that_are_not_dense(tmp_path: Path) -> None:
    model = create_model("fcn", num_classes=2, backbone="tiny")
    state = {f"model.{k}": v.to_sparse() for k, v in model.state_dict().items()}
    torch.save({"scenewise": model.config(), "state_dict": state}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="tensors of unsupported types"):
        load_model(tmp_path / "x.ckpt")


def safetensors(header: bytes, data: bytes = bytes(16), size: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if size is None else size) + header + data


def entry(shape: list[int], start: int, end: int, kind: str = "F32") -> bytes:
    return json.dumps({"a": {"dtype": kind, "shape": shape, "data_offsets": [start, end]}}).encode()


@pytest.mark.parametrize(
    "content",
    [
        safetensors(b"{}", size=2**63),
        safetensors(b"{}", size=10**8 - 1),
        safetensors(b"[" * 10**5),
        safetensors(entry([4], 0, 10**12)),
        safetensors(entry([10**9, 10**9, 10**9], 0, 16)),
        safetensors(entry([4], 16, 0)),
        safetensors(entry([4], 0, 16, "os.system")),
        safetensors(entry([2], 8, 16)),
        safetensors(b'{"a": 1, "a": 2}'),
    ],
)
def test_safetensors_with_a_false_header(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(safetensors(entry([4], 0, 16)))
    assert load_file(tmp_path / "x.safetensors")["a"].shape == (4,)
    (tmp_path / "x.safetensors").write_bytes(content)
    with bounded(8), pytest.raises(UserError, match="damaged or not a weights file"):
        load_model(tmp_path / "x.safetensors")


@pytest.mark.parametrize("place", ["../secret.bin", "ABSOLUTE"])
def test_onnx_weights_outside_the_folder(tmp_path: Path, place: str) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    np.arange(4, dtype=np.float32).tofile(tmp_path / "secret.bin")
    (tmp_path / "m").mkdir()
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=1)
    where = str(tmp_path / "secret.bin") if place == "ABSOLUTE" else place
    for key, value in (("location", where), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    helper = onnx.helper
    ends = [helper.make_tensor_value_info(name, 1, [4]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [tensor]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (tmp_path / "m" / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=r"cannot load .*a\.onnx"):
        load_exported(tmp_path / "m" / "a.onnx")


def test_openvino_weights_beyond_their_file(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    ops = openvino.opset13
    x = ops.parameter([4], np.float32)
    model = openvino.Model([ops.add(x, ops.constant(np.arange(4, dtype=np.float32)))], [x])
    openvino.save_model(model, tmp_path / "a.xml", compress_to_fp16=False)
    text = (tmp_path / "a.xml").read_text()
    assert 'offset="0"' in text
    (tmp_path / "a.xml").write_text(text.replace('offset="0"', 'offset="1000000000"'))
    with pytest.raises(UserError, match=r"OpenVINO cannot load .*a\.xml"):
        load_exported(tmp_path / "a.xml")
