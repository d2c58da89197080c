"""A network as it computes fastest when it is only asked for scores."""

from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from scenewise.models.heads.base import HeadOutput
from scenewise.models.heads.danet import DANetHead
from scenewise.models.optimize.winograd import Winograd
from scenewise.models.segmenter import Segmenter

WIDE = 128  # channels from which Winograd's form gains on a CPU
TOLERANCE = 1e-3


def for_inference(model: Segmenter) -> Segmenter:
    """A copy of the network for prediction: the same scores, up to rounding, in less time.

    Batch norms are folded into the convolutions before them, side branches are left out, DANet's
    two 2048 -> 512 convolutions are one, memory is channels last, and on CPUs wide 3 x 3
    convolutions in float32 are done in Winograd's form. The copy is compared with the network on a
    small picture; if its scores are others (an unusual network), only the layout changes.

    The copy cannot be trained or saved, and its head has other names; look at attention in the
    network itself.

    >>> from scenewise import create_model
    >>> model = create_model("danet", num_classes=3, backbone="tiny").eval()
    >>> fast, picture = for_inference(model), torch.rand(1, 3, 33, 47)
    >>> with torch.no_grad():
    ...     torch.allclose(fast(picture).logits, model(picture).logits, atol=1e-5)
    True
    """
    plain = deepcopy(model).eval()
    plain.auxiliary_head = None
    plain = plain.to(memory_format=torch.channels_last)
    fast = deepcopy(plain)
    weight = next(fast.parameters())
    sample = torch.rand(1, 3, 97, 129, generator=torch.Generator().manual_seed(0)).to(weight)
    with torch.no_grad():
        expected = fast(sample).logits
        fold_batch_norms(fast, sample)
        if isinstance(fast.head, DANetHead) and not has_norm(fast.head.position[0]):
            fast.head = JoinedDANetHead(fast.head)
        if weight.device.type == "cpu" and weight.dtype == torch.float32:
            use_winograd(fast)
        error = (fast(sample).logits - expected).abs().max()
    return fast if error <= TOLERANCE * expected.abs().max() else plain


def fold_batch_norms(model: nn.Module, sample: Tensor) -> None:
    """Fold each batch norm into the convolution whose output it gets when ``sample`` runs.

    Both must be called once; the model is in evaluation mode and is changed in place.
    """
    made: dict[int, nn.Conv2d] = {}
    kept: list[Tensor] = []  # so that no two tensors have one id
    calls: dict[nn.Module, int] = {}
    pairs: dict[nn.BatchNorm2d, nn.Conv2d] = {}

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, nn.Conv2d):
            made[id(output)] = module
            kept.append(output)
        elif isinstance(module, nn.BatchNorm2d) and id(inputs[0]) in made:
            pairs[module] = made[id(inputs[0])]

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    hooks = [m.register_forward_hook(look) for m in model.modules() if isinstance(m, kinds)]
    model(sample)
    for hook in hooks:
        hook.remove()
    folded = {
        norm: convolution
        for norm, convolution in pairs.items()
        if type(norm) is nn.BatchNorm2d and calls[norm] == calls[convolution] == 1
    }
    _replace(model, {conv: fuse_conv_bn_eval(conv, norm) for norm, conv in folded.items()})
    _replace(model, {norm: nn.Identity() for norm in folded})


def use_winograd(model: nn.Module) -> None:
    """Put :class:`Winograd` in the place of wide 3 x 3 convolutions."""
    wide = [
        module
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
        and Winograd.fits(module)
        and min(module.in_channels, module.out_channels) >= WIDE
    ]
    _replace(model, {module: Winograd(module) for module in wide})


class JoinedDANetHead(nn.Module):
    """A :class:`DANetHead`, its norms folded, whose branches begin with one convolution."""

    def __init__(self, head: DANetHead) -> None:
        super().__init__()
        first = cast(nn.Conv2d, head.position.get_submodule("0.0"))
        second = cast(nn.Conv2d, head.channel.get_submodule("0.0"))
        self.convolution = nn.Conv2d(first.in_channels, 2 * first.out_channels, 3, padding=1)
        for name in ("weight", "bias"):
            both = torch.cat([getattr(first, name), getattr(second, name)]).detach()
            setattr(self.convolution, name, nn.Parameter(both))
        self.convolution.to(memory_format=torch.channels_last)
        self.position, self.channel = head.position[1:], head.channel[1:]
        self.classify = head.classify

    def forward(self, maps: list[Tensor]) -> HeadOutput:
        """Maps -> scores at the size of the last map."""
        position, channel = self.convolution(maps[-1]).relu_().chunk(2, dim=1)
        return HeadOutput(self.classify(self.position(position) + self.channel(channel)), {}, {})


def has_norm(module: nn.Module) -> bool:
    """Whether a batch norm is left inside."""
    return any(isinstance(child, nn.modules.batchnorm._BatchNorm) for child in module.modules())


def _replace(model: nn.Module, by: dict[nn.Module, nn.Module]) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child in by:
                setattr(parent, name, by[child])
