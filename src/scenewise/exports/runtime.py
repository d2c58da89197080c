"""Run exported files, or models in memory, in another runtime behind a ``Segmenter``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from scenewise.errors import UserError, choose
from scenewise.models.segmenter import Segmenter, SegmenterOutput

if TYPE_CHECKING:
    from scenewise.exports.verify import Engine

# Exporters are imported where a model is converted or read: most predictions need none.
Backend = Literal["torch", "onnxruntime", "openvino"]
_READABLE = (".onnx", ".xml")


class EngineSegmenter(Segmenter):
    """A :class:`~scenewise.models.Segmenter` whose logits come from another runtime, on the CPU.

    It has no weights, cannot be trained, and has no attention blocks to explain.

    Args:
        engine: normalised images (B, C, H, W), float32 -> logits (B, K, H, W).
        **arguments: classes, preprocessing and align_corners of the network.
    """

    def __init__(self, engine: "Engine", **arguments: Any) -> None:
        super().__init__(nn.Identity(), nn.Identity(), **arguments)
        self.engine = engine
        self.device_of = nn.Parameter(torch.empty(0), requires_grad=False)  # for .device and .dtype

    def forward(self, images: Tensor) -> SegmenterOutput:
        """Normalised images (B, C, H, W) -> logits (B, K, H, W)."""
        logits = self.engine(images.detach().float().cpu())  # engines take float32 on the CPU
        return SegmenterOutput(logits.to(images.device), {}, {})

    def low_res(self, images: Tensor) -> tuple[SegmenterOutput, tuple[int, int]]:
        """The full-size logits of ``forward``: an exported graph upsamples inside."""
        return self(images), (images.shape[2], images.shape[3])


def is_exported(path: str | Path) -> bool:
    """Whether the name ends as an exported file's: .onnx, .xml or .pt2."""
    return Path(path).suffix in (*_READABLE, ".pt2")


def load_exported(path: str | Path) -> Segmenter:
    """The model in an ONNX or OpenVINO file that ``scenewise export`` wrote.

    It runs in that file's runtime, on the CPU; a Predictor takes it like any model.

    Raises:
        UserError: file not found, another format, damaged, or exported with postprocessing. A .pt2
            file is refused because PyTorch's loader may run code from the file.
    """
    file = Path(path)
    if file.suffix == ".pt2":
        raise UserError(
            f"'{file}' is not loaded: PyTorch's loader of .pt2 files may run code from the file; "
            "give a .onnx or .xml file, or the model's folder"
        )
    if file.suffix not in _READABLE:
        raise UserError(f"'{file}' is not an exported model; give one of {', '.join(_READABLE)}")
    if not file.is_file():
        raise UserError(f"no such file: '{file}'; give a file that scenewise export wrote")
    from scenewise.exports import onnx, openvino
    from scenewise.exports.metadata import segmenter_arguments

    in_onnx = file.suffix == ".onnx"
    engine = onnx.OnnxEngine(file) if in_onnx else openvino.OpenVINOEngine(file)
    return EngineSegmenter(engine, **segmenter_arguments(engine.metadata, file))


def with_backend(model: Segmenter, backend: Backend) -> Segmenter:
    """The model in another runtime, converted in memory and compared with the model.

    Raises:
        UserError: an unknown backend, its package is missing, or it does not support the network.
    """
    if backend not in get_args(Backend):
        raise UserError(f"unknown backend '{backend}'; {choose(backend, get_args(Backend))}")
    if backend == "torch":
        return model
    if isinstance(model, EngineSegmenter):
        raise UserError("an exported file already has its runtime; leave the backend out")
    from scenewise.exports import onnx, openvino
    from scenewise.exports.metadata import build_metadata, segmenter_arguments
    from scenewise.exports.trace import Graph, export_program
    from scenewise.exports.verify import compare

    graph = Graph(model)
    program, metadata = export_program(graph), build_metadata(model, None)
    engine: Engine
    if backend == "onnxruntime":
        engine = onnx.OnnxEngine(onnx.to_bytes(onnx.convert(program, metadata)))
    else:
        engine = openvino.OpenVINOEngine(openvino.convert(program, metadata))
    compare(graph, engine)
    return EngineSegmenter(engine, **segmenter_arguments(metadata, "the model"))
