"""Answers to the page as plain JSON: what a pixel attends to, and whether it matters."""

import base64
import json
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scenewise.apps.app.encode import data_url, grey
from scenewise.apps.app.panel import Panel
from scenewise.apps.app.state import ImageState, View
from scenewise.apps.app.titles import block_titles
from scenewise.apps.app.windows import windows
from scenewise.errors import UserError
from scenewise.visualize.attention_maps import Place, PositionMaps, cell
from scenewise.visualize.effect import effect
from scenewise.visualize.overlay import shares
from scenewise.visualize.statistics import attended_shares, channel_contrast

_EVEN = 2.0  # times the average: attention below it everywhere is called nearly even
_REGIONS = 5
_CHANGES = 6  # classes in the table of an effect
Answer = dict[str, Any]


def summary(panel: Panel, without: str | None) -> Answer:
    """The shares of the classes, and how the image was predicted."""
    labels = panel.result.predictions[without].labels
    ids = {name: k for k, name in enumerate(panel.classes.names)}
    parts = [
        {"class": ids[name], "share": share} for name, _, share in shares(labels, panel.classes)
    ]
    return {"shares": parts, "window": panel.state.window, "note": window_note(panel.state)}


def window_note(state: ImageState) -> str | None:
    """The sentence about an image that is predicted in windows."""
    if state.window is None:
        return None
    return (
        f"{'Memory is short' if state.side else 'The image is large'}, so it was predicted "
        f"in {len(windows(state.size, state.window))} windows of {state.window} x {state.window}; "
        "attention reaches to the edge of a window."
    )


def shrunk_note(state: ImageState) -> str | None:
    """The sentence about an image that was shrunk."""
    if state.shrunk_from is None:
        return None
    (height, width), (h, w) = state.shrunk_from, state.size
    return f"{state.name} was shrunk from {height} x {width} to {h} x {w} pixels, the most here."


def info(image: str, state: ImageState) -> Answer:
    """What the page is told about an image."""
    return {
        "id": image,
        "name": state.name,
        "height": state.size[0],
        "width": state.size[1],
        "shrunk_from": state.shrunk_from,
        "note": shrunk_note(state),
    }


def attention(panel: Panel, name: str, rounds: int | None = None) -> Answer:
    """What the marked pixel attends to.

    Raises:
        UserError: the block does not attend to pixels, or lacks these rounds.
    """
    block = panel.block(name)
    title = block_titles(panel.network.maps.blocks())[name]
    if not isinstance(block, PositionMaps):
        raise UserError(f"{title} does not attend to pixels; show its channels instead")
    row = _attention_row(panel, block, rounds)
    text = _sentence(panel, row)
    gamma = panel.view.maps.gammas.get(name)
    if gamma is not None:
        text += f" The block adds {gamma:.3g} (gamma) times what it gathers."
    return {**_map(panel, row), "sentence": text}


def gradient(panel: Panel, row: Tensor) -> Answer:
    """Where the image moves the score of the class that is predicted at the marked pixel.

    Args:
        panel: the image and the network.
        row: the gradient map (h, w) of the marked pixel.
    """
    label, _ = _at_pixel(panel)
    labels = panel.view.box.of(panel.prediction.labels)
    by_class = _by_class(row, labels, len(panel.classes))
    names = panel.classes.names
    most = [f"{names[part['class']]} {part['share']:.0%}" for part in by_class[:4]]
    text = (
        f'Small changes of these pixels change the score of "{names[label]}" at row {panel.at[0]}, '
        f"column {panel.at[1]} most: {', '.join(most) or 'no pixel does'}. This is a gradient, not "
        "attention: it does not say what the network needs."
    )
    return {**_map(panel, row), "sentence": text}


def _map(panel: Panel, row: Tensor) -> Answer:
    """A map (h, w) over the view, in multiples of its mean, and what it falls on."""
    label, confidence = _at_pixel(panel)
    height, width = row.shape
    times = _times(row).contiguous()
    return {
        "height": height,
        "width": width,
        "box": list(panel.view.box),
        "times": base64.b64encode(times.numpy().astype("<f4").tobytes()).decode(),
        "class": label,
        "confidence": confidence,
        "shares": _by_class(row, panel.view.box.of(panel.prediction.labels), len(panel.classes)),
        "regions": _regions(panel, row),
    }


def _times(row: Tensor) -> Tensor:
    """Multiples of the average; of weights that may be negative, of their average magnitude."""
    return row / row.abs().mean().clamp(min=torch.finfo(row.dtype).tiny)


def _attention_row(panel: Panel, block: PositionMaps, rounds: int | None) -> Tensor:
    """The attention of the marked pixel inside the view: (h, w) cells."""
    x = block.before()  # (1, C, h, w)
    corners = panel.network.model.align_corners
    inside, size = panel.view.inside(panel.at), panel.view.size
    place = cell(inside, size, (x.shape[2], x.shape[3]), align_corners=corners)
    return block.rows([place], rounds=rounds)[0, 0].cpu().float()


def _at_pixel(panel: Panel) -> tuple[int, float]:
    labels, confidence = panel.prediction
    return int(labels[panel.at]), float(confidence[panel.at])


def _sentence(panel: Panel, row: Tensor) -> str:
    """The marked pixel and its attention in words."""
    label, confidence = _at_pixel(panel)
    names = panel.classes.names
    by_class = _by_class(row, panel.view.box.of(panel.prediction.labels), len(names))
    most = [
        f"{names[part['class']]} {part['share']:.0%}"
        for part in by_class[:4]
        if part["share"] >= 0.005
    ]
    text = (
        f"Row {panel.at[0]}, column {panel.at[1]}: {names[label]}, confidence {confidence:.0%}. "
        f"It attends to {', '.join(most) or 'nothing: no weight is above 0'}."
    )
    highest = float(_times(row).max())
    if highest >= _EVEN:
        return text
    return f"{text} Its attention is nearly even: at most {highest:.1f} times the average."


