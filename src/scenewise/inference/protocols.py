"""Evaluation protocols of published results: one function for each, and one table of names.

Each function maps (model, image) to scores: image (3, H, W), RGB, float 0..1; scores
(K, H, W), positive, those of a pixel sum to 1, so that their maximum is a confidence. Where a
source takes the arg max of something else (sums of logits, of exponentials), the scores here are
a monotonic function of it, so the labels are the same. The defaults and the table hold the sizes
used for Cityscapes.

Two things differ from all sources. Logits leave a :class:`~scenewise.models.Segmenter` at the size
of its input, so where a source upsamples low-resolution logits directly to the image, it is done
in two steps here. Images are resized in floating point, where mmsegmentation resizes 8-bit ones.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from scenewise.attention.kernels.precision import upcast
from scenewise.inference.row_blocks import ViewLogits, add_view_
from scenewise.inference.sliding_window import (
    Blend,
    Score,
    Size,
    fitted,
    long_side,
    normalise_,
    pad_with,
    resize,
    scaled,
    size_of,
    slide,
    softmax_,
    summed,
)
from scenewise.models.segmenter import Segmenter

_Protocol = Callable[[Segmenter, Tensor], Tensor]


def plain(
    model: Segmenter,
    image: Tensor,
    *,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    window: Size | None = None,
    stride: Size | None = None,
    merge: str = "softmax",
    blend: Blend = "even",
) -> Tensor:
    """Scales of the image's own size, mirror images and windows, as ``Predictor`` describes."""
    size, corners = size_of(image), model.align_corners
    sizes = [scaled(size, scale) for scale in scales]
    if merge == "danet":
        as_released = partial(danet, flip=flip, align_corners=corners, blend=blend)
        return as_released(model, image, sizes, window, stride)
    both = _views(model, image, sizes, flip=flip, align_corners=False)
    if all(_covers(window, view) for view in sizes):
        at_view = None if merge == "logits" else softmax_
        total = _sum_whole_views(model, both, image, at_view=at_view)
    else:
        score = partial(_logits if merge == "logits" else _probabilities, model)
        in_windows = partial(slide, score, window=window, stride=stride, blend=blend)
        total = summed(
            _unmirror(resize(in_windows(view), size, align_corners=corners), back)
            for view, back in both
        )
    if merge == "logits":
        return softmax_(total.div_(len(sizes) * (1 + flip)))
    return normalise_(total)


def danet(
    model: Segmenter,
    image: Tensor,
    sizes: list[Size],
    window: Size | None,
    stride: Size | None,
    *,
    flip: bool = True,
    align_corners: bool = True,
    blend: Blend = "even",
) -> Tensor:
    """The evaluation released with DANet (MultiEvalModule), of the image at given sizes.

    Windows start at multiples of the stride, are cut at the border and filled with black at the
    right and the bottom. Scores of windows are exp(logit + mirrored logit), averaged by coverage,
    resized to the image and summed over the sizes.
    """
    black = model.normalize(torch.zeros_like(image[None, :, :1, :1]))[0]  # (3, 1, 1)
    score = partial(_exponential, model, flip=flip)
    slide_cut = partial(slide, score, shift_back=False, pad=black, blend=blend)
    total = summed(
        resize(slide_cut(view, window, stride), size_of(image), align_corners=align_corners)
        for view, _ in _views(model, image, sizes, flip=False, align_corners=align_corners)
    )
    return normalise_(total)


def danet_long_side(
    model: Segmenter,
    image: Tensor,
    *,
    base: int = 2048,
    scales: tuple[float, ...] = (1.0,),
    window: int = 768,
    stride: int = 512,
) -> Tensor:
    """:func:`danet` with a long side of ceil(base * scale); the other side is rounded half up.

    Fu et al., CVPR 2019, the authors' repository at v0.5.0. One scale: window 768, stride
    int(2/3 * 768). Eight scales 0.5 .. 2.2: window 1024, stride 1024 / 2. Both mirror.
    """
    sizes = [long_side(size_of(image), math.ceil(base * scale)) for scale in scales]
    return danet(model, image, sizes, (window, window), (stride, stride))


