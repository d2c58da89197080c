"""Prediction for one picture: whole or in windows, at several scales, mirrored, as published.

>>> from scenewise import create_model
>>> predictor = Predictor(create_model("danet", num_classes=5, backbone="tiny"), flip=True)
>>> labels, confidence = predictor(torch.rand(3, 41, 67))
>>> labels.shape, confidence.shape
(torch.Size([41, 67]), torch.Size([41, 67]))
"""

import os
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from typing import Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor

from scenewise.attention.kernels.precision import upcast
from scenewise.data.images import ImageLike, as_floats
from scenewise.errors import UserError
from scenewise.exports.runtime import Backend, with_backend
from scenewise.inference.protocols import PROTOCOLS, plain
from scenewise.inference.row_blocks import label
from scenewise.inference.sliding_window import Size, pair, size_of, two_thirds
from scenewise.models.segmenter import Segmenter, evaluating

Merge = Literal["softmax", "logits", "danet"]
Result = TypeVar("Result")


class Prediction(NamedTuple):
    """What a :class:`Predictor` gives for a picture, on the CPU.

    Attributes:
        labels: (H, W), int64, the class of each pixel of the picture as it was given.
        confidence: (H, W), the score of that class, 0..1.
    """

    labels: Tensor
    confidence: Tensor


class Predictor:
    """Labels pictures of any size.

    The picture is resized bilinearly to each scale; each of these is tested whole or in windows,
    once more mirrored with ``flip``; the scores are resized to the picture (``align_corners`` as
    the model has it) and averaged. Sums are made in place, so of K class scores the memory holds
    one set at the picture's size, one at the scale at work, and what the model needs.

    ``merge`` says what is averaged, over windows, mirror images and scales:

    ==========  ===================================================================================
    softmax     class probabilities
    logits      logits; their softmax is taken at the end
    danet       the released DANet evaluation: exp(logit + mirrored logit) in each window; windows
                start at multiples of the stride, are cut at the border and filled with black
    ==========  ===================================================================================

    Otherwise the last window is shifted back to the border, and a picture smaller than the window
    is tested whole. The mirror image is cut into windows of its own, so a mirrored picture gives
    exactly the mirrored scores. ``danet`` mirrors window by window, as released.

    Args:
        model: put into evaluation mode while it works, then back.
        scales: factors on the height and width of the picture.
        flip: also the mirror image.
        window: side, or (height, width), in pixels; None tests whole pictures.
        stride: from one window to the next; default two thirds of the window, rounded up.
        merge: see above.
        device: where the model is moved to and works; None leaves it where it is.
        backend: ``"torch"``; or ``"onnxruntime"`` or ``"openvino"``, which may be faster on CPUs:
            the model is converted here and now, once, and compared with itself.

    Raises:
        UserError: no scale, a scale that is not positive, gaps between windows, another merge, no
            such device, no such backend or its package is missing.

    >>> from scenewise import create_model
    >>> model = create_model("fcn", num_classes=3, backbone="tiny")
    >>> Predictor(model, window=32, stride=64)
    Traceback (most recent call last):
    scenewise.errors.UserError: a stride of 64 x 64 is larger than the window of 32 x 32 ...
    """

    def __init__(
        self,
        model: Segmenter,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        window: int | Size | None = None,
        stride: int | Size | None = None,
        merge: Merge = "softmax",
        device: str | torch.device | None = None,
        backend: Backend = "torch",
    ) -> None:
        _check(scales, merge)
        sizes = _windows(window, stride)
        self.device = None if device is None else usable_device(device)
        self.model = with_backend(model, backend)
        self.published = False
        self.scales, self.flip, self.merge, self.window = tuple(scales), flip, merge, sizes[0]
        self.protocol: Callable[..., Tensor] = partial(
            plain, scales=self.scales, flip=flip, window=sizes[0], stride=sizes[1], merge=merge
        )

    @classmethod
    def from_protocol(
        cls,
        model: Segmenter,
        name: str,
        device: str | torch.device | None = None,
        backend: Backend = "torch",
    ) -> "Predictor":
        """A predictor that reproduces a published evaluation.

        Args:
            model: see :class:`Predictor`.
            name: a key of :data:`inference.protocols.PROTOCOLS`, for example ``"danet_ss"``.
            device: see :class:`Predictor`.
            backend: see :class:`Predictor`.

        Raises:
            UserError: no such protocol.
        """
        if name not in PROTOCOLS:
            raise UserError(f"no protocol '{name}'; choose one of {', '.join(PROTOCOLS)}")
        predictor = cls(model, device=device, backend=backend)
        predictor.protocol, predictor.published = PROTOCOLS[name], True
        return predictor

    @property
    def at_once(self) -> bool:
        """Whether labels come from one run over the whole picture, without scores at its size."""
        one = self.scales == (1.0,) and not self.flip and self.window is None
        return one and self.merge != "danet" and not self.published

    def in_windows(self, side: int) -> "Predictor":
        """The same predictor, but with windows of ``side`` pixels, two thirds of it apart."""
        other = copy(self)
        other.window = pair(side)
        stride = two_thirds(other.window)
        other.protocol = partial(self.protocol, window=other.window, stride=stride)
        return other

    def __call__(self, image: ImageLike) -> Prediction:
        """Label a picture.

        Args:
            image: a file's path, a PIL picture, an array (H, W, 3) or a tensor (3, H, W), RGB;
                arrays and tensors are uint8 or floats in 0..1.

        Raises:
            UserError: not such a picture.
        """
        if self.at_once:
            labels, confidence = self._run(_label_whole, image)
        else:
            confidence, labels = self.scores(image).max(0)
        return Prediction(labels.cpu(), confidence.cpu())

    def scores(self, image: ImageLike) -> Tensor:
        """Class scores (K, H, W) on the model's device, positive, those of a pixel sum to 1.

        Probabilities for ``softmax`` and ``logits``; for ``danet`` the sums of exponentials,
        divided by their sum over the classes, which leaves their order.
        """
        return self._run(self.protocol, image)

    def _run(self, work: Callable[[Segmenter, Tensor], Result], image: ImageLike) -> Result:
        if self.device is not None:
            self.model.to(self.device)
        weight = next(self.model.parameters())
        dtype = torch.promote_types(weight.dtype, torch.float32)
        picture = as_floats(image).to(weight.device, dtype)
        with torch.no_grad(), evaluating(self.model):
            return work(self.model, picture)