def _by_class(row: Tensor, labels: Tensor, count: int) -> list[Answer]:
    """The share of a map (h, w) on each class, and how many times that of an even one.

    >>> row, labels = torch.tensor([[0.75, 0.25]]), torch.tensor([[1, 0]])
    >>> _by_class(row, labels, 3)
    [{'class': 1, 'share': 0.75, 'times': 1.5}, {'class': 0, 'share': 0.25, 'times': 0.5}]
    """
    share = attended_shares(row, labels, count)
    even = attended_shares(torch.ones_like(row), labels, count)
    order = share.argsort(descending=True, stable=True).tolist()
    return [
        {"class": k, "share": float(share[k]), "times": float(share[k] / even[k])}
        for k in order
        if share[k] > 0
    ]


def _regions(panel: Panel, row: Tensor) -> list[Answer]:
    """The squares of a map (h, w) with the largest shares, at least twice an even one's."""
    side = 2 * (min(row.shape) // 16) + 1  # cells; an odd number
    tiny = torch.finfo(row.dtype).tiny
    remaining = row.clamp(min=0) / row.clamp(min=0).sum().clamp(min=tiny)
    result = []
    for _ in range(_REGIONS):
        sums = F.avg_pool2d(remaining[None], side, 1, side // 2, divisor_override=1)[0]
        r, c = divmod(int(sums.argmax()), row.shape[1])
        share = float(sums[r, c])
        if share < _EVEN * side * side / row.numel():
            break
        top, first = max(0, r - side // 2), max(0, c - side // 2)
        part = remaining[top : r + side // 2 + 1, first : c + side // 2 + 1]
        row_at, column_at = _pixel(panel.view, (top, first), part, row.shape)
        label = int(panel.prediction.labels[row_at, column_at])
        result.append({"row": row_at, "column": column_at, "class": label, "share": share})
        part.zero_()  # counted once
    return result


def _pixel(view: View, start: Place, part: Tensor, cells: Place) -> Place:
    """The pixel of the image at the centre of mass of some cells, the first of which is ``start``.

    Args:
        view: the part of the image that all cells cover.
        start: (row, column) of the first cell.
        part: (h, w) masses.
        cells: rows and columns of all cells.
    """
    result = []
    for axis, corner in enumerate((view.box.top, view.box.left)):
        masses = part.sum(1 - axis)
        centre = float((masses * torch.arange(len(masses))).sum() / masses.sum())
        offset = int((start[axis] + centre + 0.5) * view.size[axis] / cells[axis])
        result.append(corner + min(offset, view.size[axis] - 1))
    return tuple(result)


def block_effect(panel: Panel, name: str) -> Answer:
    """The prediction of the marked pixel with a block and without it."""
    model, view, at = panel.network.model, panel.view, panel.at
    scores, without = view.scores(model, at), view.scores(model, at, name)
    found = effect(scores, without)
    most = (scores - without).abs().argsort(descending=True)[:_CHANGES].tolist()
    other = panel.result.predictions[name].labels
    title = block_titles(panel.network.maps.blocks())[name]
    return {
        "class": found.label,
        "confidence": found.score,
        "class_without": found.label_without,
        "confidence_without": found.score_without,
        "scores": [
            {"class": k, "with": float(scores[k]), "without": float(without[k])} for k in most
        ],
        "changed": float((other != panel.prediction.labels).double().mean()),
        "hardly": not found.matters,
        "sentence": found.sentence(_in_a_sentence(title), panel.classes),
    }


def _in_a_sentence(title: str) -> str:
    """A title without its capital letter, unless it is an abbreviation.

    >>> _in_a_sentence("Position attention"), _in_a_sentence("CBAM gates")
    ('position attention', 'CBAM gates')
    """
    return title if title[:2].isupper() else title[:1].lower() + title[1:]


def channels(panel: Panel, name: str, count: int) -> list[Answer]:
    """The channels with the largest mean magnitude after a block, before and after it."""
    block = panel.block(name)
    before, after = block.before()[0].cpu().float(), block.after()[0].cpu().float()  # (C, h, w)
    strongest = after.abs().mean((1, 2)).topk(min(count, len(after))).indices.tolist()
    labels = panel.view.box.of(panel.prediction.labels)
    contrast = channel_contrast(after[None, strongest], labels, len(panel.classes))
    highest = contrast.nan_to_num(-torch.inf).argmax(1).tolist()
    result = []
    for channel, label in zip(strongest, highest, strict=True):
        pair = (before[channel] if channel < len(before) else after[channel]), after[channel]
        low = min(float(x.min()) for x in pair)
        high = max(float(x.max()) for x in pair)
        urls = [data_url(grey(x, low, high)) for x in pair]
        result.append({"channel": channel, "class": label, "before": urls[0], "after": urls[1]})
    return result


def attention_json(panel: Panel, block: str) -> bytes:
    """The attention of the marked pixel as numbers, with the names of the classes.

    Raises:
        UserError: as :func:`attention`.
    """
    answer = attention(panel, block)
    flat = torch.frombuffer(bytearray(base64.b64decode(answer["times"])), dtype=torch.float32)
    times = flat.view(answer["height"], answer["width"])
    about = {"image": panel.state.name, "at": panel.at, "block": block}
    content = {**about, "classes": panel.classes.names, **answer, "times": times.tolist()}
    return json.dumps(content).encode()
