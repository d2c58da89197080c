"""Attention across frames: what one place of a clip gathers from every frame, as a figure."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from scenewise.attention import InteractionAware, NonLocal
from scenewise.data.images import ImageLike, as_floats
from scenewise.errors import UserError
from scenewise.visualize.attention_maps import Place
from scenewise.visualize.panels import (
    MARKS,
    check_format,
    new_figure,
    panel,
    save_figure,
    style,
)


def frame_rows(block: NonLocal | InteractionAware, x: Tensor, at: Place) -> Tensor:
    """The attention of one place over all frames: (B, T, H, W).

    Args:
        block: ``NonLocal(dims=3)``; or ``InteractionAware``, with one output map per clip.
        x: the block's input, (B, C, T, H, W); for ``InteractionAware`` (B, T, C, H, W).
        at: (frame, row, column) in the cells of x; for ``InteractionAware`` (row, column).

    Raises:
        UserError: a place outside the clip, or a block or input that is not for clips.

    >>> frame_rows(NonLocal(8, dims=3), torch.randn(1, 8, 2, 5, 7), (1, 4, 6)).sum().round()
    tensor(1.)
    """
    if x.ndim != 5:
        raise UserError(f"a clip's features have 5 axes, not {x.ndim}; stack the frames")
    try:
        with torch.no_grad():
            return block.weights(x, at=at)  # type: ignore[arg-type]
    except (ValueError, RuntimeError) as error:
        raise UserError(f"no attention over frames from this block: {error}") from error


def explain_clip(
    block: NonLocal | InteractionAware,
    x: Tensor,
    frames: Sequence[ImageLike],
    at: Place,
    path: str | os.PathLike[str],
    *,
    width: float = 10.0,
) -> None:
    """Draw each frame, overlaid with what one place gathers from it.

    For custom networks with a block that runs over frames. The networks of ``create_model`` process
    single images, so ``scenewise explain`` has no attention across frames.

    All frames share one colour scale; 1 is the mean weight: for softmax, uniform attention.

    Args:
        block: see :func:`frame_rows`.
        x: the block's input for one clip, B = 1.
        frames: the T images.
        at: see :func:`frame_rows`.
        path: ``.png``, ``.pdf`` or ``.svg``.
        width: of the figure, in inches.

    Raises:
        UserError: as :func:`frame_rows`; several clips, a wrong number of frames, another suffix.
    """
    check_format(path)
    rows = frame_rows(block, x, at)
    if len(rows) != 1 or rows.shape[1] != len(frames):
        raise UserError(
            f"{len(rows)} clips of {rows.shape[1]} frames do not fit {len(frames)} images; give "
            "one clip and its images"
        )
    heat = (rows[0] / rows.abs().mean().clamp_min(1e-30)).cpu().float()  # (T, H, W)
    images = [as_floats(frame).cpu() for frame in frames]
    _draw(heat, images, at, (x.shape[3], x.shape[4]), path, width)


def _draw(
    heat: Tensor,
    images: Sequence[Tensor],
    at: Place,
    cells: Place,
    path: str | os.PathLike[str],
    width: float,
) -> None:
    columns = min(len(images), 5)
    lines = -(-len(images) // columns)  # rounded up
    tall = images[0].shape[1] / images[0].shape[2]
    with style():
        figure = new_figure(width, lines * (width / columns * tall + 0.35) + 0.3)
        panels = figure.subplots(lines, columns, squeeze=False)
        for axes in panels.flat:
            axes.set_axis_off()
        for t, (axes, image) in enumerate(zip(panels.flat, images, strict=False)):
            height, breadth = image.shape[1:]
            panel(axes, f"frame {t}").imshow(image.mean(0).numpy(), cmap="gray", vmin=0, vmax=1)
            shown = axes.imshow(
                heat[t].numpy(),
                cmap="inferno",
                vmin=min(0.0, float(heat.min())),
                vmax=float(heat.max()),
                alpha=0.75,
                extent=(-0.5, breadth - 0.5, height - 0.5, -0.5),  # pixel centres at integers
            )
            if len(at) == 2 or at[0] == t:
                row = (at[-2] + 0.5) * height / cells[0] - 0.5
                column = (at[-1] + 0.5) * breadth / cells[1] - 0.5
                axes.plot(column, row, "o", ms=7, mfc="none", mec=MARKS[0], mew=2, clip_on=False)
        figure.colorbar(shown, ax=panels.ravel().tolist(), label="1 = mean")
        save_figure(figure, path)
