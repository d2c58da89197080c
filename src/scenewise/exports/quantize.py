"""Int8 graphs of ONNX and OpenVINO by NNCF: the layers that lose accuracy stay in float.

NNCF inserts a quantiser at each input of a convolution or matrix product, with ranges measured on
the calibration images. While the score is too low, the layer whose quantisers cost most is
returned to float (``nncf.quantize_with_accuracy_control``).
"""

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import Any

import torch
from torch import Tensor

from scenewise.errors import UserError, import_extra
from scenewise.exports.gate import Gate, Size, graph_input, labeller
from scenewise.exports.onnx import OnnxEngine
from scenewise.exports.openvino import sharing_core
from scenewise.exports.trace import Graph, quiet

_RANKED = 16  # validation images that rank the layers
_LAYERS = {
    *("Convolution", "GroupConvolution", "MatMul", "ScaledDotProductAttention"),  # of OpenVINO
    *("Conv", "ConvTranspose", "Gemm", "Attention", "Scan"),  # of ONNX; a Scan is attention
}
# Operators that keep values as they are, between a layer and the quantiser of its input.
_PASSED = {
    *("Multiply", "Subtract", "Convert", "Reshape", "Transpose", "Unsqueeze", "Squeeze"),
    *("Pad", "Concat", "MaxPool", "Relu", "Clamp", "Clip", "Interpolate", "Resize", "Slice"),
    *("StridedSlice", "VariadicSplit", "Split"),
}


def load_nncf() -> Any:
    """NNCF, without its reports over the network.

    Raises:
        UserError: the extra is missing.
    """
    os.environ.setdefault("NNCF_CI", "1")  # read once, by the import
    loggers = logging.getLoggerClass()
    with quiet():
        nncf = import_extra("nncf", "quantize")
    logging.setLoggerClass(loggers)  # the import makes every later logger one of NNCF's
    # not nncf.set_log_level, which also changes the handlers that others have put there
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf


def quantize(model: Any, graph: Graph, gate: Gate, size: Size | None = None) -> Any:
    """The int8 graph of an ``openvino.Model`` or ``onnx.ModelProto``.

    Raises:
        UserError: fewer than two calibration images, the extra is missing, or NNCF failed.
    """
    if len(gate.calibration) < 2:
        raise UserError(
            f"{len(gate.calibration)} calibration image is too few to measure the range of each "
            "layer; give a folder of 2 or more, better 100, with --calibrate"
        )
    nncf = load_nncf()
    onnx = type(model).__name__ == "ModelProto"

    def as_input(image: Tensor) -> Any:
        values = graph_input(graph, image, size).numpy()
        return {"images": values} if onnx else values

    def validate(compiled: Any, indices: Iterable[int]) -> tuple[float, list[float]]:
        def run(images: Tensor) -> Tensor:
            return torch.as_tensor(compiled(images.numpy())[0])

        engine = OnnxEngine(compiled.SerializeToString()) if onnx else run
        return gate.score(labeller(graph, engine, size), list(indices))

    restoring = nncf.AdvancedAccuracyRestorerParameters(
        ranking_subset_size=min(_RANKED, gate.images), num_ranking_workers=1
    )
    try:
        with _on_stderr(), nullcontext() if onnx else sharing_core():
            return nncf.quantize_with_accuracy_control(
                model,
                nncf.Dataset(gate.calibration, as_input),
                nncf.Dataset(range(gate.images)),
                validate,
                max_drop=gate.max_drop,
                subset_size=len(gate.calibration),
                advanced_accuracy_restorer_parameters=restoring,
            )
    except UserError:
        raise
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), "")[:200]
        raise UserError(
            f"NNCF cannot quantise this network ({type(error).__name__}: {reason}); use "
            "--precision fp16, or run with --debug to see where"
        ) from error


def layers_of(model: Any) -> dict[str, bool]:
    """The layers of an int8 graph, in order, and whether each computes in int8."""
    openvino = hasattr(model, "get_ordered_ops")
    return dict(_openvino_layers(model) if openvino else _onnx_layers(model))


def _openvino_layers(model: Any) -> Iterator[tuple[str, bool]]:
    for node in model.get_ordered_ops():
        if node.get_type_name() in _LAYERS:
            name = node.get_friendly_name().partition("/aten.")[0]
            ports = (1,) if "Convolution" in node.get_type_name() else (0, 1)  # 1: weights
            yield name, all(_low(node.input_value(port).get_node()) for port in ports)


def _low(node: Any) -> bool:
    """Whether the values of an OpenVINO node are rounded to 8 bits."""
    kind = node.get_type_name()
    if kind == "Constant":
        return node.get_element_type().get_type_name() in ("i8", "u8")
    return kind == "FakeQuantize" or (kind in _PASSED and _low(node.input_value(0).get_node()))


def _onnx_layers(model: Any) -> Iterator[tuple[str, bool]]:
    makers = {output: node for node in model.graph.node for output in node.output}

    def low(name: str) -> bool:
        node = makers.get(name)
        if node is None:
            return False
        return node.op_type == "DequantizeLinear" or (
            node.op_type in _PASSED and low(node.input[0])
        )

    for node in model.graph.node:
        if node.op_type in _LAYERS:
            weighted = node.op_type.startswith("Conv")
            yield node.name, all(map(low, node.input[weighted:2]))


@contextmanager
def _on_stderr() -> Iterator[None]:
    """Without warnings about internals; progress bars, which NNCF prints, on the error stream."""
    with redirect_stdout(sys.stderr), quiet():
        yield
