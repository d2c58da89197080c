"""Networks: backbone, head, the named builders, and their files."""

from scenewise.models.checkpoints import load_model
from scenewise.models.segmenter import Preprocessing, Segmenter, SegmenterOutput
from scenewise.models.zoo import create_model, list_models

__all__ = [
    "Preprocessing",
    "Segmenter",
    "SegmenterOutput",
    "create_model",
    "list_models",
    "load_model",
]
