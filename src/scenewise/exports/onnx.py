"""ONNX files, run by ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from scenewise.errors import UserError, import_extra
from scenewise.exports.decompositions import CRISS_CROSS, FUSED, POOLING
from scenewise.exports.metadata import Metadata
from scenewise.exports.trace import failed, quiet

OPSET = 18  # the exporter's native one
_FUSED_OPSET = 23  # the first with an Attention operator
_OPSETS = range(18, 26)  # that PyTorch's exporter writes
_HALVED = 16  # values; smaller tensors are not worth a cast
_LARGEST = 2**31 - 2**20  # bytes of weights; one file holds 2 GB


def attention(opset: int) -> str:
    """How the graph computes position attention.

    >>> attention(18), attention(23)
    ('loop over blocks of queries (Scan)', 'fused operator (Attention)')
    """
    if opset >= _FUSED_OPSET:
        return "fused operator (Attention)"
    return "loop over blocks of queries (Scan)"


def check_opset(opset: int) -> None:
    """Raise for an operator set that the exporter does not support.

    >>> check_opset(11)
    Traceback (most recent call last):
    scenewise.errors.UserError: ONNX opset 11 is not supported; choose one of 18 to 25
    """
    if opset not in _OPSETS:
        supported = f"{_OPSETS[0]} to {_OPSETS[-1]}"
        raise UserError(f"ONNX opset {opset} is not supported; choose one of {supported}")


def convert(program: ExportedProgram, metadata: Metadata, opset: int = OPSET) -> Any:
    """The ``onnx_ir.Model`` of a program, with dynamic batch, height and width.

    Raises:
        UserError: the extra is missing, or the exporter failed.
    """
    import_extra("onnx", "export")
    import_extra("onnxscript", "export")
    fused = opset >= _FUSED_OPSET
    try:
        with quiet():
            plain = program.run_decompositions({**(FUSED if fused else CRISS_CROSS), **POOLING})
            converted = torch.onnx.export(
                plain,
                (),
                dynamo=True,
                opset_version=opset,
                custom_translation_table=None if fused else _translations(),
                verbose=False,
            )
    except Exception as error:
        raise failed("the ONNX exporter", error) from error
    assert converted is not None
    model = converted.model
    _name(model, metadata)
    model.metadata_props.update(metadata)
    return model


def save(model: Any, file: Path) -> None:
    """Write one file.

    Raises:
        UserError: it would be larger than ONNX's limit of 2 GB a file.
    """
    ir = import_extra("onnx_ir", "export")
    if _bytes(model) >= _LARGEST:
        raise UserError(f"'{file.name}' would be larger than ONNX's 2 GB; give a .xml or .pt2 file")
    ir.save(model, file)


def halve(model: Any) -> None:
    """Store weights as float16, each with a cast to float32, in which the graph computes."""
    ir = import_extra("onnx_ir", "export")
    graph = model.graph
    first = graph[0]
    for name, weight in list(graph.initializers.items()):
        values = weight.const_value.numpy()
        if values.dtype != np.float32 or values.size < _HALVED:
            continue
        with np.errstate(over="ignore"):  # infinite weights fail the score gate
            half = ir.tensor(values.astype(np.float16), name=f"{name}_fp16")
        stored = ir.Value(
            name=half.name, shape=ir.Shape(values.shape), type=ir.TensorType(half.dtype)
        )
        stored.const_value = half
        cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT}, name=f"{name}_cast")
        ir.convenience.replace_all_uses_with(weight, cast.outputs[0])
        graph.initializers.pop(name)
        graph.register_initializer(stored)
        cast.outputs[0].name, cast.outputs[0].shape = name, weight.shape
        cast.outputs[0].type = weight.type
        graph.insert_before(first, cast)


def to_proto(model: Any) -> Any:
    """The ``onnx.ModelProto``; layers with weights are named as those are."""
    proto = import_extra("onnx_ir", "export").serde.serialize_model(model)
    names: set[str] = {node.name for node in proto.graph.node}
    for node in proto.graph.node:
        weights = [name for name in node.input if name.endswith(".weight")]
        layer = weights[0].removesuffix(".weight") if weights else ""
        if layer and layer not in names:
            node.name = layer
            names.add(layer)
    return proto


def from_proto(proto: Any) -> Any:
    """The ``onnx_ir.Model`` of an ``onnx.ModelProto``."""
    return import_extra("onnx_ir", "export").serde.deserialize_model(proto)


def to_bytes(model: Any) -> bytes:
    """The content of the file that :func:`save` writes."""
    serde = import_extra("onnx_ir", "export").serde
    content: bytes = serde.serialize_model(model).SerializeToString()
    return content


class OnnxEngine:
    """A file, or its content, in ONNX Runtime on the CPU, with PyTorch's number of threads.

    Raises:
        UserError: the extra is missing, or the source is not a valid ONNX model.
    """

    def __init__(self, source: Path | bytes) -> None:
        runtime = import_extra("onnxruntime", "export")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # errors are raised, not logged
        try:
            self.session = runtime.InferenceSession(
                source if isinstance(source, bytes) else str(source),
                options,
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:
            what = "this network" if isinstance(source, bytes) else f"'{source}'"
            raise UserError(
                f"ONNX Runtime cannot load {what} ({_first(error)}); export the model again"
            ) from error
        self.input = self.session.get_inputs()[0].name
        self.metadata: Metadata = dict(self.session.get_modelmeta().custom_metadata_map)

    def __call__(self, images: Tensor) -> Tensor:
        try:
            (out,) = self.session.run(None, {self.input: np.ascontiguousarray(images.numpy())})
        except Exception as error:
            raise UserError(
                f"ONNX Runtime failed on an input of {tuple(images.shape)} ({_first(error)}); "
                "use another size, or the model itself"
            ) from error
        return torch.from_numpy(out)


def _translations() -> dict[Any, Any]:
    from scenewise.exports.onnx_attention import query_blocks

    return {torch.ops.scenewise.position_attention.default: query_blocks}


def _name(model: Any, metadata: Metadata) -> None:
    """Name input, output and the dynamic dimensions."""
    ir = import_extra("onnx_ir", "export")
    graph = model.graph
    graph.name = "scenewise"
    for value, text in (
        (graph.inputs[0], metadata["input"]),
        (graph.outputs[0], metadata["output"]),
    ):
        name, _, rest = text.partition(": ")  # "images: float32 (batch, 3, height, width), ..."
        value.name = name
        names = rest[rest.index("(") + 1 : rest.index(")")].split(", ")
        sizes = [
            size if isinstance(size, int) else name  # an int is static
            for size, name in zip(value.shape, names, strict=True)
        ]
        value.shape = ir.Shape(sizes)


def _bytes(model: Any) -> int:
    return sum(value.const_value.nbytes for value in model.graph.initializers.values())


def _first(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:200]
