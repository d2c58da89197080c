"""Scene segmentation with attention: train, test, explain and ship.

Public names load on first use, so that ``import scenewise`` stays light.

>>> import scenewise
>>> "danet" in scenewise.list_models()
True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from scenewise._version import __version__ as __version__

if TYPE_CHECKING:
    from scenewise.inference.predictor import Prediction, Predictor
    from scenewise.models.build import create_model, list_models
    from scenewise.models.checkpoints import load_model
    from scenewise.models.segmenter import Segmenter, SegmenterOutput

__all__ = [
    "Prediction",
    "Predictor",
    "Segmenter",
    "SegmenterOutput",
    "create_model",
    "list_models",
    "load_model",
]

_HOME = {
    "Prediction": "scenewise.inference.predictor",
    "Predictor": "scenewise.inference.predictor",
    "Segmenter": "scenewise.models",
    "SegmenterOutput": "scenewise.models",
    "create_model": "scenewise.models",
    "list_models": "scenewise.models",
    "load_model": "scenewise.models",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'scenewise' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)