def mmseg(
    model: Segmenter,
    image: Tensor,
    sizes: list[Size],
    *,
    window: Size | None = None,
    stride: Size | None = None,
    flip: bool = False,
) -> Tensor:
    """mmsegmentation's test of the image at given sizes.

    The image is tested whole, or in windows whose last one is shifted back and whose logits are
    averaged. The logits are resized to the image; their softmax is averaged over the views.
    """
    both = _views(model, image, sizes, flip=flip, align_corners=False)
    if window is None:
        return normalise_(_sum_whole_views(model, both, image, at_image=softmax_))

    def score(view: Tensor) -> Tensor:
        mean = slide(partial(_logits, model), view, window, stride)
        return softmax_(resize(mean, size_of(image), align_corners=model.align_corners))

    return normalise_(summed(_unmirror(score(view), mirrored) for view, mirrored in both))


def mmseg_fitted(
    model: Segmenter,
    image: Tensor,
    *,
    fit: Size,
    window: Size | None = None,
    stride: Size | None = None,
) -> Tensor:
    """:func:`mmseg` of the image scaled in proportion until it fills ``fit`` (short, long).

    mmsegmentation 1.2.2. 512 x 1024 models: whole in 1024 x 2048. 769 models: in 1025 x 2049,
    window 769, stride 513.
    """
    return mmseg(model, image, [fitted(size_of(image), fit)], window=window, stride=stride)


def mmseg_scaled(model: Segmenter, image: Tensor, *, scales: tuple[float, ...]) -> Tensor:
    """:func:`mmseg` with test-time augmentation: whole, scales of its own size, mirror images.

    mmsegmentation 1.2.2, SegTTAModel with scales 0.5 .. 1.75.
    """
    sizes = [scaled(size_of(image), scale) for scale in scales]
    return mmseg(model, image, sizes, flip=True)


def semseg(
    model: Segmenter,
    image: Tensor,
    *,
    base: int = 2048,
    scales: tuple[float, ...] = (1.0,),
    window: int = 713,
) -> Tensor:
    """The evaluation of hszhao/semseg (PSPNet, PSANet).

    Long side round(base * scale). An image smaller than the window is padded on all sides with
    the mean colour. Stride ceil(2/3 window), the last window shifted back; the softmax of a window
    and of its mirror image are averaged, then by coverage, resized to the image, and averaged
    over the scales.
    """
    stride, mean = math.ceil(window * 2 / 3), torch.zeros_like(image[:, :1, :1])  # normalised mean

    def score(view: Tensor) -> Tensor:
        height, width = size_of(view)
        rows, columns = max(0, window - height), max(0, window - width)  # to pad
        top, left = rows // 2, columns // 2
        padded = pad_with(view, (left, columns - left, top, rows - top), mean)
        part = slide(partial(_mean_of_mirrored, model), padded, (window, window), (stride, stride))
        part = part[:, top : top + height, left : left + width]  # the padding off again
        return resize(part, size_of(image), align_corners=False)

    sizes = [long_side(size_of(image), round(base * scale), round) for scale in scales]
    at_sizes = _views(model, image, sizes, flip=False, align_corners=False)
    return normalise_(summed(score(view) for view, _ in at_sizes))


def paper_ccnet(model: Segmenter, image: Tensor, *, window: int = 769, stride: int = 513) -> Tensor:
    """The evaluation of CCNet: windows at scale 1, no mirror image, logits averaged.

    Huang et al., ICCV 2019, the authors' repository. The last window is shifted back; an image
    smaller than the window is filled with the mean colour at the right and the bottom.
    """
    view, mean = model.normalize(image[None]), torch.zeros_like(image[:, :1, :1])
    score = partial(_logits, model)
    return softmax_(slide(score, view, (window, window), (stride, stride), pad=mean))


def paper_ocnet(
    model: Segmenter,
    image: Tensor,
    *,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    tile: Size = (1024, 2048),
) -> Tensor:
    """The evaluation of OCNet: whole images; above scale 1, tiles without overlap.

    Yuan and Wang, arXiv 1809.00916, the authors' repository. The last tile is shifted back; an
    image smaller than a tile is filled with the mean colour at the right and the bottom. Logits
    are resized to the image and averaged over the scales and mirror images. Published: one scale,
    and 0.75, 1, 1.25 with mirror images.
    """
    size, mean = size_of(image), torch.zeros_like(image[:, :1, :1])

    def parts() -> Iterator[Tensor]:
        for scale in scales:
            sizes = [(round(size[0] * scale), round(size[1] * scale))]
            window = tile if scale > 1 else None  # None: whole
            for view, mirrored in _views(model, image, sizes, flip=flip, align_corners=True):
                part = slide(partial(_logits, model), view, window, pad=mean)
                yield _unmirror(resize(part, size, align_corners=True), mirrored)

    return softmax_(summed(parts()).div_(len(scales) * (1 + flip)))


