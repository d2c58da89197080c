"""OpenVINO's intermediate representation, an .xml file with a .bin file, run by OpenVINO."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from scenewise.errors import UserError, import_extra
from scenewise.exports.decompositions import FUSED, without_modulo
from scenewise.exports.metadata import Metadata
from scenewise.exports.trace import failed, quiet

ATTENTION = "fused operator (ScaledDotProductAttention)"
_SECTION = "scenewise"  # of the runtime information


def convert(
    program: ExportedProgram, metadata: Metadata, size: tuple[int, int] | None = None
) -> Any:
    """The ``openvino.Model`` of a program; batch, height and width are dynamic without ``size``.

    The front end is called directly: ``openvino.convert_model`` sends telemetry.

    Raises:
        UserError: the extra is missing, or the front end failed.
    """
    import_extra("openvino", "export")
    manager = import_extra("openvino.frontend", "export").FrontEndManager()
    reader = import_extra("openvino.frontend.pytorch.fx_decoder", "export").TorchFXPythonDecoder
    try:
        with quiet():
            plain = without_modulo(program.run_decompositions(FUSED))
            front_end = manager.load_by_framework("pytorch")
            decoder = reader.from_exported_program(plain)  # must outlive the conversion
            model = front_end.convert(front_end.load(decoder))
    except Exception as error:
        raise failed("OpenVINO", error) from error
    (images,), _ = program.example_inputs
    axis = 1 if metadata["postprocess"] == "none" else 3  # of the channels
    fixed = [size is not None or k == axis for k in range(4)]
    model.reshape([images.shape[k] if fixed[k] else -1 for k in range(4)])
    _name_layers(model, plain)
    model.inputs[0].set_names({metadata["input"].partition(":")[0]})
    model.outputs[0].set_names({metadata["output"].partition(":")[0]})
    for name, text in metadata.items():
        model.set_rt_info(text, [_SECTION, name])
    return model


def save(model: Any, file: Path, *, half: bool = False) -> None:
    """Write ``file``, and the weights in a .bin file of the same name, as float32 or float16."""
    import_extra("openvino", "export").save_model(model, file, compress_to_fp16=half)


def _name_layers(model: Any, program: ExportedProgram) -> None:
    """Name convolutions as the network does: the k-th of the program is "convolution_k" here."""
    of_placeholder = program.graph_signature.inputs_to_parameters
    convolutions = [node for node in program.graph.nodes if "aten.conv" in str(node.target)]
    weights = [of_placeholder.get(node.args[1].name, "") for node in convolutions]
    taken: set[str] = set()
    for node in model.get_ordered_ops():
        numbered = re.fullmatch(r"convolution_?(\d*)/.*Convolution", node.get_friendly_name())
        index = int(numbered[1] or 0) if numbered else len(weights)
        name = weights[index].removesuffix(".weight") if index < len(weights) else ""
        if name and name not in taken:
            if math.prod(node.input_value(1).shape) != program.state_dict[weights[index]].numel():
                return  # numbered in another way
            node.set_friendly_name(name)
            taken.add(name)


@cache
def one_core() -> Any:
    """The one ``openvino.Core`` of this process, kept until its end.

    A Core gives the thread that makes it a signal stack, and unmaps it when it goes. Where two
    overlap, the thread is left with the stack of the first one: the next signal that has a handler,
    Ctrl-C for example, ends the process (seen with OpenVINO 2026.4.1).
    """
    return import_extra("openvino", "export").Core()


@contextmanager
def sharing_core() -> Iterator[None]:
    """Inside, ``openvino.Core()`` is :func:`one_core`, for a library that makes its own."""
    openvino, core = import_extra("openvino", "export"), one_core()
    own = openvino.Core
    openvino.Core = lambda: core
    try:
        yield
    finally:
        openvino.Core = own


class OpenVINOEngine:
    """A file, or a model, in OpenVINO on the CPU, in float32, with PyTorch's number of threads.

    Raises:
        UserError: the extra is missing, or the source is not a valid OpenVINO model.
    """

    def __init__(self, source: Any) -> None:
        core = one_core()
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",  # bfloat16 is the default where available
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        try:
            model = core.read_model(source) if isinstance(source, Path) else source
            self.compiled = core.compile_model(model, "CPU", settings)
        except Exception as error:
            what = f"'{source}'" if isinstance(source, Path) else "this network"
            raise UserError(
                f"OpenVINO cannot load {what} ({_first(error)}); export the model again"
            ) from error
        self.metadata: Metadata = _metadata(model)

    def __call__(self, images: Tensor) -> Tensor:
        try:
            out = self.compiled(np.ascontiguousarray(images.numpy()))[0]
        except Exception as error:
            raise UserError(
                f"OpenVINO failed on an input of {tuple(images.shape)} ({_first(error)}); use "
                "another size, or the model itself"
            ) from error
        return torch.from_numpy(np.array(out))


def _metadata(model: Any) -> Metadata:
    if not model.has_rt_info([_SECTION]):
        return {}
    return {name: str(value) for name, value in model.get_rt_info([_SECTION]).value.items()}


def _first(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if not line.startswith(("Exception from", "Check"))]
    return (reasons or lines or [""])[0][:200]
