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
    from scenewise.inference.ray_data import predict_dataset
    from scenewise.models.build import create_model, list_models
    from scenewise.models.checkpoints import load_model
    from scenewise.models.segmenter import Segmenter, SegmenterOutput
    from scenewise.training.fit import Run, fit
    from scenewise.training.trainer import build_trainer

__all__ = [
    "Prediction",
    "Predictor",
    "Run",
    "Segmenter",
    "SegmenterOutput",
    "build_trainer",
    "create_model",
    "fit",
    "list_models",
    "load_model",
    "predict_dataset",
]

_HOME = {
    "Prediction": "scenewise.inference.predictor",
    "Predictor": "scenewise.inference.predictor",
    "Run": "scenewise.training.fit",
    "Segmenter": "scenewise.models",
    "SegmenterOutput": "scenewise.models",
    "build_trainer": "scenewise.training.trainer",
    "create_model": "scenewise.models",
    "fit": "scenewise.training.fit",
    "list_models": "scenewise.models",
    "load_model": "scenewise.models",
    "predict_dataset": "scenewise.inference.ray_data",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'scenewise' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)
