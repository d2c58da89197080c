"""Export models to ONNX, OpenVINO and ``torch.export``, and run them in those runtimes.

>>> import tempfile
>>> from scenewise import create_model
>>> from scenewise.exports import export_model
>>> model = create_model("danet", num_classes=5, backbone="tiny")
>>> export = export_model(model, tempfile.mkdtemp() + "/danet.pt2")
>>> max(difference.relative for difference in export.differences) < 1e-5
True
"""

from scenewise.exports.export import Export, export_model
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
    "Postprocess",
    "export_model",
    "is_exported",
    "load_exported",
    "with_backend",
]