def _label_whole(model: Segmenter, picture: Tensor) -> tuple[Tensor, Tensor]:
    """Labels and confidence of a picture (3, H, W); its logits are never held at its size."""
    dtype = next(model.parameters()).dtype
    small, size = model.low_res(model.normalize(picture[None]).to(dtype))
    cut = size_of(picture)
    return label(upcast(small.logits[0]), size, cut, align_corners=model.align_corners)


def usable_device(name: str | torch.device) -> torch.device:
    """The device called ``name``.

    Raises:
        UserError: PyTorch does not know it, or it is not in this machine.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"no device '{name}' here ({reason}); cpu is always there") from error
    return device


def best_device(name: str | None) -> torch.device:
    """The named device, or an accelerator where there is one, else the CPU.

    Of several accelerators, each process that torchrun has started takes its own (LOCAL_RANK).
    """
    if name is not None:
        return usable_device(name)
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None:
        return torch.device("cpu")
    number = int(os.environ.get("LOCAL_RANK", "0")) % torch.accelerator.device_count()
    return torch.device(found.type, number) if number else found


def _check(scales: Sequence[float], merge: str) -> None:
    if not scales or not all(scale > 0 for scale in scales):
        raise UserError(f"scales {list(scales)} need to be one or more numbers above 0")
    if merge not in get_args(Merge):
        raise UserError(f"no merge '{merge}'; choose one of {', '.join(get_args(Merge))}")


def _windows(
    window: int | Size | None, stride: int | Size | None
) -> tuple[Size | None, Size | None]:
    """Window and stride as (height, width), once they are known to leave no gap."""
    if window is None:
        if stride is not None:
            raise UserError("a stride needs a window; give the window too")
        return None, None
    sides = pair(window)
    steps = two_thirds(sides) if stride is None else pair(stride)
    if min(sides) < 1 or min(steps) < 1:
        raise UserError(f"window {window} and stride {stride} need to be at least 1 pixel")
    if steps[0] > sides[0] or steps[1] > sides[1]:
        raise UserError(
            f"a stride of {steps[0]} x {steps[1]} is larger than the window of {sides[0]} x "
            f"{sides[1]} and leaves gaps; give a smaller stride"
        )
    return sides, steps
