"""OpenVINO's intermediate representation, a .xml file with its .bin beside it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from scenewise.errors import UserError, import_extra
from scenewise.exports.decompositions import FUSED, without_modulo
from scenewise.exports.metadata import Facts
from scenewise.exports.trace import failed, quiet

ATTENTION = "fused operator (ScaledDotProductAttention)"
_PLACE = "scenewise"


def convert(program: ExportedProgram, told: Facts) -> Any:
    """The ``openvino.Model`` of a program, with dynamic batch, height and width.

    The front end is called by itself: ``openvino.convert_model`` would report to its makers.

    Raises:
        UserError: the extra is missing, or the front end gave up.
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
    model.reshape([-1, 3, -1, -1] if told["postprocess"] == "none" else [-1, -1, -1, 3])
    model.inputs[0].set_names({told["input"].partition(":")[0]})
    model.outputs[0].set_names({told["output"].partition(":")[0]})
    for name, text in told.items():
        model.set_rt_info(text, [_PLACE, name])
    return model


def save(model: Any, file: Path) -> None:
    """Write ``file`` and, beside it, the weights in a .bin file; all numbers stay float32."""
    import_extra("openvino", "export").save_model(model, file, compress_to_fp16=False)


class OpenVINOEngine:
    """A file, or a model, in OpenVINO on the CPU, in float32, with PyTorch's number of threads.

    Raises:
        UserError: the extra is missing, no such file, or it is no OpenVINO model.
    """

    def __init__(self, source: Any) -> None:
        openvino = import_extra("openvino", "export")
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        try:
            core = openvino.Core()
            model = core.read_model(source) if isinstance(source, Path) else source
            self.compiled = core.compile_model(model, "CPU", settings)
        except Exception as error:
            what = f"'{source}'" if isinstance(source, Path) else "this network"
            raise UserError(
                f"OpenVINO cannot load {what} ({_first(error)}); export the model again"
            ) from error
        self.facts: Facts = _facts(model)

    def __call__(self, images: Tensor) -> Tensor:
        try:
            out = self.compiled(np.ascontiguousarray(images.numpy()))[0]
        except Exception as error:
            raise UserError(
                f"OpenVINO stopped at an input of {tuple(images.shape)} ({_first(error)}); use "
                "another size, or the model itself"
            ) from error
        return torch.from_numpy(np.array(out))


def _facts(model: Any) -> Facts:
    if not model.has_rt_info([_PLACE]):
        return {}
    return {name: str(value) for name, value in model.get_rt_info([_PLACE]).value.items()}


def _first(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "Check"))]
    return (told or lines or [""])[0][:200]
