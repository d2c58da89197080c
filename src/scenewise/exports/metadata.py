"""What an exported file tells about itself: text by name, the same in every format."""

import json
from typing import Any

from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.exports.trace import Postprocess
from scenewise.files import parse_json
from scenewise.models.preprocessing import Preprocessing
from scenewise.models.segmenter import Segmenter

INPUTS = {
    False: "images: float32 (batch, 3, height, width), normalised",
    True: "pictures: uint8 (batch, height, width, 3), RGB",
}
OUTPUTS = {
    "logits": "logits: float32 (batch, classes, height, width)",
    "probabilities": "probabilities: float32 (batch, classes, height, width)",
    "labels": "labels: uint8 (batch, height, width)",
}
Facts = dict[str, str]


def names(postprocess: Postprocess | None) -> tuple[str, str]:
    """Names of the graph's input and output.

    >>> names(None), names("labels")
    (('images', 'logits'), ('pictures', 'labels'))
    """
    return ("images", "logits") if postprocess is None else ("pictures", postprocess)


def facts(model: Segmenter, postprocess: Postprocess | None, **more: str) -> Facts:
    """Version, network, classes, colours, preprocessing, input and output; each text or JSON."""
    known: dict[str, Any] = {
        **model.config(),
        "align_corners": model.align_corners,
        "input": INPUTS[postprocess is not None],
        "output": OUTPUTS[postprocess or "logits"],
        "postprocess": postprocess or "none",
        **more,
    }
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in known.items()
    }


def surroundings(told: Facts, file: object) -> dict[str, Any]:
    """Classes, preprocessing and align_corners as arguments of a ``Segmenter``.

    Raises:
        UserError: they are missing or damaged, or the file takes pictures and gives labels.
    """
    try:
        found = {
            "classes": Classes.from_dict(parse_json(told["classes"].encode())),
            "preprocessing": Preprocessing.from_dict(parse_json(told["preprocessing"].encode())),
            "align_corners": bool(parse_json(told["align_corners"].encode())),
        }
        postprocess = told["postprocess"]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, UserError) as error:
        raise UserError(
            f"'{file}' does not tell its classes and preprocessing ({error!r}); give a file that "
            "scenewise export wrote"
        ) from error
    if postprocess != "none":
        raise UserError(
            f"'{file}' has its postprocessing inside ({postprocess}); to predict with it here, "
            "export the model without --postprocess"
        )
    return found
