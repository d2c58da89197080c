"""What the viewer draws: the scene, a map over it, and a sentence. Messages are plain JSON."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from scenewise.apps.app.state import FUSED, WITHOUT, Network, Session, View
from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.inference.predictor import Prediction
from scenewise.visualize.attention_maps import BlockMaps, ChannelMaps, Place, PositionMaps, cell
from scenewise.visualize.figure import explain_figure
from scenewise.visualize.overlay import colorize, shares
from scenewise.visualize.statistics import channel_contrast

CLASSES, ATTENTION, CHANNEL = SHOWN = ("Classes", "Attention", "Channel")
BEFORE, AFTER = MOMENTS = ("before the block", "after the block")
NO_ATTENTION = (
    "This model has no attention: none of its blocks looks at other pixels or weighs its channels."
)
Message = dict[str, Any]


class Choice(NamedTuple):
    """What a visitor chose for one panel.

    Attributes:
        network: name of the model.
        branch: whose scores are shown.
        show: one of ``SHOWN``.
        block: name of the block in the model, or None.
        rounds: of criss-cross attention.
        channel: number of the channel.
        moment: one of ``MOMENTS``, seen from the block.
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
    """One panel of the page: a visitor's picture as one network sees it.

    Attributes:
        session: where ``network`` has its look.
        network: the one that ``choice`` names.
        choice: see :class:`Choice`.
    """

    session: Session
    network: Network
    choice: Choice

    @property
    def at(self) -> Place | None:
        """The marked pixel."""
        return self.session.at

    @property
    def prediction(self) -> Prediction:
        """Of the chosen branch."""
        return self.session.looks[self.network.name].predictions[self.choice.branch]

    @property
    def view(self) -> View | None:
        """Where blocks are recorded."""
        return self.session.looks[self.network.name].view

    @property
    def classes(self) -> Classes:
        """Of the network."""
        return self.network.model.classes

    def scene(self) -> Message:
        """The picture, its labels and how sure they are, and the legend."""
        labels, confidence = self.prediction
        percent = (100 * confidence).round().byte()
        cells = torch.stack([labels, percent, torch.zeros_like(labels)], dim=2)
        picture = self.session.picture.permute(1, 2, 0)
        return {
            "picture": data_url(Image.fromarray(picture.numpy()), "JPEG"),
            "cells": data_url(Image.fromarray(cells.numpy()), "PNG"),
            "height": self.session.size[0],
            "width": self.session.size[1],
            "names": self.classes.names,
            "colors": self.classes.colors,
            "legend": [
                {"name": name, "color": color, "share": percent_of(share)}
                for name, color, share in shares(labels, self.classes)
            ],
        }

    def draw(self) -> Message:
        """The map that was asked for, or None, and what it says in words."""
        heat, told = self._shown()
        caption = " ".join(part for part in (self._pixel(), told) if part)
        return {"heat": heat, "at": self.at, "caption": caption}

    def _shown(self) -> tuple[Message | None, str]:
        if not self.network.maps.blocks():
            return None, NO_ATTENTION
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
        """What the block that is switched off changes, class by class."""
        whole = self.session.looks[self.network.name].predictions.get(FUSED)
        if whole is None:
            return ""
        count = len(self.classes)
        before, after = (
            torch.bincount(labels.flatten().long(), minlength=count) / labels.numel()
            for labels in (whole.labels, self.prediction.labels)
        )
        other = float((whole.labels != self.prediction.labels).float().mean())
        most = (after - before).abs().argsort(descending=True)[:4].tolist()
        parts = [
            f"{self.classes.names[k]} {100 * float(after[k] - before[k]):+.1f}"
            for k in most
            if after[k] != before[k]
        ]
        told = f"With this block switched off {other:.1%} of the pixels get another class"
        return f"{told} (points: {', '.join(parts)})." if parts else f"{told}."

    def _pixel(self) -> str:
        if self.at is None:
            return ""
        name = self.classes.names[int(self.prediction.labels[self.at])]
        sure = float(self.prediction.confidence[self.at])
        return f"Row {self.at[0]}, column {self.at[1]}: {name}, {sure:.0%} sure."

    def _attention(self, view: View, block: BlockMaps) -> tuple[Message | None, str]:
        if not isinstance(block, PositionMaps):
            return None, f"In {block.name} no pixel looks at pixels; see its channels instead."
        if self.at is None:
            return None, "Click a pixel to see what it attends to."
        row = attention_row(self.network, view, block, self.at, self.choice.rounds)
        found = mass(row, view.box.of(self.prediction.labels), self.classes)
        most = [f"{name} {share:.0%}" for name, share in found[:4] if share >= 0.005]
        told = f"It attends to {', '.join(most)}."
        gamma = view.maps.gammas.get(block.name)
        if gamma is not None:
            told += f" The block adds {gamma:.3g} (gamma) times what it gathers."
        weights = row / row.mean()
        return _heat(weights, (0.0, float(weights.max())), "x the average", view), told

    def _channel(self, view: View, block: BlockMaps) -> tuple[Message | None, str]:
        features = (block.before() if self.choice.moment == BEFORE else block.after()).cpu().float()
        number, count = self.choice.channel, features.shape[1]
        if not 0 <= number < count:
            raise UserError(f"{block.name} has channels 0 to {count - 1}, not {number}")
        labels = view.box.of(self.prediction.labels)
        one = features[:, number : number + 1]
        contrast = channel_contrast(one, labels, len(self.classes))[0]
        speaks = self.classes.names[int(contrast.nan_to_num(-torch.inf).argmax())]
        told = f"Channel {number} of {count} {self.choice.moment} is highest on {speaks}."
        if isinstance(block, ChannelMaps):
            partners = block.partners(number, 3)
            pairs = zip(partners.channels[0].tolist(), partners.weights[0].tolist(), strict=True)
            told += f" It gathers from channels {', '.join(f'{c} ({w:.1%})' for c, w in pairs)}."
        ends = (float(one.min()), float(one.max()))
        return _heat(one[0, 0], ends, "activation", view), told


