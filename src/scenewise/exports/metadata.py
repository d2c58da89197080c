"""Metadata of exported files: text by name, the same in every format."""

import json
from typing import Any

from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.exports.trace import Postprocess
from scenewise.files import parse_json
from scenewise.models.preprocessing import Preprocessing
from scenewise.models.segmenter import Segmenter
from scenewise.models.thresholds import check_thresholds

_OUTPUTS = {
    "logits": "logits: float32 (batch, classes, height, width)",
    "probabilities": "probabilities: float32 (batch, classes, height, width)",
    "labels": "labels: uint8 (batch, height, width)",
}
Metadata = dict[str, str]


def build_metadata(
    model: Segmenter,
    postprocess: Postprocess | None,
    size: tuple[int, int] | None = None,
    **more: str,
) -> Metadata:
    """Version, network, classes, colours, preprocessing, input and output; each text or JSON.

    With a ``size``, (height, width), input and output have these numbers, and a batch of 1.
    """
    entries: dict[str, Any] = {
        **model.config(),
        "align_corners": model.align_corners,
        "input": _input(model.preprocessing, normalised=postprocess is None),
        "output": _OUTPUTS[postprocess or "logits"],
        "postprocess": postprocess or "none",
        **more,
    }
    if size is not None:
        for name in ("input", "output"):
            entries[name] = _fixed(entries[name], size)
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in entries.items()
    }


def _fixed(text: str, size: tuple[int, int]) -> str:
    """A shape with numbers.

    >>> _fixed("labels: uint8 (batch, height, width)", (32, 64))
    'labels: uint8 (1, 32, 64)'
    """
    for name, number in (("batch", 1), ("height", size[0]), ("width", size[1])):
        text = text.replace(name, str(number))
    return text


def _input(images: Preprocessing, *, normalised: bool) -> str:
    """Name, type, shape and content of the input.

    >>> _input(Preprocessing(), normalised=False)
    'images: uint8 (batch, height, width, 3), RGB'
    """
    if normalised:
        return f"images: float32 (batch, {images.in_channels}, height, width), normalised"
    kind = "uint8" if images.input_range is None else "float32"
    order = "as in the files" if images.channel_order == "data" else "RGB"
    values = "" if images.input_range is None else ", values of the sensor"
    return f"images: {kind} (batch, height, width, {images.in_channels}), {order}{values}"


def segmenter_arguments(metadata: Metadata, file: object) -> dict[str, Any]:
    """What the metadata says of the model, as arguments of ``Segmenter``.

    Raises:
        UserError: they are missing or damaged, or postprocessing is inside the graph.
    """
    try:
        classes = Classes.from_dict(parse_json(metadata["classes"].encode()))
        thresholds = parse_json(metadata.get("thresholds", "{}").encode())
        arguments = {
            "classes": classes,
            "preprocessing": Preprocessing.from_dict(
                parse_json(metadata["preprocessing"].encode())
            ),
            "align_corners": bool(parse_json(metadata["align_corners"].encode())),
            "thresholds": check_thresholds(thresholds, classes),
        }
        postprocess = metadata["postprocess"]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, UserError) as error:
        raise UserError(
            f"'{file}' has no valid metadata of classes and preprocessing ({error!r}); give a file "
            "that scenewise export wrote"
        ) from error
    if postprocess != "none":
        raise UserError(
            f"'{file}' has its postprocessing inside ({postprocess}); to predict with it here, "
            "export the model without --postprocess"
        )
    return arguments
