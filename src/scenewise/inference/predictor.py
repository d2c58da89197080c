"""Predictor: labels of one image, whole or in sliding windows, over scales and mirror images.

>>> from scenewise import create_model
>>> predictor = Predictor(create_model("danet", num_classes=5, backbone="tiny"), flip=True)
>>> labels, confidence = predictor(torch.rand(3, 41, 67))
>>> labels.shape, confidence.shape
(torch.Size([41, 67]), torch.Size([41, 67]))
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from functools import partial
from typing import Any, Literal, TypeVar, get_args, overload

import torch
from torch import Tensor

from scenewise.attention.kernels.precision import upcast
from scenewise.data.images import ImageLike, as_values, to_display
from scenewise.data.layout import Layout
from scenewise.errors import UserError, choose
from scenewise.exports.runtime import Backend, with_backend
from scenewise.inference.batches import map_alike
from scenewise.inference.devices import usable_device
from scenewise.inference.fast_form import FastForm
from scenewise.inference.prediction import Prediction as Prediction
from scenewise.inference.prediction import from_logits, from_scores, largest
from scenewise.inference.protocols import PROTOCOLS, plain
from scenewise.inference.row_blocks import scores_at
from scenewise.inference.sliding_window import (
    Blend,
    Size,
    pair,
    size_of,
    two_thirds,
    window_and_stride,
)
from scenewise.models.segmenter import Segmenter, evaluating
from scenewise.models.thresholds import Thresholds, decision, thresholds_of

Merge = Literal["softmax", "logits", "danet"]
_Result = TypeVar("_Result")


class Predictor:
    """Labels images of any size.

    The image is resized bilinearly to each scale; each of these is scored whole or in windows, with
    ``flip`` also mirrored; the scores are resized to the image (with the model's
    ``align_corners``) and averaged. Sums are in place, so memory holds one set of K class scores at
    the size of the image, one at the current scale, and what the model needs.

    ``merge`` says what is averaged, over windows, mirror images and scales:

    ==========  ===================================================================================
    softmax     class probabilities
    logits      logits; their softmax is taken at the end
    danet       the released DANet evaluation: exp(logit + mirrored logit) in each window; windows
                start at multiples of the stride, are cut at the border and filled with black
    ==========  ===================================================================================

    Otherwise the last window is shifted back to the border, and an image smaller than the window is
    scored whole. The mirror image is cut into windows after mirroring, so a mirrored image gives
    exactly the mirrored scores. ``danet`` mirrors window by window, as released.

    Args:
        model: in evaluation mode during prediction, then in its mode before.
        scales: factors on the height and width of the image.
        flip: average with the mirror image.
        window: side, or (height, width), in pixels; None scores whole images.
        stride: pixels between windows; default two thirds of the window, rounded up.
        merge: see above.
        device: the model is moved there; None leaves it where it is.
        backend: ``"torch"``; or ``"onnxruntime"`` or ``"openvino"``, which may be faster on CPUs:
            the model is converted once, in the constructor, and its outputs are compared.
        blend: weights of overlapping windows. ``"even"``: all alike, as in published evaluations;
            ``"hann"``: a window fades out towards its border, where it lacks context.
        fast: on the CPU, run a private copy of a float32 network with the same logits up to
            rounding: batch norms folded, Winograd convolutions. It is made for the first image and
            again after a change of the network, and costs the memory of its weights once more.
            Where forward hooks observe the network, it runs itself.
        thresholds: of class probabilities by class name, as ``{"pole": 0.3}``: a pixel is a pole
            where the probability is at least that, see :mod:`scenewise.models.thresholds`;
            ``"chosen"`` takes those that ``scenewise test --choose_thresholds`` stored in the
            model. Default: the largest probability decides.

    Raises:
        UserError: not a Segmenter, no scale, a scale that is not positive, gaps between windows, an
            unknown merge, blend, class, device or backend, a threshold outside 0 to 1, or a
            backend whose package is missing.

    >>> from scenewise import create_model
    >>> model = create_model("fcn", num_classes=3, backbone="tiny")
    >>> Predictor(model, window=32, stride=64)
    Traceback (most recent call last):
    scenewise.errors.UserError: a stride of 64 x 64 is larger than the window of 32 x 32 ...
    """

    def __init__(  # noqa: PLR0913 - the options of a prediction, each with a default
        self,
        model: Segmenter,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        window: int | Size | None = None,
        stride: int | Size | None = None,
        merge: Merge = "softmax",
        device: str | torch.device | None = None,
        backend: Backend = "torch",
        blend: Blend = "even",
        fast: bool = True,
        thresholds: Thresholds | None = None,
    ) -> None:
        _check_model(model)
        _check(scales, merge, blend)
        size, step = window_and_stride(window, stride)
        self.device = None if device is None else usable_device(device)
        self.thresholds = thresholds_of(model, thresholds)
        self._decide = decision(self.thresholds, model.classes)
        self.model = with_backend(model, backend)
        self._fast = FastForm(self.model) if fast else None
        self.published = False
        self.scales, self.flip, self.merge, self.window = tuple(scales), flip, merge, size
        self.protocol: Callable[..., Tensor] = partial(
            plain,
            scales=self.scales,
            flip=flip,
            window=size,
            stride=step,
            merge=merge,
            blend=blend,
        )

    @classmethod
    def from_protocol(
        cls,
        model: Segmenter,
        name: str,
        device: str | torch.device | None = None,
        backend: Backend = "torch",
        thresholds: Thresholds | None = None,
    ) -> "Predictor":
        """A predictor that reproduces a published evaluation, with the network as it was trained.

        Args:
            model: see :class:`Predictor`.
            name: a key of :data:`inference.protocols.PROTOCOLS`, for example ``"danet_ss"``.
            device: see :class:`Predictor`.
            backend: see :class:`Predictor`.
            thresholds: see :class:`Predictor`.

        Raises:
            UserError: the protocol is unknown.
        """
        if name not in PROTOCOLS:
            raise UserError(f"unknown protocol '{name}'; {choose(name, PROTOCOLS)}")
        predictor = cls(model, device=device, backend=backend, fast=False, thresholds=thresholds)
        predictor.protocol, predictor.published = PROTOCOLS[name], True
        return predictor

    @property
    def network(self) -> Segmenter:
        """What runs: the fast copy of the model if it may be used, else the model."""
        return self.model if self._fast is None else self._fast.network()

    @property
    def at_once(self) -> bool:
        """Whether one forward pass gives the labels, without scores at the size of the image."""
        single = self.scales == (1.0,) and not self.flip and self.window is None
        return single and self.merge != "danet" and not self.published

    def in_windows(self, side: int, blend: Blend = "hann") -> "Predictor":
        """The same predictor with windows of ``side`` pixels and a stride of two thirds of it."""
        other = copy(self)  # shares the model
        other.window = pair(side)
        stride = two_thirds(other.window)
        other.protocol = partial(self.protocol, window=other.window, stride=stride, blend=blend)
        return other

    @overload
    def __call__(self, image: ImageLike, *, keep: bool = False) -> Prediction: ...

    @overload
    def __call__(
        self, image: list[Any] | tuple[Any, ...], *, keep: bool = False
    ) -> list[Prediction]: ...

    def __call__(self, image: Any, *, keep: bool = False) -> Prediction | list[Prediction]:
        """Label an image, or each of a list of images, one after the other.

        Args:
            image: a file's path or its bytes, a PIL image, an array (H, W, 3) or a tensor
                (3, H, W), RGB; arrays and tensors are uint8 or floats in 0..1. Or a list of these,
                of any sizes. A model of other channels takes those, and a model with an
                ``input_range`` takes values of its sensor.
            keep: hold the scores of each prediction, up to 4 K H W bytes, so that its
                probabilities and entropy never need another pass.

        Returns:
            The prediction; for a list, the list of predictions.

        Raises:
            UserError: not a valid image.
        """
        if isinstance(image, list | tuple):
            return [self._label([values], keep)[0] for values in self._each(image)]
        return self._label([self._values(image)], keep)[0]

    def batch(self, images: Iterable[ImageLike], size: int = 8) -> list[Prediction]:
        """Label images; those of equal size go through the network together.

        That is faster where one image does not keep the device busy. With windows, scales, the
        mirror image or a published protocol, images are labelled one by one.

        Args:
            images: each as a call takes it, of any sizes; read as they are needed.
            size: images of a batch at most; fewer take less memory.

        Returns:
            The predictions in the order of the images; equal to those of a call for each image, up
            to the rounding of the network, whose order of summation may depend on the batch.

        Raises:
            UserError: not a valid image, or a size below 1.
        """
        if size < 1:
            raise UserError(f"a batch needs a size of at least 1, not {size}; correct it")
        return map_alike(
            partial(self._label, keep=False),
            self._each(images),
            lambda values: (values.shape, values.dtype, values.device),
            size if self.at_once else 1,
        )

    def _each(self, images: Iterable[ImageLike]) -> Iterator[Tensor]:
        for index, image in enumerate(images):
            try:
                yield self._values(image)
            except UserError as error:
                of = f" of {len(images)}" if isinstance(images, list | tuple) else ""
                raise UserError(f"image {index}{of}, from 0: {error}") from error

    def _values(self, image: ImageLike) -> Tensor:
        return as_values(image, layout_of(self.model))  # (C, H, W)

    def _label(self, images: list[Tensor], keep: bool) -> list[Prediction]:
        """The predictions of images (C, H, W) of one size; several only with ``at_once``."""
        again = [None if keep else partial(self.scores, image) for image in images]
        if not self.at_once:
            return [from_scores(self.scores(images[0]), again[0], self.decide)]
        together = torch.stack(images) if len(images) > 1 else images[0][None]  # (B, C, H, W)
        logits, size = self._run(_low_resolution, together)
        whole, corners = size_of(images[0]), self.model.align_corners
        return [
            from_logits(*pair, size, whole, corners, self._decide)
            for pair in zip(logits, again, strict=True)
        ]

    def with_scores(
        self, image: ImageLike, at: Sequence[tuple[int, ...]]
    ) -> tuple[Prediction, Tensor]:
        """The prediction, and the class scores (P, K) of P pixels ``at``, (row, column), inside it.

        Scores of all pixels are not held, unless windows, scales or the mirror image need them.

        Raises:
            UserError: not a valid image.
        """
        values = self._values(image)
        again = partial(self.scores, values)
        if not self.at_once:
            everywhere = self.scores(values)  # (K, H, W)
            rows, columns = torch.tensor(at, dtype=torch.long).view(-1, 2).unbind(1)
            chosen = everywhere[:, rows, columns].T.cpu()  # (P, K)
            return from_scores(everywhere, again, self.decide), chosen
        (logits,), size = self._run(_low_resolution, values[None])
        corners = self.model.align_corners
        prediction = from_logits(logits, again, size, size_of(values), corners, self._decide)
        if not at:
            return prediction, logits.new_empty(0, len(logits)).cpu()
        return prediction, scores_at(logits, size, at, align_corners=corners).cpu()

    def decide(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Labels and their scores, (H, W) each, of class scores (K, H, W)."""
        return (self._decide or largest)(scores)

    def scores(self, image: ImageLike) -> Tensor:
        """Class scores (K, H, W) on the model's device: positive, each pixel's sum to 1.

        Probabilities for ``softmax`` and ``logits``; for ``danet`` the sums of exponentials,
        divided by their sum over the classes, which keeps their order.
        """
        return self._run(self.protocol, self._values(image))

    def _run(self, score: Callable[[Segmenter, Tensor], _Result], values: Tensor) -> _Result:
        if self.device is not None:
            self.model.to(self.device)
        network = self.network
        weight = next(network.parameters())
        dtype = torch.promote_types(weight.dtype, torch.float32)  # at least float32
        floats = values.to(weight.device, dtype)
        with torch.no_grad(), evaluating(network):  # no_grad: callers may modify the result
            return score(network, floats)