def attention_row(
    network: Network, view: View, block: PositionMaps, at: Place, rounds: int
) -> Tensor:
    """What the pixel ``at`` of the picture attends to inside the view: (h, w) cells."""
    x = block.before()
    size = (view.box.bottom - view.box.top, view.box.right - view.box.left)
    inside = (at[0] - view.box.top, at[1] - view.box.left)
    cells = (x.shape[2], x.shape[3])
    place = cell(inside, size, cells, align_corners=network.model.align_corners)
    fewer = min(rounds, most) if (most := most_rounds(block)) > 1 else None
    return block.rows([place], rounds=fewer)[0, 0].cpu().float()


def most_rounds(block: BlockMaps) -> int:
    """Rounds of a criss-cross block; 1 for others."""
    return int(getattr(block.module, "recurrence", 1))


def mass(row: Tensor, labels: Tensor, classes: Classes) -> list[tuple[str, float]]:
    """Names of the classes that attention (h, w) falls on, and its shares, the largest first.

    >>> row, labels = torch.tensor([[0.75, 0.25]]), torch.tensor([[1, 1, 0, 0]])
    >>> mass(row, labels, Classes.numbered(3))
    [('class_1', 0.75), ('class_0', 0.25)]
    """
    places = [
        ((torch.arange(n) + 0.5) * side / n).long()
        for n, side in zip(row.shape, labels.shape, strict=True)
    ]
    ids = labels[places[0]][:, places[1]].long().flatten()
    weights = row.clamp(min=0).flatten() / row.clamp(min=0).sum()
    sums = torch.zeros(len(classes)).index_add_(0, ids, weights)
    order = sums.argsort(descending=True, stable=True).tolist()
    return [(classes.names[k], float(sums[k])) for k in order if sums[k] > 0]


def percent_of(share: float) -> str:
    """A share of the picture in words.

    >>> percent_of(0.1234), percent_of(1e-6)
    ('12.3%', '<0.1%')
    """
    return f"{share:.1%}" if share >= 0.0005 else "<0.1%"


def _heat(values: Tensor, ends: tuple[float, float], unit: str, view: View) -> Message:
    low, high = ends
    grey = (255 * (values - low) / max(high - low, 1e-12)).round().clamp(0, 255).byte()
    url = data_url(Image.fromarray(grey.numpy()), "PNG")
    return {"map": url, "box": view.box, "low": low, "high": high, "unit": unit}


def data_url(picture: Image.Image, kind: str) -> str:
    """The encoded picture as text that an ``img`` takes as its source.

    >>> data_url(Image.new("L", (2, 1)), "PNG")[:30]
    'data:image/png;base64,iVBORw0K'
    """
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=90, compress_level=1)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def labels_file(panel: Panel) -> Message:
    """The labels as an indexed PNG to be saved."""
    url = data_url(colorize(panel.prediction.labels, panel.classes), "PNG")
    return {"name": f"{Path(panel.session.name).stem}_labels.png", "url": url}


def figure_file(panel: Panel) -> Message:
    """The figure of ``scenewise explain`` as a PDF to be saved; of a large picture its window.

    Raises:
        UserError: no pixel is marked, or the model has no attention.
    """
    if panel.at is None or panel.view is None:
        raise UserError("no pixel is marked; click one, then save the figure")
    box = panel.view.box
    inside = (panel.at[0] - box.top, panel.at[1] - box.left)
    with TemporaryDirectory() as folder, panel.network.lock:
        path = Path(folder, "figure.pdf")
        explain_figure(panel.network.model, box.of(panel.session.picture), [inside], path)
        encoded = base64.b64encode(path.read_bytes()).decode()
    name = f"{Path(panel.session.name).stem}_{panel.at[0]}_{panel.at[1]}.pdf"
    return {"name": name, "url": f"data:application/pdf;base64,{encoded}"}
