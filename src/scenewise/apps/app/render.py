"""Messages to the viewer as plain JSON: the labelled image, a heat map over it, and a caption."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from scenewise.apps.app.state import FUSED, WITHOUT, Network, View, VisitorState
from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.inference.predictor import Prediction, display
from scenewise.visualize.attention_maps import BlockMaps, ChannelMaps, Place, PositionMaps, cell
from scenewise.visualize.figure import explain_figure
from scenewise.visualize.overlay import colorize, shares
from scenewise.visualize.statistics import channel_contrast

CLASSES, ATTENTION, CHANNEL = SHOWN = ("Classes", "Attention", "Channel")
BEFORE, AFTER = MOMENTS = ("before the block", "after the block")
_NO_ATTENTION = "This model has no attention blocks, neither over pixels nor over channels."
Message = dict[str, Any]


class Choice(NamedTuple):
    """What a visitor chose for one panel.

    Attributes:
        network: name of the model.
        branch: whose scores are shown.
        show: one of ``SHOWN``.
        block: name of the block in the model, or None.
        rounds: of criss-cross attention.
        channel: index of the channel.
        moment: one of ``MOMENTS``: the features before or after the block.
    """

    network: str
    branch: str
    show: str
    block: str | None
    rounds: int
    channel: int
    moment: str


@dataclass(frozen=True)
class Panel:
    """One panel of the page: a visitor's image and what one network computed for it.

    Attributes:
        state: which holds the result of ``network``.
        network: the one that ``choice`` names.
        choice: see :class:`Choice`.
    """

    state: VisitorState
    network: Network
    choice: Choice

    @property
    def at(self) -> Place | None:
        """The marked pixel."""
        return self.state.at

    @property
    def prediction(self) -> Prediction:
        """That of the chosen branch."""
        return self.state.results[self.network.name].predictions[self.choice.branch]

    @property
    def view(self) -> View | None:
        """The recorded blocks; None until a pixel of an image in windows is marked."""
        return self.state.results[self.network.name].view

    @property
    def classes(self) -> Classes:
        """The network's classes."""
        return self.network.model.classes

    def scene(self) -> Message:
        """The image, its labels with their confidence, and the legend."""
        labels, confidence = self.prediction
        percent = (100 * confidence).round().byte()
        cells = torch.stack([labels, percent, torch.zeros_like(labels)], dim=2)  # (H, W, 3): R, G
        image = display(self.state.image, self.network.model).permute(1, 2, 0)  # (H, W, 3)
        return {
            "image": data_url(Image.fromarray(image.numpy()), "JPEG"),
            "cells": data_url(Image.fromarray(cells.numpy()), "PNG"),
            "height": self.state.size[0],
            "width": self.state.size[1],
            "names": self.classes.names,
            "colors": self.classes.colors,
            "legend": [
                {"name": name, "color": color, "share": _percent_of(share)}
                for name, color, share in shares(labels, self.classes)
            ],
        }

    def draw(self) -> Message:
        """The chosen heat map, or None, and the caption that describes it."""
        heat, text = self._shown()
        caption = " ".join(part for part in (self._pixel(), text) if part)
        return {"heat": heat, "at": self.at, "caption": caption}

    def _shown(self) -> tuple[Message | None, str]:
        if not self.network.maps.blocks():
            return None, _NO_ATTENTION
        if self.choice.show == CLASSES and self.choice.branch.startswith(WITHOUT):
            return None, self._change()
        if self.choice.show == CLASSES or self.view is None:
            return None, "" if self.at else "Click a pixel to see what it attends to."
        blocks = self.view.maps.blocks()
        block = blocks.get(self.choice.block or "", next(iter(blocks.values())))
        if self.choice.show == CHANNEL:
            return self._channel(self.view, block)
        return self._attention(self.view, block)

    def _change(self) -> str:
        """What switching the block off changes, class by class."""
        whole = self.state.results[self.network.name].predictions.get(FUSED)
        if whole is None:
            return ""
        count = len(self.classes)
        before, after = (
            torch.bincount(labels.flatten().long(), minlength=count) / labels.numel()
            for labels in (whole.labels, self.prediction.labels)
        )
        changed = float((whole.labels != self.prediction.labels).float().mean())
        most = (after - before).abs().argsort(descending=True)[:4].tolist()  # ids of classes
        parts = [
            f"{self.classes.names[k]} {100 * float(after[k] - before[k]):+.1f}"
            for k in most
            if after[k] != before[k]
        ]
        text = f"With this block switched off, {changed:.1%} of the pixels get another class"
        return f"{text} (percentage points: {', '.join(parts)})." if parts else f"{text}."

    def _pixel(self) -> str:
        if self.at is None:
            return ""
        name = self.classes.names[int(self.prediction.labels[self.at])]
        confidence = float(self.prediction.confidence[self.at])
        return f"Row {self.at[0]}, column {self.at[1]}: {name}, confidence {confidence:.0%}."

    def _attention(self, view: View, block: BlockMaps) -> tuple[Message | None, str]:
        if not isinstance(block, PositionMaps):  # attention over channels only
            return None, f"{block.name} does not attend to pixels; show its channels instead."
        if self.at is None:
            return None, "Click a pixel to see what it attends to."
        row = _attention_row(self.network, view, block, self.at, self.choice.rounds)
        by_class = _class_shares(row, view.box.of(self.prediction.labels), self.classes)
        most = [f"{name} {share:.0%}" for name, share in by_class[:4] if share >= 0.005]
        text = f"It attends to {', '.join(most)}."
        gamma = view.maps.gammas.get(block.name)
        if gamma is not None:
            text += f" The block adds {gamma:.3g} (gamma) times what it gathers."
        weights = row / row.mean()  # 1 is uniform attention
        return _heat(weights, (0.0, float(weights.max())), "x the average", view), text

    def _channel(self, view: View, block: BlockMaps) -> tuple[Message | None, str]:
        features = (block.before() if self.choice.moment == BEFORE else block.after()).cpu().float()
        index, count = self.choice.channel, features.shape[1]
        if not 0 <= index < count:
            raise UserError(f"{block.name} has channels 0 to {count - 1}, not {index}")
        labels = view.box.of(self.prediction.labels)
        channel = features[:, index : index + 1]  # (1, 1, h, w)
        contrast = channel_contrast(channel, labels, len(self.classes))[0]
        highest = self.classes.names[int(contrast.nan_to_num(-torch.inf).argmax())]
        text = f"Channel {index} of {count} {self.choice.moment} is highest on {highest}."
        if isinstance(block, ChannelMaps):
            partners = block.partners(index, 3)
            pairs = zip(partners.channels[0].tolist(), partners.weights[0].tolist(), strict=True)
            text += f" It gathers from channels {', '.join(f'{c} ({w:.1%})' for c, w in pairs)}."
        ends = (float(channel.min()), float(channel.max()))
        return _heat(channel[0, 0], ends, "activation", view), text


