"""``scenewise explain``: what pixels of an image attend to, or what moves their scores.

As a figure and as an HTML report.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from scenewise.data.images import read_image, read_mask
from scenewise.errors import UserError
from scenewise.files import write_text
from scenewise.inference.devices import best_device
from scenewise.inference.predictor import (
    Prediction,
    Predictor,
    display,
    layout_of,
)
from scenewise.models.checkpoints import load_model
from scenewise.models.segmenter import Segmenter
from scenewise.visualize import report
from scenewise.visualize.attention_maps import ChannelMaps, Place, PositionMaps, attention_maps
from scenewise.visualize.effect import Explained
from scenewise.visualize.figure import explain_figure, map_image
from scenewise.visualize.gradient_figure import gradient_figure
from scenewise.visualize.overlay import overlay, shares
from scenewise.visualize.panels import PHONE, check_pixels
from scenewise.visualize.statistics import channel_contrast, class_attention, spread

_CHANNELS = 4  # in the figure of the report
_QUERIES = 1024  # at most about so many pixels are examined for the tables


def run(args: argparse.Namespace) -> None:
    """Draw the figure, and with --report write the report."""
    if not args.at and not args.class_name:
        raise UserError("no pixel to explain; give --at ROW,COL or --class NAME")
    model = load_model(args.model)
    image = read_image(args.image, layout_of(model))
    check_pixels(args.at or [(0, 0)], (image.shape[1], image.shape[2]))
    model = model.to(best_device(args.device))
    at = list(args.at or [])
    if args.class_name:
        prediction = Predictor(model, fast=False)(image)  # as the figure's, which hooks observe
        at += [_most_confident_pixel(prediction, model, name) for name in args.class_name]
    if _explanation(args, model) == "gradient":
        _explain_gradient(args, model, image, at)
    else:
        _explain_attention(args, model, image, at)


def _explanation(args: argparse.Namespace, model: Segmenter) -> str:
    """The chosen explanation: attention if the model has it, else gradients."""
    with attention_maps(model) as maps:
        attends = bool(maps.blocks())
    if args.explain is None and not attends:
        print("This model has no attention block; gradients of its scores are shown instead.")
    chosen: str = args.explain or ("attention" if attends else "gradient")
    if chosen == "gradient" and (args.channels is not None or args.mask is not None):
        raise UserError("--channels and --mask are of attention, not of gradients; omit them")
    return chosen


def _explain_gradient(
    args: argparse.Namespace, model: Segmenter, image: Tensor, at: Sequence[Place]
) -> None:
    shown = gradient_figure(model, image, at, args.out)
    sentences = [f"{pixel.at} {pixel.sentence(model.classes)}" for pixel in shown.pixels]
    print(*sentences, f"Figure: {args.out}", sep="\n")
    if args.report is not None:
        parts = [
            _figure(partial(gradient_figure, model, image, at), at),
            report.heading("At the marked pixels"),
            *map(report.paragraph, sentences),
            report.heading("Prediction"),
            _shares(shown.prediction, model),
        ]
        write_text(args.report, report.page("What moves the scores", *parts))
        print(f"Report: {args.report}")


def _explain_attention(
    args: argparse.Namespace, model: Segmenter, image: Tensor, at: Sequence[Place]
) -> None:
    shown = explain_figure(model, image, at, args.out, channels=args.channels)
    for index, (row, column) in enumerate(at):
        for name in shown.maps.blocks():
            print(f"({row}, {column}) {shown.sentence(name, index, model.classes)}")
    print(f"Figure: {args.out}")
    if args.report is not None:
        labels = shown.prediction.labels
        if args.mask is not None:
            labels = _mask(args.mask, (image.shape[1], image.shape[2]))
        write_text(args.report, _html_report(model, image, at, shown, labels))
        print(f"Report: {args.report}")


def _most_confident_pixel(prediction: Prediction, model: Segmenter, name: str) -> Place:
    """The pixel of the predicted class ``name`` with the highest confidence.

    Raises:
        UserError: the model does not have this class, or predicts it nowhere.
    """
    names = model.classes.names
    if name not in names:
        raise UserError(f"unknown class '{name}'; the model has {', '.join(names)}")
    inside = prediction.labels == names.index(name)
    if not inside.any():
        present = ", ".join(other for other, _, _ in shares(prediction.labels, model.classes))
        raise UserError(f"class '{name}' is not predicted in this image; choose from {present}")
    best = int(torch.where(inside, prediction.confidence, -1.0).argmax())  # flat index
    return divmod(best, inside.shape[1])


def _html_report(
    model: Segmenter, image: Tensor, at: Sequence[Place], shown: Explained, labels: Tensor
) -> str:
    """All figures and tables as one HTML page.

    Args:
        model: with attention blocks.
        image: (C, H, W), as the model takes it.
        at: marked pixels.
        shown: what the figure shows.
        labels: (H, W), for the class tables: the true labels, or the predicted ones.
    """
    maps, classes = shown.maps, model.classes
    draw = partial(explain_figure, model, image, at)
    wide, narrow = partial(draw, channels=_CHANNELS), partial(draw, channels=2)
    parts = [_figure(wide, at, narrow), report.heading("At the marked pixels")]
    for index, (row, column) in enumerate(at):
        sentences = [shown.sentence(name, index, classes) for name in maps.blocks()]
        parts.append(report.paragraph(" ".join([f"({row}, {column}):", *sentences])))
    parts += [report.heading("Prediction"), _shares(shown.prediction, model)]
    if maps.gammas:
        rows = [(name, f"{gamma:.4g}") for name, gamma in maps.gammas.items()]
        parts += [report.heading("Residual factors"), report.table(("block", "gamma"), rows)]
    for position in maps.positions.values():
        parts += _position_part(position, labels, model)
    for channel in maps.channels.values():
        parts += _channel_part(channel, labels, model)
    parts.append(report.heading("Without a block"))
    for name in shown.effects:
        parts += _ablation_part(model, image, shown, name)
    return report.page("What the network attends to", *parts)


def _figure(
    draw: Callable[..., object], at: Sequence[Place], narrow: Callable[..., object] | None = None
) -> str:
    """The figure that ``draw`` writes to a path, and the one that a phone shows instead."""
    with TemporaryDirectory() as folder:
        path, phone = Path(folder, "figure.png"), Path(folder, "narrow.png")
        draw(path)
        (narrow or draw)(phone, width=PHONE)
        caption = f"marked pixels (row, column): {', '.join(map(str, at))}"
        return report.figure(path, caption, phone)


def _shares(prediction: Prediction, model: Segmenter) -> str:
    rows = [(name, _percent(share)) for name, _, share in shares(prediction.labels, model.classes)]
    confidence = float(prediction.confidence.mean())
    return report.table(("class", "share of the image"), rows) + report.paragraph(
        f"Mean confidence {_percent(confidence)}."
    )


def _position_part(block: PositionMaps, labels: Tensor, model: Segmenter) -> list[str]:
    x = block.before()
    cells = x.shape[2] * x.shape[3]
    step = max(1, math.ceil(math.sqrt(cells / _QUERIES)))  # in rows and in columns
    wide = spread(block, step=step)
    table = class_attention(block, labels.to(x.device), len(model.classes), step=step)
    own, share = table.diagonal().tolist(), _class_shares(labels, len(model.classes))
    rows = [
        (name, _percent(share[k]), _percent(own[k]), f"{own[k] / share[k]:.2f}")
        for k, name in enumerate(model.classes.names)
        if share[k] > 0 and not math.isnan(own[k])
    ]
    entropy, distance = map_image(wide.entropy[0], "nats"), map_image(wide.distance[0], "cells")
    return [
        report.heading(block.name),
        report.paragraph(
            f"Every pixel attends to {x.shape[2]} x {x.shape[3]} cells; {wide.entropy.numel()} "
            f"pixels were examined. Uniform attention has an entropy of {math.log(cells):.2f} nats."
        ),
        report.grid(
            [
                report.figure(entropy, "entropy of each pixel's attention"),
                report.figure(distance, "mean distance of its attention"),
            ]
        ),
        report.table(("class", "share of pixels", "attention on own class", "ratio"), rows),
    ]


def _channel_part(block: ChannelMaps, labels: Tensor, model: Segmenter) -> list[str]:
    features = block.after()
    contrast = channel_contrast(features, labels.to(features.device), len(model.classes))
    strongest = features[0].abs().mean((1, 2)).topk(min(12, features.shape[1])).indices.tolist()
    rows = []
    for channel in strongest:
        selective = int(contrast[channel].nan_to_num(-math.inf).argmax())  # NaN: class absent
        partners = block.partners(channel, 3)
        pairs = zip(partners.channels[0].tolist(), partners.weights[0].tolist(), strict=True)
        listed = ", ".join(f"{other} ({_percent(weight)})" for other, weight in pairs)
        rows.append((str(channel), model.classes.names[selective], listed))
    return [
        report.heading(block.name),
        report.paragraph(
            "The channels with the largest mean magnitude after the block, the class on which each "
            "is highest above its mean, and the channels it gathers most from."
        ),
        report.table(("channel", "highest on class", "gathers from"), rows),
    ]


def _ablation_part(model: Segmenter, image: Tensor, shown: Explained, name: str) -> list[str]:
    labels, without = shown.prediction.labels, shown.effects[name].without
    rows = []
    for k in range(len(model.classes)):
        change = int((without == k).sum()) - int((labels == k).sum())
        if change != 0:
            rows.append((model.classes.names[k], f"{100 * change / labels.numel():+.2f} %"))
    changed = _percent(shown.changed(name))
    return [
        report.paragraph(f"Without {name}, {changed} of the pixels are assigned another class."),
        report.figure(overlay(display(image, model), without, model.classes), f"without {name}"),
        report.table(("class", "change, share of the image"), rows),
    ]


def _mask(path: str, size: Place) -> Tensor:
    mask = read_mask(path)
    if tuple(mask.shape) != tuple(size):
        raise UserError(
            f"mask '{path}' is {mask.shape[0]} x {mask.shape[1]} but its image {size[0]} x "
            f"{size[1]}; give the mask of this image"
        )
    return mask


def _class_shares(labels: Tensor, count: int) -> list[float]:
    counts = torch.bincount(labels.flatten().long(), minlength=256)[:count]
    shares: list[float] = (counts / labels.numel()).tolist()
    return shares


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
