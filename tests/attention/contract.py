"""The contract that every attention block obeys, as test classes to inherit.

Every block (:class:`BlockLaw`):

- maps (B, C, H, W) to the same shape and dtype, in training and evaluation;
- equals an independent reference, dense or in plain loops, written in its test;
- has correct, finite gradients, from the first step on, second derivatives and forward mode;
- gives the gradients of each sample, and the outputs of an ensemble, under ``torch.func``;
- treats samples independently of each other, and any memory format alike;
- takes an empty batch, and refuses one sample without a batch axis, in one sentence;
- is close to float32 under autocast and in half precision;
- runs on the device of its inputs, compiles as one graph, and exports.

Where they apply, a block also: starts as the identity, commutes with a permutation of positions, of
rows and columns, or of channels, returns attention weights, and never allocates an N x N map. A
block's test names these properties by inheritance::

    class TestPositionAttention(BlockLaw, StartsAsIdentity, PermutesPositions, WeighsPositions,
                                NeverHoldsTheMap):
        def build(self, channels):
            return PositionAttention(channels, reduction=4)

        def reference(self, block, x):
            ...  # the same mathematics, dense or in plain loops

Results are compared in float64, in evaluation mode, with random parameters and buffers: a residual
scale of 0 would hide errors. Sizes are 5 x 7, so that swapped axes are noticed.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.profiler import profile
from torch.func import functional_call, grad, jvp, stack_module_state, vjp, vmap
from torch.testing import assert_close

EXACT = {"rtol": 1e-9, "atol": 1e-10}


def randomise(block: nn.Module, seed: int = 1) -> nn.Module:
    """Set all parameters and buffers of ``block`` at random, so that none is 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in [*block.named_parameters(), *block.named_buffers()]:
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_var"):
            noise = 0.5 + noise.abs()
        elif value.ndim < 2:
            noise = 0.5 * noise + 0.5 * noise.sign()
        else:
            noise = noise / (value.numel() / value.shape[0]) ** 0.5
        value.data.copy_(noise)
    return block


def peak_bytes(run: Callable[[], object]) -> int:
    """Peak CPU memory of ``run`` beyond what was allocated before it."""
    with profile(use_kineto=True, profile_memory=True) as profiled:
        run()
    events = profiled.kineto_results.events()  # type: ignore[union-attr]
    memory = sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns())
    held = peak = 0
    for event in memory:
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def slopes(block: nn.Module) -> list[float]:
    """Negative slope of each (leaky) ReLU of a block, in order."""
    layers = [m for m in block.modules() if isinstance(m, nn.ReLU | nn.LeakyReLU)]
    assert all(layer.inplace for layer in layers)  # one feature map less in training
    return [getattr(layer, "negative_slope", 0.0) for layer in layers]


def dropouts(block: nn.Module) -> list[float]:
    """Probability of each dropout of whole channels; a block has no other dropout."""
    assert not any(isinstance(m, nn.Dropout) for m in block.modules())
    return [m.p for m in block.modules() if isinstance(m, nn.Dropout2d)]


def _maps(block: nn.Module) -> Iterator[tuple[Callable[..., Any], dict[str, Any]]]:
    """The block's methods that return weights or gates, with the arguments after its inputs."""
    for name in ("weights", "gates", "unary_weights", "centre_weights", "region_weights"):
        method = getattr(block, name, None)
        at = None if method is None else inspect.signature(method).parameters.get("at")
        if method is not None and (at is None or at.default is not at.empty):
            yield method, {}
        if at is not None and "tuple[int, int]" in str(at.annotation):
            yield method, {"at": (1, 2)}


