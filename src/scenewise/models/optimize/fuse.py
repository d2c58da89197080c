"""``for_inference``: batch norms folded into convolutions, wide convolutions in Winograd's form."""

from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from scenewise.models.heads.base import HeadOutput
from scenewise.models.heads.danet import DANetHead
from scenewise.models.optimize.winograd import Winograd
from scenewise.models.segmenter import Segmenter

_WIDE = 128  # channels from which Winograd's form is faster on a CPU
_TOLERANCE = 1e-3  # of the largest logit; float32 rounding stays below 1e-4


def for_inference(model: Segmenter) -> Segmenter:
    """A faster copy of the network for prediction, with the same logits up to rounding.

    Batch norms are folded into the convolutions before them, auxiliary heads are removed, DANet's
    two 2048 -> 512 convolutions are merged, memory is channels last, and on CPUs wide 3 x 3
    convolutions in float32 use Winograd's algorithm. The copy is compared with the network on a
    small image; if the logits differ (an unusual network), only the memory layout changes.

    The copy cannot be trained or saved, and its head has other names; attention is read from the
    network itself.

    >>> from scenewise import create_model
    >>> model = create_model("danet", num_classes=3, backbone="tiny").eval()
    >>> fast, image = for_inference(model), torch.rand(1, 3, 33, 47)
    >>> with torch.no_grad():
    ...     torch.allclose(fast(image).logits, model(image).logits, atol=1e-5)
    True
    """
    plain = deepcopy(model).eval()
    plain.auxiliary_head = None
    plain = plain.to(memory_format=torch.channels_last)
    fast = deepcopy(plain)
    weight, channels = next(fast.parameters()), model.preprocessing.in_channels
    random = torch.Generator().manual_seed(0)
    sample = torch.rand(1, channels, 97, 129, generator=random).to(weight)
    with torch.no_grad():
        expected = _fold_batch_norms(fast, sample).logits
        if isinstance(fast.head, DANetHead) and not _has_norm(fast.head.position[0]):
            fast.head = _MergedDANetHead(fast.head)
        if weight.device.type == "cpu" and weight.dtype == torch.float32:
            _use_winograd(fast)
        error = (fast(sample).logits - expected).abs().max()
    return fast if error <= _TOLERANCE * expected.abs().max() else plain


def _fold_batch_norms(model: nn.Module, sample: Tensor) -> Any:
    """Fold each batch norm into the convolution whose output it gets when ``sample`` runs.

    Both must be called exactly once; the model is in evaluation mode and is changed in place.

    Returns:
        The output for ``sample`` before.
    """
    producers: dict[int, nn.Conv2d] = {}  # id of an output -> its convolution
    outputs: list[Tensor] = []  # kept alive, so that no id is used twice
    calls: dict[nn.Module, int] = {}
    pairs: dict[nn.BatchNorm2d, nn.Conv2d] = {}

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, nn.Conv2d):
            producers[id(output)] = module
            outputs.append(output)
        elif isinstance(module, nn.BatchNorm2d) and id(inputs[0]) in producers:
            pairs[module] = producers[id(inputs[0])]

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    hooks = [layer.register_forward_hook(record) for layer in layers]
    output = model(sample)
    for hook in hooks:
        hook.remove()
    folded = {
        norm: convolution
        for norm, convolution in pairs.items()
        if type(norm) is nn.BatchNorm2d and calls[norm] == calls[convolution] == 1  # not shared
    }
    _replace(model, {conv: fuse_conv_bn_eval(conv, norm) for norm, conv in folded.items()})
    _replace(model, {norm: nn.Identity() for norm in folded})
    return output


def _use_winograd(model: nn.Module) -> None:
    """Replace wide 3 x 3 convolutions by :class:`Winograd`."""
    wide = [
        module
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
        and Winograd.fits(module)
        and min(module.in_channels, module.out_channels) >= _WIDE
    ]
    _replace(model, {module: Winograd(module) for module in wide})


class _MergedDANetHead(nn.Module):
    """A :class:`DANetHead` with folded norms, whose branches share their first convolution."""

    def __init__(self, head: DANetHead) -> None:
        super().__init__()
        first = cast(nn.Conv2d, head.position.get_submodule("0.0"))  # without norm since folding
        second = cast(nn.Conv2d, head.channel.get_submodule("0.0"))
        self.convolution = nn.Conv2d(first.in_channels, 2 * first.out_channels, 3, padding=1)
        for name in ("weight", "bias"):
            both = torch.cat(
                [getattr(first, name), getattr(second, name)]
            ).detach()  # (2 * width, ...)
            setattr(self.convolution, name, nn.Parameter(both))
        self.convolution.to(memory_format=torch.channels_last)
        self.position, self.channel = head.position[1:], head.channel[1:]  # attention, 3 x 3
        self.classify = head.classify

    def forward(self, features: list[Tensor]) -> HeadOutput:
        """Feature maps -> logits at the size of the last one."""
        both = self.convolution(features[-1]).relu_()  # (B, 2 * width, h, w)
        position, channel = both.chunk(2, dim=1)
        return HeadOutput(self.classify(self.position(position) + self.channel(channel)), {}, {})


def _has_norm(module: nn.Module) -> bool:
    """Whether a batch norm is inside."""
    return any(isinstance(child, nn.modules.batchnorm._BatchNorm) for child in module.modules())


def _replace(model: nn.Module, replacements: dict[nn.Module, nn.Module]) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child in replacements:
                setattr(parent, name, replacements[child])
