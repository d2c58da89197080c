"""Export models to ONNX, OpenVINO and ``torch.export``, and run them in those runtimes.

Public names load on first use: a prediction needs one small module of this package.

>>> import tempfile
>>> from scenewise import create_model
>>> from scenewise.exports import export_model
>>> model = create_model("danet", num_classes=5, backbone="tiny")
>>> export = export_model(model, tempfile.mkdtemp() + "/danet.pt2")
>>> max(difference.relative for difference in export.differences) < 1e-5
True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scenewise.exports.export import Export, export_model
    from scenewise.exports.gate import Gate, Precision, Scores
    from scenewise.exports.runtime import (
        Backend,
        EngineSegmenter,
        is_exported,
        load_exported,
        with_backend,
    )
    from scenewise.exports.trace import Postprocess
    from scenewise.exports.verify import Difference

__all__ = [
    "Backend",
    "Difference",
    "EngineSegmenter",
    "Export",
    "Gate",
    "Postprocess",
    "Precision",
    "Scores",
    "export_model",
    "is_exported",
    "load_exported",
    "with_backend",
]

_HOME = {
    "Backend": "runtime",
    "Difference": "verify",
    "EngineSegmenter": "runtime",
    "Export": "export",
    "Gate": "gate",
    "Postprocess": "trace",
    "Precision": "gate",
    "Scores": "gate",
    "export_model": "export",
    "is_exported": "runtime",
    "load_exported": "runtime",
    "with_backend": "runtime",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'scenewise.exports' has no attribute '{name}'")
    return getattr(import_module(f"scenewise.exports.{_HOME[name]}"), name)
