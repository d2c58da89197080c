"""Synchronised batch norm on CPUs, which PyTorch's SyncBN does not support."""

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from torch import Tensor, nn
from torch.nn import functional as F

from scenewise.attention.kernels.precision import upcast


class _Synced(nn.modules.batchnorm._BatchNorm):
    """A batch norm that, while it trains, normalises with the statistics of all processes.

    Values, gradients and running statistics are those of one process with all images. The gradient
    of the input is that of the sum of all processes' losses, as in PyTorch's SyncBatchNorm, so that
    the averaging of DDP makes it that of their mean.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, ...); all but C may differ between the processes."""
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        if not (self.training and several):
            alone: Tensor = super().forward(input)
            return alone
        output: Tensor
        output, mean, variance, count = _synced(input, self.weight, self.bias, self.eps)
        self._track(mean, variance * count / (count - 1))  # running_var is unbiased
        return output

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = self.momentum
        share = 1 / self.num_batches_tracked.item() if momentum is None else momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class _Synced1d(_Synced, nn.BatchNorm1d):
    """Of (B, C) or (B, C, L)."""


class _Synced2d(_Synced, nn.BatchNorm2d):
    """Of (B, C, H, W)."""


class _Synced3d(_Synced, nn.BatchNorm3d):
    """Of (B, C, D, H, W)."""


_SYNCED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: _Synced1d,
    nn.BatchNorm2d: _Synced2d,
    nn.BatchNorm3d: _Synced3d,
}


class CPUSyncBatchNorm(TorchSyncBatchNorm):
    """Lightning's layer sync: makes every batch norm of PyTorch synchronised, and reverts it.

    >>> network = nn.Sequential(nn.BatchNorm2d(3))
    >>> type(CPUSyncBatchNorm().apply(network)[0]).__name__
    '_Synced2d'
    >>> type(CPUSyncBatchNorm().revert(network)[0]).__name__
    'BatchNorm2d'
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Synchronise every batch norm; modules, parameters and buffers stay the same objects."""
        return _replace(model, _SYNCED)

    def revert(self, model: nn.Module) -> nn.Module:
        """Undo :meth:`apply`."""
        return _replace(model, {new: old for old, new in _SYNCED.items()})


def _replace(model: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> nn.Module:
    for module in model.modules():
        if type(module) in classes:
            module.__class__ = classes[type(module)]  # parameters and buffers stay
    return model


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _synced(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The output, and mean, biased variance (C,) and number of values of all processes."""
    outputs: tuple[Tensor, Tensor, Tensor, Tensor] = _Normalise.apply(input, weight, bias, eps)
    return outputs


class _Normalise(torch.autograd.Function):
    """y = w (x - mean) / sqrt(variance + eps) + b, mean and variance of all processes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = upcast(x)
        values = wide.new_tensor([x.numel() / x.shape[1]])  # a channel
        totals = torch.cat([wide.sum(_rest(x)), values])  # (C + 1,): one reduction for both
        dist.all_reduce(totals)
        mean, count = totals[:-1] / totals[-1], totals[-1]
        variance = (wide - _as(x, mean)).square().sum(_rest(x))
        dist.all_reduce(variance)  # sum of squared distances to the common mean
        variance /= count
        y = F.batch_norm(wide, mean, variance, weight, bias, training=False, eps=eps).to(x.dtype)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt(), count)
        ctx.mark_non_differentiable(mean, variance, count)
        return y, mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, mean, scale, count = ctx.saved_tensors
        upper = gradients[0].to(mean.dtype)  # of the output; the statistics have none
        normal = (x.to(mean.dtype) - _as(x, mean)) * _as(x, scale)  # normalised input, again
        local = torch.stack([upper.sum(_rest(x)), (upper * normal).sum(_rest(x))])  # (2, C)
        total = local.clone()
        dist.all_reduce(total)
        shift, slope = total / count  # (C,) each: mean gradient, and its product with normal
        factor = scale if weight is None else scale * weight
        lower = _as(x, factor) * (upper - _as(x, shift) - normal * _as(x, slope))
        if weight is None:
            return lower.to(x.dtype), None, None, None
        return lower.to(x.dtype), local[1].to(weight.dtype), local[0].to(weight.dtype), None


def _rest(x: Tensor) -> list[int]:
    """All dimensions but the channels."""
    return [0, *range(2, x.ndim)]


def _as(x: Tensor, values: Tensor) -> Tensor:
    """(C,) as (1, C, 1, ...), to broadcast over ``x``."""
    return values.view(1, -1, *[1] * (x.ndim - 2))
