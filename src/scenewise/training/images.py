"""What a network is told of the images of the data: channels, range, mean and deviation."""

import logging
from dataclasses import replace

from scenewise.data.value_range import ImageFormat
from scenewise.errors import UserError
from scenewise.models.preprocessing import Preprocessing

_log = logging.getLogger(__name__)


def new_preprocessing(of_backbone: Preprocessing, images: ImageFormat) -> Preprocessing:
    """That of a new network: RGB is normalised as for the backbone, other channels by the data.

    >>> new_preprocessing(Preprocessing(), ImageFormat()) == Preprocessing()
    True
    """
    layout = images.layout
    return replace(
        of_backbone,
        mean=images.mean or of_backbone.mean,
        std=images.std or of_backbone.std,
        channel_order="RGB" if layout.rgb else "data",
        input_range=images.value_range,
        channels=layout.channels,
        pages=layout.pages,
        shown=images.shown,
    )


def transferred_preprocessing(
    trained: Preprocessing, images: ImageFormat, source: str
) -> Preprocessing:
    """That of a trained network that is trained on with other images: it takes their range.

    Raises:
        UserError: it takes other channels.
    """
    _check_channels(trained, images, source)
    return replace(trained, input_range=images.value_range, shown=images.shown or trained.shown)


def trained_preprocessing(
    trained: Preprocessing, images: ImageFormat, source: str
) -> Preprocessing:
    """A trained network's own; one of 8-bit images takes the range of wider ones.

    Raises:
        UserError: it takes other channels, or values of more bits than the data has.
    """
    _check_channels(trained, images, source)
    if images.value_range is None and trained.input_range is not None:
        low, high = trained.input_range
        raise UserError(
            f"the model in '{source}' was trained on values from {low:g} to {high:g} but the data "
            "has 8 bits a channel; give images with their original bits, or train a new model"
        )
    if images.value_range is None:
        return trained
    if trained.input_range is None:
        low, high = images.value_range
        text = (
            "the model in '%s' was trained on 8-bit images; values from %g to %g become its range"
        )
        _log.warning(text, source, low, high)
        return replace(trained, input_range=images.value_range)
    if not _alike(trained.input_range, images.value_range):
        _log.warning(
            "the model in '%s' was trained on values from %g to %g, which it keeps, but those of "
            "the data are from %g to %g; scores mean nothing unless the units are the same",
            source,
            *trained.input_range,
            *images.value_range,
        )
    return trained


def _check_channels(trained: Preprocessing, images: ImageFormat, source: str) -> None:
    layout = images.layout
    if layout.channels != trained.channels or layout.pages != trained.pages:
        chosen = f"--data.channels {list(trained.channels)}" if trained.channels else ""
        pages = "--data.pages channels" if trained.pages else ""
        flags = " and ".join(flag for flag in (chosen, pages) if flag) or "all channels of one page"
        raise UserError(f"the model in '{source}' was trained with {flags}; give the same")
    grey_for_rgb = layout.count == 1 and trained.channel_order != "data"
    if layout.count != trained.in_channels and not grey_for_rgb:
        raise UserError(
            f"the model in '{source}' takes images of {trained.in_channels} channels but the data "
            f"has {layout.count}; choose with --data.channels, or train a new model"
        )


def _alike(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two ranges of values overlap by more than a third of both together.

    >>> _alike((0, 4000), (100, 3000)), _alike((0, 4000), (0, 255))
    (True, False)
    """
    shared = min(one[1], other[1]) - max(one[0], other[0])
    return 3 * shared > max(one[1], other[1]) - min(one[0], other[0])