def _attention_row(
    network: Network, view: View, block: PositionMaps, at: Place, rounds: int
) -> Tensor:
    """The attention of the pixel ``at`` of the image inside the view: (h, w) cells."""
    x = block.before()  # (1, C, h, w)
    size = (view.box.bottom - view.box.top, view.box.right - view.box.left)
    inside = (at[0] - view.box.top, at[1] - view.box.left)
    cells = (x.shape[2], x.shape[3])
    place = cell(inside, size, cells, align_corners=network.model.align_corners)
    fewer = min(rounds, most) if (most := most_rounds(block)) > 1 else None  # criss-cross only
    return block.rows([place], rounds=fewer)[0, 0].cpu().float()


def most_rounds(block: BlockMaps) -> int:
    """Rounds of a criss-cross block; 1 for other blocks."""
    return int(getattr(block.module, "recurrence", 1))


def _class_shares(row: Tensor, labels: Tensor, classes: Classes) -> list[tuple[str, float]]:
    """Names of the classes that attention (h, w) falls on, with its share on each, largest first.

    >>> row, labels = torch.tensor([[0.75, 0.25]]), torch.tensor([[1, 1, 0, 0]])
    >>> _class_shares(row, labels, Classes.numbered(3))
    [('class_1', 0.75), ('class_0', 0.25)]
    """
    places = [
        ((torch.arange(n) + 0.5) * side / n).long()  # the pixel at the centre of each cell
        for n, side in zip(row.shape, labels.shape, strict=True)
    ]
    ids = labels[places[0]][:, places[1]].long().flatten()  # (h * w,)
    weights = row.clamp(min=0).flatten() / row.clamp(min=0).sum()
    sums = torch.zeros(len(classes)).index_add_(0, ids, weights)
    order = sums.argsort(descending=True, stable=True).tolist()
    return [(classes.names[k], float(sums[k])) for k in order if sums[k] > 0]


def _percent_of(share: float) -> str:
    """A share of the image as text.

    >>> _percent_of(0.1234), _percent_of(1e-6)
    ('12.3%', '<0.1%')
    """
    return f"{share:.1%}" if share >= 0.0005 else "<0.1%"


def _heat(values: Tensor, ends: tuple[float, float], unit: str, view: View) -> Message:
    low, high = ends  # 1e-12 below: a constant map is black
    grey = (255 * (values - low) / max(high - low, 1e-12)).round().clamp(0, 255).byte()
    url = data_url(Image.fromarray(grey.numpy()), "PNG")
    return {"map": url, "box": view.box, "low": low, "high": high, "unit": unit}


def data_url(image: Image.Image, kind: str) -> str:
    """The encoded image as a data URL, the ``src`` of an ``img`` element.

    >>> data_url(Image.new("L", (2, 1)), "PNG")[:30]
    'data:image/png;base64,iVBORw0K'
    """
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=90, compress_level=1)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def labels_file(panel: Panel) -> Message:
    """The labels as an indexed PNG for download."""
    url = data_url(colorize(panel.prediction.labels, panel.classes), "PNG")
    return {"name": f"{Path(panel.state.name).stem}_labels.png", "url": url}


def figure_file(panel: Panel) -> Message:
    """The figure of ``scenewise explain`` as a PDF for download; of a large image, its window.

    Raises:
        UserError: no pixel is marked, or the model has no attention.
    """
    if panel.at is None or panel.view is None:
        raise UserError("no pixel is marked; click one, then save the figure")
    box = panel.view.box
    inside = (panel.at[0] - box.top, panel.at[1] - box.left)
    with TemporaryDirectory() as folder, panel.network.lock:
        path = Path(folder, "figure.pdf")
        explain_figure(panel.network.model, box.of(panel.state.image), [inside], path)
        encoded = base64.b64encode(path.read_bytes()).decode()
    name = f"{Path(panel.state.name).stem}_{panel.at[0]}_{panel.at[1]}.pdf"
    return {"name": name, "url": f"data:application/pdf;base64,{encoded}"}
