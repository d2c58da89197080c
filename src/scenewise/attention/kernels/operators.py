"""PyTorch operators with derivatives in reverse mode, in forward mode and under ``torch.func``."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._functorch.autograd_function import (  # type: ignore[attr-defined]
    enable_single_level_autograd_function,
)
from torch.autograd.forward_ad import _set_fwd_grad_enabled
from torch.utils.flop_counter import register_flop_formula

_LIBRARY: Any = torch.library.Library("scenewise", "FRAGMENT")  # type: ignore[no-untyped-call]


class Rules(NamedTuple):
    """How to differentiate an operator; gradients and tangents that are 0 are None."""

    setup: Callable[..., Sequence[Tensor]]  # (inputs, outputs) -> tensors kept for the other two
    backward: Callable[..., Sequence[Tensor | None]]  # (kept, scale, *gradients of outputs)
    tangent: Callable[..., Any]  # (kept, scale, *tangents of tensor inputs) -> of each output


def define(
    schema: str,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    rules: Rules,
    flops: Callable[..., int],
    *,
    batched: bool = True,
) -> Any:
    """Define the operator ``scenewise::schema`` and return it.

    ``torch.library.custom_op`` has no forward mode: its tangents are 0. Here the kernel that the
    dispatcher calls for derivatives also has a ``jvp``. It serves one level of ``torch.func``;
    the rules call operators, which serve the other levels. An input that is not a tensor must be
    the last one, ``scale``.

    Args:
        schema: name, arguments and results.
        kernel: computes the results on any device.
        fake: empty results of the right shapes, for tracing.
        rules: the derivatives.
        flops: shapes of the tensors -> operations, for PyTorch's ``FlopCounterMode``.
        batched: under ``torch.vmap``, the new axis joins the samples, the first axis of all inputs
            and outputs; else the operator runs once for each entry of the new axis.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"scenewise::{name}", fake, lib=_LIBRARY)
    operator = getattr(torch.ops.scenewise, name).default
    _LIBRARY.impl(name, _differentiable(operator, rules), "Autograd", with_keyset=True)
    register_flop_formula(getattr(torch.ops.scenewise, name))(
        lambda *shapes, **_: flops(*(shape for shape in shapes if isinstance(shape, Sequence)))
    )
    vmap = _over_samples(operator) if batched else _one_by_one(operator)
    torch.library.register_vmap(f"scenewise::{name}", vmap, lib=_LIBRARY)
    return operator


def _differentiable(operator: Any, rules: Rules) -> Callable[..., Any]:
    """The kernel of the dispatch key Autograd."""

    def forward(ctx: Any, keys: Any, *inputs: Any) -> Any:
        with _other_levels(), torch._C._AutoDispatchBelowAutograd():
            outputs = operator.redispatch(keys & torch._C._after_autograd_keyset, *inputs)
        ctx.set_materialize_grads(False)
        ctx.count, ctx.scale = len(inputs), [x for x in inputs if not isinstance(x, Tensor)]
        kept = rules.setup(inputs, outputs)
        ctx.save_for_backward(*kept)
        ctx.save_for_forward(*kept)
        return outputs

    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        if all(gradient is None for gradient in gradients):
            return (None,) * (1 + ctx.count)
        inputs = rules.backward(ctx.saved_tensors, *ctx.scale, *gradients)
        return None, *inputs, *(None for _ in ctx.scale)

    def jvp(ctx: Any, _: None, *tangents: Any) -> Any:
        with _other_levels():
            kept = [_unpack(x)[0] for x in ctx.saved_tensors]
            return rules.tangent(kept, *ctx.scale, *tangents[: ctx.count - len(ctx.scale)])

    methods = {"forward": forward, "backward": backward, "jvp": jvp}
    function: Any = type(
        operator._opname,
        (torch.autograd.function._SingleLevelFunction,),
        {name: staticmethod(method) for name, method in methods.items()},  # type: ignore[arg-type]
    )

    def kernel(keys: Any, *inputs: Any) -> Any:
        with enable_single_level_autograd_function():
            return function.apply(keys, *inputs)

    return kernel


@contextmanager
def _other_levels() -> Iterator[None]:
    """Inside a forward pass all derivatives are off; the outer levels of torch.func need theirs."""
    if torch._C._functorch.peek_interpreter_stack() is None:
        yield
    else:
        with torch.enable_grad(), _set_fwd_grad_enabled(True):
            yield


def _over_samples(operator: Any) -> Callable[..., Any]:
    """The rule for ``torch.vmap`` with the new axis among the samples."""

    def batched(info: Any, axes: tuple[int | None, ...], *inputs: Any) -> Any:
        def fold(x: Any, axis: int | None) -> Any:
            if not isinstance(x, Tensor):
                return x
            x = x.expand(info.batch_size, *x.shape) if axis is None else x.movedim(axis, 0)
            return x.flatten(0, 1)

        outputs = operator(*map(fold, inputs, axes))
        many = outputs if isinstance(outputs, tuple) else (outputs,)
        unfolded = tuple(x.unflatten(0, (info.batch_size, -1)) for x in many)
        if isinstance(outputs, tuple):
            return unfolded, (0,) * len(unfolded)
        return unfolded[0], 0

    return batched


def _one_by_one(operator: Any) -> Callable[..., Any]:
    """The rule for ``torch.vmap`` as a loop."""

    def batched(info: Any, axes: tuple[int | None, ...], *inputs: Any) -> Any:
        def entry(x: Any, axis: int | None, i: int) -> Any:
            return x if axis is None else x.select(axis, i)

        rows = [
            operator(*(entry(x, axis, i) for x, axis in zip(inputs, axes, strict=True)))
            for i in range(info.batch_size)
        ]
        outputs = tuple(torch.stack(column) for column in zip(*rows, strict=True))
        return outputs, (0,) * len(outputs)

    return batched


def _unpack(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Value and tangent of a dual number; ``forward_ad.unpack_dual`` fails in compiled code."""
    value, tangent = torch._VF._unpack_dual(x, level=0)
    return value, tangent


def has_tangent(*tensors: Tensor) -> bool:
    """Whether forward mode differentiates one of ``tensors``."""
    return any(_unpack(x)[1] is not None for x in tensors)