def layout_of(model: Segmenter) -> Layout:
    """The channels and bits of the images that a model takes.

    >>> from scenewise import create_model
    >>> layout_of(create_model("fcn", num_classes=2, backbone="tiny")) == Layout()
    True
    """
    images = model.preprocessing
    return Layout(
        images.in_channels,
        images.channel_order != "data",
        images.input_range is not None,
        images.channels,
        images.pages,
    )


def display(image: Tensor, model: Segmenter) -> Tensor:
    """What people see of an image as the model takes it: (C, H, W) -> (3, H, W), uint8, RGB."""
    images = model.preprocessing
    moments = (images.mean, images.std) if images.channel_order == "data" else None
    return to_display(image, images.input_range, images.shown, moments)


def _low_resolution(model: Segmenter, images: Tensor) -> tuple[Tensor, Size]:
    """Logits (B, K, h, w) of images (B, C, H, W), and the size to which they are upsampled."""
    dtype = next(model.parameters()).dtype
    out, size = model.low_res(model.normalize(images).to(dtype))
    return upcast(out.logits), size


def _check_model(model: object) -> None:
    if not isinstance(getattr(model, "_orig_mod", model), Segmenter):  # or a compiled one
        raise UserError(
            "a Predictor takes a Segmenter, whose classes and preprocessing it knows, not "
            f"{type(model).__name__}; make one of your backbone and head, "
            "Segmenter(backbone, head, classes=...)"
        )


def _check(scales: Sequence[float], merge: str, blend: str) -> None:
    if not scales or not all(scale > 0 for scale in scales):  # also false for NaN
        raise UserError(f"scales must be one or more numbers above 0, not {list(scales)}")
    if merge not in get_args(Merge):
        raise UserError(f"unknown merge '{merge}'; {choose(merge, get_args(Merge))}")
    if blend not in get_args(Blend):
        raise UserError(f"unknown blend '{blend}'; {choose(blend, get_args(Blend))}")
