"""Gradient maps: which pixels of the image move the score of a class at one pixel.

They need no attention block, so they explain any network. Computed by Captum, the extra
``gradient``: ``pip install 'scenewise[gradient]'``.

A gradient says what a small change of the image would do to the score. It is not a statement about
what the network needs: an object that the network depends on may have a small gradient, where the
score is saturated.
"""

from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from scenewise.attention.kernels.precision import upcast
from scenewise.data.images import ImageLike, as_values
from scenewise.errors import UserError, choose, import_extra
from scenewise.inference.predictor import Predictor, layout_of
from scenewise.models.segmenter import Segmenter, evaluating
from scenewise.visualize.attention_maps import Place
from scenewise.visualize.panels import check_pixels

Kind = Literal["saliency", "integrated"]
_STEPS = 32  # of the integral, Gauss-Legendre


def gradient_map(
    model: Segmenter,
    image: ImageLike,
    at: Place,
    class_id: int | None = None,
    kind: Kind = "saliency",
) -> Tensor:
    r"""How much each pixel of an image moves the score of a class at the pixel ``at``.

    With :math:`z` the logit of the class at ``at``, upsampled as the model does it, and
    :math:`x_c(q)` channel c of pixel q after the model's normalisation,

    .. math:: S(q) = \sum_c \left| \frac{\partial z(x)}{\partial x_c(q)} \right|
        \qquad
        I(q) = \sum_c x_c(q) \int_0^1 \frac{\partial z(\alpha x)}{\partial x_c(q)} \, d\alpha

    ``saliency`` is S (Simonyan and others, "Deep Inside Convolutional Networks", ICLR workshop
    2014; there the largest channel, here the sum): the change of the logit for a change of one
    standard deviation, one forward and one backward pass. ``integrated`` is I (Sundararajan and
    others, "Axiomatic Attribution for Deep Networks", ICML 2017), from the mean colour to the
    image: signed, its sum is the logit of the image minus that of an image of the mean colour, up
    to the error of the integral; 32 passes.

    Outside the receptive field of ``at`` both are exactly 0. The logit is taken before the softmax,
    whose gradient vanishes where the network is sure.

    Args:
        model: any; evaluated in evaluation mode. Its modes, statistics and gradients stay as they
            were.
        image: as a :class:`~scenewise.inference.predictor.Predictor` takes it.
        at: (row, column) of the image, counted from 0.
        class_id: None takes the class that is predicted at ``at``.
        kind: see above.

    Returns:
        (H, W), at the size of the image, on the CPU.

    Raises:
        UserError: Captum is missing, a network of your own, a pixel outside the image, an unknown
            class or kind.

    >>> from scenewise import create_model
    >>> model = create_model("fcn", num_classes=5, backbone="tiny")
    >>> gradient_map(model, torch.rand(3, 41, 67), (20, 30)).shape
    torch.Size([41, 67])
    """
    if kind not in get_args(Kind):
        raise UserError(f"unknown kind of gradient '{kind}'; {choose(kind, get_args(Kind))}")
    Predictor(model)  # raises for a network of your own
    values = as_values(image, layout_of(model))  # (C, H, W)
    check_pixels([at], (values.shape[1], values.shape[2]))
    if class_id is not None and not 0 <= class_id < len(model.classes):
        raise UserError(f"classes are 0 to {len(model.classes) - 1}, not {class_id}; choose one")
    captum = import_extra("captum.attr", "gradient")
    weight = next(model.parameters())
    score = partial(_logits_at, model, at)
    with torch.inference_mode(False), torch.enable_grad(), evaluating(model):
        floats = values.to(weight.device, torch.promote_types(weight.dtype, torch.float32))
        images = model.normalize(floats[None]).detach().requires_grad_()  # (1, C, H, W)
        if class_id is None:
            with torch.no_grad():
                class_id = int(score(images).argmax())
        if kind == "saliency":
            gradients = captum.Saliency(score).attribute(images, target=class_id)
        else:  # the mean colour is 0; one image at a time, so that memory is that of saliency
            gradients = captum.IntegratedGradients(score).attribute(
                images, target=class_id, n_steps=_STEPS, internal_batch_size=1
            )
    result: Tensor = gradients.detach()[0].sum(0).cpu()
    return result


def _logits_at(model: Segmenter, at: Place, images: Tensor) -> Tensor:
    """The logits of one pixel, as the model upsamples them: (B, C, H, W) -> (B, K)."""
    row, column = at
    out, (height, width) = model.low_res(images.to(next(model.parameters()).dtype))
    logits = upcast(out.logits)  # (B, K, h, w)
    # bilinear resizing is separable: one column, then one row; never all pixels for all classes
    wide = model.upsample(logits, (logits.shape[2], width))[..., column : column + 1]
    return model.upsample(wide, (height, 1))[:, :, row, 0]
