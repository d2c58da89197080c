"""Scene segmentation with attention: train, test, explain and ship.

Public names load on first use, so that ``import scenewise`` stays light.

>>> import scenewise
>>> "danet" in scenewise.list_models()
True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scenewise.inference import Prediction, Predictor
    from scenewise.models import (
        Segmenter,
        SegmenterOutput,
        create_model,
        list_models,
        load_model,
    )

__version__ = "0.1.0"

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
    "Prediction": "scenewise.inference",
    "Predictor": "scenewise.inference",
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