class BlockLaw:
    """The laws of all blocks. A subclass defines ``build`` and ``reference``."""

    channels = 16
    size: tuple[int, ...] = (5, 7)
    axes = "B, C, H, W"
    tiny: tuple[int, ...] = (2, 3)
    autocast_tolerance = 0.05
    compiler = "eager"  # "aot_eager", for custom operators, also traces the backward pass

    def build(self, channels: int) -> nn.Module:
        raise NotImplementedError

    def reference(self, block: Any, *inputs: Tensor) -> Tensor:
        raise NotImplementedError

    def inputs(self, batch: int, channels: int, size: tuple[int, ...]) -> tuple[Tensor, ...]:
        """The inputs of the block, in float64; the output has the shape of the first."""
        return (torch.randn(batch, channels, *size, dtype=torch.float64),)

    def ready(self) -> nn.Module:
        """The block with random parameters, in float64 and evaluation mode."""
        return randomise(self.build(self.channels).double()).eval()

    def sample(self, batch: int = 2) -> tuple[Tensor, ...]:
        return self.inputs(batch, self.channels, self.size)

    def test_keeps_the_shape(self) -> None:
        block = self.build(self.channels)
        inputs = [x.float() for x in self.sample()]
        for mode in (True, False):
            out = block.train(mode)(*inputs)
            assert out.shape == inputs[0].shape
            assert out.dtype == torch.float32

    def test_equals_the_reference(self) -> None:
        block, inputs = self.ready(), self.sample()
        assert_close(block(*inputs), self.reference(block, *inputs), **EXACT)

    def test_gradients_are_finite_from_the_first_step(self) -> None:
        block = self.build(self.channels).train()
        inputs = [x.float().requires_grad_() for x in self.sample()]
        block(*inputs).square().sum().backward()
        for name, value in [*block.named_parameters(), *enumerate(inputs)]:
            assert value.grad is not None, name
            assert value.grad.isfinite().all(), name

    def function(self) -> tuple[Callable[..., Tensor], list[Tensor]]:
        """The block as a function of its inputs and parameters, and a small set of these."""
        block = self.ready()
        names = [name for name, _ in block.named_parameters()]
        inputs = self.inputs(2, self.channels, self.tiny)

        def run(*values: Tensor) -> Tensor:
            parameters = dict(zip(names, values[len(inputs) :], strict=True))
            return functional_call(block, parameters, values[: len(inputs)])  # type: ignore[no-any-return]

        return run, [*inputs, *(p.detach().clone() for p in block.parameters())]

    def test_gradients_are_those_of_the_function(self) -> None:
        run, values = self.function()
        for value in values:
            value.requires_grad_()
        assert gradcheck(run, values, fast_mode=True, check_undefined_grad=False)

    def test_second_derivatives_are_those_of_the_function(self) -> None:
        run, values = self.function()
        for value in values:
            value.requires_grad_()
        checks = {"fast_mode": True, "check_fwd_over_rev": True, "check_undefined_grad": False}
        assert gradgradcheck(run, values, **checks)

    def test_tangents_are_those_of_the_function(self) -> None:
        """Forward mode: the adjoint of reverse mode, which the laws above check."""
        run, values = self.function()
        tangents = tuple(map(torch.randn_like, values))
        out, tangent = jvp(run, tuple(values), tangents)
        weight = torch.randn_like(out)
        gradients = vjp(run, *values)[1](weight)
        products = [(a * b).sum() for a, b in zip(gradients, tangents, strict=True)]
        assert_close((weight * tangent).sum(), torch.stack(products).sum(), **EXACT)
        assert tangent.abs().max() > 1e-3

    def test_gradients_of_each_sample(self) -> None:
        """``torch.func.vmap(grad(f))`` over samples and shared parameters.

        Of a mean, whose gradients are near 1: a sum's are up to 1000 times as large, and so is
        their rounding, which differs between processors.
        """
        block, inputs = self.ready(), self.sample(3)
        parameters = {name: p.detach() for name, p in block.named_parameters()}

        def loss(parameters: dict[str, Tensor], *sample: Tensor) -> Tensor:
            out: Tensor = functional_call(block, parameters, tuple(x[None] for x in sample))
            return out.square().mean()

        every = vmap(grad(loss), in_dims=(None, *(0 for _ in inputs)))(parameters, *inputs)
        for i in range(3):
            block.zero_grad()
            block(*(x[i : i + 1] for x in inputs)).square().mean().backward()
            for name, parameter in block.named_parameters():
                if parameter.grad is not None:
                    assert_close(every[name][i], parameter.grad, **EXACT)

    def test_an_ensemble_is_its_members(self) -> None:
        """``vmap`` over the parameters of ``stack_module_state``: outputs and gradients."""
        inputs, members = self.sample(1), [randomise(self.ready(), seed) for seed in (2, 3)]
        parameters, buffers = stack_module_state(members)  # type: ignore[arg-type]

        def loss(state: dict[str, Tensor], buffers: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            out: Tensor = functional_call(members[0], (state, buffers), inputs)
            return out.square().sum(), out

        every, outputs = vmap(grad(loss, has_aux=True))(parameters, buffers)
        for i, member in enumerate(members):
            out = member(*inputs)
            assert_close(outputs[i], out, **EXACT)
            out.square().sum().backward()
            for name, parameter in member.named_parameters():
                if parameter.grad is not None:
                    assert_close(every[name][i], parameter.grad, **EXACT)

    def test_takes_an_empty_batch(self) -> None:
        """Forward and backward, in training too; statistics of no samples change no buffer."""
        block, inputs = self.ready(), [x[:0].clone().requires_grad_() for x in self.sample()]
        for mode in (True, False):
            out = block.train(mode)(*inputs)
            assert out.shape == inputs[0].shape
            (*gradients,) = torch.autograd.grad(out.sum(), inputs)
            assert [x.shape for x in gradients] == [x.shape for x in inputs]
        expected = self.ready().state_dict()
        for name, value in block.state_dict().items():
            if "num_batches" not in name and ".parametrizations." not in name:  # spectral norm
                assert torch.equal(value, expected[name]), name
        for method, at in _maps(block):
            result = method(*inputs, **at)
            assert all(len(x) == 0 for x in (result if isinstance(result, tuple) else (result,)))

    def test_refuses_one_sample_without_a_batch(self) -> None:
        """Its channels would pass for samples, which must not give a result."""
        block, inputs = self.ready(), self.sample()
        alone, axes = [x[0] for x in inputs], self.axes.partition(", ")[2]
        sentence = rf"expected \({self.axes}\), got .*; of one sample \({axes}\) give x\[None\]"
        for method, at in [(block, {}), *_maps(block)]:
            with pytest.raises(ValueError, match=f"^{sentence}$"):
                method(*alone, **at)
        for i in range(1, len(inputs)):  # the others are batches
            with pytest.raises(ValueError, match=f"^{sentence}$"):
                block(*inputs[:i], alone[i], *inputs[i + 1 :])

    def test_samples_are_independent(self) -> None:
        block, inputs = self.ready(), self.sample(3)
        together = block(*inputs)
        for i in range(3):
            assert_close(together[i : i + 1], block(*(x[i : i + 1] for x in inputs)), **EXACT)

    def test_memory_order_does_not_matter(self) -> None:
        block, inputs = self.ready(), self.sample()
        channels_last = [x.movedim(1, -1).contiguous().movedim(-1, 1) for x in inputs]
        assert_close(block(*channels_last), block(*inputs), **EXACT)

    def test_autocast_is_close_to_float32(self) -> None:
        block, inputs = self.ready().float(), [x.float() for x in self.sample()]
        exact = block(*inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = block(*inputs)
        scale = exact.abs().max().item()
        assert_close(mixed.float(), exact, rtol=0, atol=self.autocast_tolerance * scale)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_close_to_float32(self, dtype: torch.dtype) -> None:
        block, inputs = self.ready().float(), [x.float() for x in self.sample()]
        exact = block(*inputs)
        narrow = [x.to(dtype).requires_grad_() for x in inputs]
        out = block.to(dtype)(*narrow)
        assert out.dtype == dtype
        scale = exact.abs().max().item()
        assert_close(out.float(), exact, rtol=0, atol=self.autocast_tolerance * scale)
        out.float().sum().backward()
        assert all(x.grad is not None and x.grad.dtype == dtype for x in narrow)

    def test_runs_on_the_device_of_its_inputs(self) -> None:
        """The meta device refuses tensors of another device, forward and backward."""
        block, inputs = self.ready().to("meta"), self.sample()
        meta = [x.to("meta").requires_grad_() for x in inputs]
        out = block(*meta)
        assert out.is_meta
        assert out.dtype == inputs[0].dtype
        assert out.shape == inputs[0].shape
        out.sum().backward()
        assert all(x.grad is not None and x.grad.shape == x.shape for x in meta)
        for at in ({}, {"at": (2, 3)}):
            if hasattr(block, "weights") and len(self.size) == 2:
                with suppress(TypeError):
                    assert block.weights(*meta, **at).is_meta

    def test_compiles_as_one_graph(self) -> None:
        block, inputs = self.ready(), self.sample()
        compiled = torch.compile(block, fullgraph=True, backend=self.compiler)
        outputs, gradients = [], []
        for run in (block, compiled):
            fresh = [x.clone().requires_grad_() for x in inputs]
            out = run(*fresh)
            outputs.append(out.detach())
            weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
            gradients.append(torch.autograd.grad((out * weight).sum(), fresh))
        assert_close(outputs[1], outputs[0], **EXACT)
        assert_close(gradients[1], gradients[0], **EXACT)
        torch.compiler.reset()

    def test_exports(self) -> None:
        block, inputs = self.ready(), self.sample()
        exported = torch.export.export(block, inputs).module()
        other = self.inputs(2, self.channels, self.size)
        assert_close(exported(*other), block(*other), **EXACT)


class StartsAsIdentity:
    """The residual scale starts at 0: a new block returns its first input, bit for bit."""

    def test_starts_as_identity(self: Any) -> None:
        block = self.build(self.channels)
        inputs = [x.float() for x in self.sample()]
        for mode in (True, False):
            assert torch.equal(block.train(mode)(*inputs), inputs[0])


def _permute_positions(x: Tensor) -> Tensor:
    order = torch.randperm(x[0, 0].numel(), generator=torch.Generator().manual_seed(3))
    return x.flatten(2)[..., order].view_as(x)


def _permute(x: Tensor, dim: int) -> Tensor:
    order = torch.randperm(x.shape[dim], generator=torch.Generator().manual_seed(3))
    return x.index_select(dim, order)


def assert_commutes(block: nn.Module, move: Callable[[Tensor], Tensor], *inputs: Tensor) -> None:
    """``block(move(x))`` equals ``move(block(x))``, and ``move`` changes x."""
    assert not torch.equal(move(inputs[0]), inputs[0])
    assert_close(block(*map(move, inputs)), move(block(*inputs)), **EXACT)


class PermutesPositions:
    """The block is equivariant to permutations of the positions."""

    def test_permutes_with_the_positions(self: Any) -> None:
        assert_commutes(self.ready(), _permute_positions, *self.sample())


class PermutesRowsAndColumns:
    """The block is equivariant to permutations of rows and of columns, not of positions."""

    def test_permutes_with_the_rows_and_columns(self: Any) -> None:
        block, inputs = self.ready(), self.sample()
        assert_commutes(block, lambda x: _permute(_permute(x, 2), 3), *inputs)

    def test_does_not_permute_with_single_positions(self: Any) -> None:
        block, (x,) = self.ready(), self.sample()
        moved = block(_permute_positions(x)) - _permute_positions(block(x))
        assert moved.abs().max() > 1e-3


class PermutesChannels:
    """The block is equivariant to permutations of the channels."""

    def test_permutes_with_the_channels(self: Any) -> None:
        assert_commutes(self.ready(), lambda x: _permute(x, 1), *self.sample())


class WeighsPositions:
    """``weights(x)`` is (B, N, N) with rows that sum to 1; ``at`` selects one row."""

    def test_rows_of_weights_sum_to_1(self: Any) -> None:
        block, inputs = self.ready(), self.sample()
        weights = block.weights(*inputs)
        height, width = self.size
        assert weights.shape == (2, height * width, height * width)
        assert (weights >= 0).all()
        assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), **EXACT)

    def test_weights_have_gradients(self: Any) -> None:
        block, inputs = self.ready(), self.sample()
        for at in (None, (1, 5)):
            x = inputs[0].clone().requires_grad_()
            block.weights(x, *inputs[1:], at=at).square().sum().backward()
            assert x.grad is not None
            assert x.grad.abs().max() > 0

    def test_one_row_is_a_row_of_the_map(self: Any) -> None:
        block, inputs = self.ready(), self.sample()
        height, width = self.size
        weights = block.weights(*inputs).view(2, height, width, height, width)
        for row, column in [(0, 0), (1, 5), (height - 1, 2), (height - 1, width - 1)]:
            one = block.weights(*inputs, at=(row, column))
            assert_close(one, weights[:, row, column], **EXACT)


class NeverHoldsTheMap:
    """Peak memory of forward and backward is less than one N x N map."""

    large: tuple[int, ...] = (60, 70)
    large_channels = 16

    def test_never_holds_the_map(self: Any) -> None:
        block = randomise(self.build(self.large_channels)).eval()
        sample = self.inputs(1, self.large_channels, self.large)
        inputs = [x.float().requires_grad_() for x in sample]
        positions = torch.Size(self.large).numel()
        peak = peak_bytes(lambda: block(*inputs).square().sum().backward())
        assert peak < 4 * positions**2  # bytes of float32
