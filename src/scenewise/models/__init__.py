"""Networks: backbones, heads, ``create_model`` and ``load_model``."""

from scenewise.models.build import create_model, list_models
from scenewise.models.checkpoints import load_model
from scenewise.models.preprocessing import Preprocessing
from scenewise.models.segmenter import Segmenter, SegmenterOutput

__all__ = [
    "Preprocessing",
    "Segmenter",
    "SegmenterOutput",
    "create_model",
    "list_models",
    "load_model",
]