PROTOCOLS: dict[str, _Protocol] = {
    "danet_ss": danet_long_side,
    "danet_ms": partial(
        danet_long_side,
        scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.2),
        window=1024,
        stride=512,
    ),
    "mmseg_slide": partial(mmseg_fitted, fit=(1025, 2049), window=(769, 769), stride=(513, 513)),
    "mmseg_whole": partial(mmseg_fitted, fit=(1024, 2048)),
    "mmseg_ms": partial(mmseg_scaled, scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75)),
    "semseg": partial(semseg, scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75)),
    "semseg_ss": semseg,
    "paper_ccnet": paper_ccnet,
    "paper_ocnet": paper_ocnet,
    "paper_ocnet_ms": partial(paper_ocnet, scales=(0.75, 1.0, 1.25), flip=True),
}


def _views(
    model: Segmenter, image: Tensor, sizes: list[Size], *, flip: bool, align_corners: bool
) -> Iterator[tuple[Tensor, bool]]:
    """The normalised image at each size, and mirrored: pairs (1, 3, h, w) and whether mirrored."""
    normalised = model.normalize(image[None])  # (1, 3, H, W)
    for size in sizes:
        view = resize(normalised, size, align_corners=align_corners)
        yield view, False
        if flip:
            view = view.flip(-1)  # one of the two is alive at a time
            yield view, True


def _unmirror(scores: Tensor, mirrored: bool) -> Tensor:
    """Scores of a mirror image, flipped back."""
    return scores.flip(-1) if mirrored else scores  # columns


def _covers(window: Size | None, size: Size) -> bool:
    """Whether one window covers an image of this size; None is a window of any size."""
    return window is None or (window[0] >= size[0] and window[1] >= size[1])


def _sum_whole_views(
    model: Segmenter,
    both: Iterable[tuple[Tensor, bool]],
    image: Tensor,
    *,
    at_view: Score | None = None,
    at_image: Score | None = None,
) -> Tensor:
    """The sum of the model's scores of whole views of ``image``; see :func:`add_view_`."""
    total = image.new_zeros(len(model.classes), *size_of(image))  # (K, H, W)
    dtype = next(model.parameters()).dtype
    for view, mirrored in both:
        out, size = model.low_res(view.to(dtype))
        part = ViewLogits(upcast(out.logits[0]), size, size_of(view), mirrored)
        corners = model.align_corners
        add_view_(total, part, align_corners=corners, at_view=at_view, at_image=at_image)
    return total


def _logits(model: Segmenter, images: Tensor) -> Tensor:
    """Logits (K, H, W) of one normalised image (1, 3, H, W), at least float32."""
    dtype = next(model.parameters()).dtype
    return upcast(model(images.to(dtype)).logits[0])  # (1, K, H, W) -> (K, H, W)


def _probabilities(model: Segmenter, images: Tensor) -> Tensor:
    """The softmax of :func:`_logits`."""
    return softmax_(_logits(model, images))


def _mean_of_mirrored(model: Segmenter, images: Tensor) -> Tensor:
    """The mean of the probabilities of a window and of its mirror image."""
    mirrored = _probabilities(model, images.flip(-1)).flip(-1)
    return mirrored.add_(_probabilities(model, images)).div_(2)


def _exponential(model: Segmenter, images: Tensor, *, flip: bool) -> Tensor:
    """DANet's score of a window: exp(logit + mirrored logit), no softmax.

    Exponents are clamped to 80: exp overflows float32 above 88.
    """
    total = _logits(model, images)
    if flip:
        mirrored = _logits(model, images.flip(-1))
        for scores, others in zip(total, mirrored, strict=True):  # no third (K, H, W) tensor
            scores.add_(others.flip(-1))
    return total.clamp_(max=80).exp_()
