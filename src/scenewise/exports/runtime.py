"""Exported files, and models handed to another runtime, as models that a Predictor takes."""

from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from scenewise.errors import UserError
from scenewise.exports import onnx, openvino
from scenewise.exports.metadata import facts, surroundings
from scenewise.exports.trace import Graph, export_program
from scenewise.exports.verify import Engine, compare
from scenewise.models.segmenter import Segmenter, SegmenterOutput

Backend = Literal["torch", "onnxruntime", "openvino"]
READABLE = (".onnx", ".xml")


class EngineSegmenter(Segmenter):
    """A :class:`~scenewise.models.Segmenter` whose scores come from another runtime, on the CPU.

    It has no weights, cannot be trained, and has no attention to look at.

    Args:
        engine: normalised pictures (B, 3, H, W), float32 -> logits (B, K, H, W).
        surroundings: classes, preprocessing and align_corners of the network.
    """

    def __init__(self, engine: Engine, **surroundings: Any) -> None:
        super().__init__(nn.Identity(), nn.Identity(), **surroundings)
        self.engine = engine
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # tells device and dtype

    def forward(self, images: Tensor) -> SegmenterOutput:
        """Normalised pictures (B, 3, H, W) -> scores at their size."""
        logits = self.engine(images.detach().float().cpu())
        return SegmenterOutput(logits.to(images.device), {}, {})

    def low_res(self, images: Tensor) -> tuple[SegmenterOutput, tuple[int, int]]:
        """The same scores: an exported graph upsamples them itself."""
        return self(images), (images.shape[2], images.shape[3])


def is_exported(path: str | Path) -> bool:
    """Whether the name is that of an exported file: .onnx, .xml or .pt2."""
    return Path(path).suffix in (*READABLE, ".pt2")


def load_exported(path: str | Path) -> Segmenter:
    """The model in an ONNX or OpenVINO file that ``scenewise export`` wrote.

    It works in that file's runtime, on the CPU, and does for a Predictor what the model did.

    Raises:
        UserError: no such file, another format, damaged, or exported with postprocessing. A .pt2
            file is refused because PyTorch's loader may run code that the file holds.
    """
    file = Path(path)
    if file.suffix == ".pt2":
        raise UserError(
            f"'{file}' is not loaded: PyTorch's loader of .pt2 files may run code from the file; "
            "give a .onnx or .xml file, or the model's folder"
        )
    if file.suffix not in READABLE:
        raise UserError(f"'{file}' is no exported model; give one of {', '.join(READABLE)}")
    if not file.is_file():
        raise UserError(f"no such file: '{file}'; give what scenewise export wrote")
    in_onnx = file.suffix == ".onnx"
    engine = onnx.OnnxEngine(file) if in_onnx else openvino.OpenVINOEngine(file)
    return EngineSegmenter(engine, **surroundings(engine.facts, file))


def with_backend(model: Segmenter, backend: Backend) -> Segmenter:
    """The model in another runtime, converted in memory and compared with the model.

    Raises:
        UserError: no such backend, its package is missing, or it cannot hold the network.
    """
    if backend not in get_args(Backend):
        raise UserError(f"no backend '{backend}'; choose one of {', '.join(get_args(Backend))}")
    if backend == "torch":
        return model
    if isinstance(model, EngineSegmenter):
        raise UserError("an exported file has its runtime already; leave the backend out")
    graph = Graph(model)
    program, told = export_program(graph), facts(model, None)
    engine: Engine
    if backend == "onnxruntime":
        engine = onnx.OnnxEngine(onnx.to_bytes(onnx.convert(program, told)))
    else:
        engine = openvino.OpenVINOEngine(openvino.convert(program, told))
    compare(graph, engine)
    return EngineSegmenter(engine, **surroundings(told, "the model"))
