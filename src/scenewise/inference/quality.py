"""How much time a prediction may take: three names for options of :class:`Predictor`."""

from typing import Any, Literal

from scenewise.inference.predictor import Predictor
from scenewise.models.segmenter import Segmenter

Quality = Literal["fast", "good", "best"]

# Options of Predictor; python -m bench.quality measures what each gains and costs.
QUALITIES: dict[str, dict[str, Any]] = {
    "fast": {},
    "good": {"flip": True, "blend": "hann"},
    "best": {"scales": (0.75, 1.0, 1.25, 1.5), "flip": True, "blend": "hann"},
}


def quality_predictor(model: Segmenter, quality: Quality, **options: Any) -> Predictor:
    """A predictor of a quality.

    "fast" scores the image once, "good" also its mirror image, "best" both at four scales. Where
    windows are given, those of "good" and "best" fade out towards their borders.

    Args:
        model: see :class:`Predictor`.
        quality: a name of the table above.
        **options: other options of :class:`Predictor`, such as ``window`` or ``device``.

    Raises:
        UserError: see :class:`Predictor`.

    >>> from scenewise import create_model
    >>> model = create_model("fcn", num_classes=2, backbone="tiny")
    >>> quality_predictor(model, "best", window=512).scales
    (0.75, 1.0, 1.25, 1.5)
    """
    return Predictor(model, **QUALITIES[quality], **options)
