from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad, functional, gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from scenewise.attention import PositionAttention, position_attention
from scenewise.attention.kernels import tiled
from scenewise.attention.kernels.tiled import BackwardInputs
from scenewise.attention.position import pixels
from tests.attention.contract import (
    EXACT,
    BlockLaw,
    NeverHoldsTheMap,
    PermutesPositions,
    StartsAsIdentity,
    WeighsPositions,
    peak_bytes,
)

Attention = Callable[..., Tensor]


def dense(query: Tensor, key: Tensor, value: Tensor, scale: float = 1.0) -> Tensor:
    return torch.softmax(scale * query @ key.transpose(1, 2), dim=-1) @ value


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


class TestPositionAttention(
    BlockLaw, StartsAsIdentity, PermutesPositions, WeighsPositions, NeverHoldsTheMap
):
    def build(self, channels: int) -> nn.Module:
        return PositionAttention(channels)

    def reference(self, block: PositionAttention, x: Tensor) -> Tensor:
        """Plain loops over pixels: what the paper's figure shows."""
        query, key, value = block.query(x), block.key(x), block.value(x)
        places = [(h, w) for h in range(x.shape[2]) for w in range(x.shape[3])]
        out = x.clone()
        for h, w in places:
            energy = torch.stack(
                [(query[:, :, h, w] * key[:, :, i, j]).sum(1) for i, j in places], dim=1
            )
            share = energy.exp() / energy.exp().sum(1, keepdim=True)
            gathered = sum(share[:, n, None] * value[:, :, i, j] for n, (i, j) in enumerate(places))
            out[:, :, h, w] += block.gamma * gathered
        return out


def cut(monkeypatch: pytest.MonkeyPatch, numbers: int) -> None:
    """Set tiles of ``numbers`` query rows and half as many keys."""
    for name, value in {"_TILE_ROWS": numbers, "_TILE_KEYS": max(1, numbers // 2)}.items():
        monkeypatch.setattr(tiled, name, value)


@pytest.mark.parametrize("numbers", [4, 50, 10**6])
@pytest.mark.parametrize(("queries", "keys"), [(35, 35), (11, 7), (1, 1), (3, 101)])
@pytest.mark.parametrize("scale", [1.0, 0.37])
def test_equals_dense_for_any_block(
    monkeypatch: pytest.MonkeyPatch, numbers: int, queries: int, keys: int, scale: float
) -> None:
    cut(monkeypatch, numbers)
    inputs = draw(3, queries, 5), draw(3, keys, 5), draw(3, keys, 2)
    weight = torch.randn(3, queries, 2, dtype=torch.float64)
    result = position_attention(*inputs, scale=scale)
    expected = dense(*inputs, scale=scale)
    assert_close(result, expected, **EXACT)
    assert_close(
        torch.autograd.grad((result * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        **EXACT,
    )


def test_gradcheck_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, 4)
    inputs = draw(2, 7, 2), draw(2, 3, 2), draw(2, 3, 3)
    assert gradcheck(position_attention, inputs, check_forward_ad=True)
    assert gradgradcheck(position_attention, inputs, check_fwd_over_rev=True)


def total(function: Attention) -> Attention:
    """A scalar whose second derivatives by each pair of inputs are not 0."""
    return lambda *inputs: function(*inputs, scale=0.7).sin().sum()


DERIVATIVES: dict[str, Callable[[Attention, list[Tensor]], Any]] = {
    "jvp": lambda f, x: jvp(f, tuple(x), tuple(x)),
    "jacfwd": lambda f, x: jacfwd(f, (0, 1, 2))(*x),
    "grad": lambda f, x: grad(f, (0, 1, 2))(*x),
    "vjp": lambda f, x: vjp(f, *x)[1](torch.ones_like(f(*x))),
    "hessian": lambda f, x: hessian(f, (0, 1, 2))(*x),
    "jacrev of jacfwd": lambda f, x: jacrev(jacfwd(f, (0, 1, 2)), (0, 1, 2))(*x),
    "jacrev of jacrev": lambda f, x: jacrev(jacrev(f, (0, 1, 2)), (0, 1, 2))(*x),
    "grad of grad": lambda f, x: grad(lambda *x: grad(f)(*x).square().sum(), (0, 1, 2))(*x),
    "autograd hessian": lambda f, x: functional.hessian(f, tuple(x)),
    "autograd hvp": lambda f, x: functional.hvp(f, tuple(x), tuple(x)),
    "autograd vhp": lambda f, x: functional.vhp(f, tuple(x), tuple(x)),
    "vmap": lambda f, x: vmap(lambda q: f(q, *x[1:]))(torch.stack([x[0], 2 * x[0]], dim=1)),
}


@pytest.mark.parametrize("name", DERIVATIVES)
def test_transforms_equal_those_of_the_dense_form(name: str) -> None:
    inputs = [x.detach() for x in (draw(2, 5, 3), draw(2, 7, 3), draw(2, 7, 4))]
    if name == "vmap":
        inputs = [x.expand(2, *x.shape[1:]) for x in (y[:1] for y in inputs)]
    derivative = DERIVATIVES[name]
    result, expected = (derivative(total(f), inputs) for f in (position_attention, dense))
    assert_close(result, expected, **EXACT)


def test_dual_numbers_carry_the_tangent_of_the_dense_form() -> None:
    """``forward_ad`` without a transform, and a gradient taken inside it without a graph."""
    query, key, value = draw(2, 5, 3), draw(2, 7, 3), draw(2, 7, 4)
    results = []
    for function in (position_attention, dense):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(query, query.detach().cos())
            out = function(dual, key, value)
            (gradient,) = torch.autograd.grad(out.sin().sum(), dual)
            results.append([forward_ad.unpack_dual(x).tangent for x in (out, gradient)])
    assert_close(results[0], results[1], **EXACT)


def test_a_compiled_tangent_is_that_of_the_dense_form() -> None:
    inputs = tuple(x.detach() for x in (draw(2, 5, 3), draw(2, 7, 3), draw(2, 7, 4)))
    tangents = [
        torch.compile(lambda f=f: jvp(f, inputs, inputs)[1], backend="eager")()
        for f in (position_attention, dense)
    ]
    torch.compiler.reset()
    assert_close(tangents[0], tangents[1], **EXACT)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {  # (B, C, H, W) -> (B, N, C)
    "pixels": pixels,
    "channels last": lambda x: pixels(x.contiguous(memory_format=torch.channels_last)),
    "rows": lambda x: pixels(x).contiguous(),
    "every other": lambda x: pixels(x.repeat_interleave(2, 3)[..., ::2]),
    "part of the channels": lambda x: pixels(torch.cat([x, x], dim=1)[:, : x.shape[1]]),
}
SIDES = st.sampled_from([1, 2, 3, 5, 7, 11])
SDPA_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 0.04}  # of the largest


def assert_near(results: Any, expected: Any, dtype: torch.dtype) -> None:
    for x, y in zip(results, expected, strict=True):
        assert x.dtype == dtype
        atol = SDPA_TOLERANCE[dtype] * max(1.0, y.abs().max().item())
        assert_close(x.double(), y.double(), rtol=0, atol=atol)


def sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return scaled_dot_product_attention(query, key, value, scale=1.0)


def all_derivatives(
    function: Attention, inputs: list[Tensor], weights: list[Tensor], order: int = 2
) -> list[Tensor]:
    """Output and gradients; then the tangent, and the gradients of the gradients' weighted sum."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = function(*leaves)
    first = torch.autograd.grad((out * weights[3]).sum(), leaves, create_graph=order > 1)
    if order == 1:
        return [out, *first]
    tangent = jvp(function, tuple(inputs), tuple(weights[:3]))[1]
    total = torch.stack([(x * w).sum() for x, w in zip(first, weights, strict=False)]).sum()
    return [out, *first, tangent, *torch.autograd.grad(total, leaves)]


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
@settings(max_examples=20, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 3), SIDES, SIDES, SIDES, SIDES),
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    layouts=st.tuples(*[st.sampled_from([*LAYOUTS])] * 3),
    dtype=st.sampled_from([*SDPA_TOLERANCE]),
    tile=st.sampled_from([3, 10**6]),
)
def test_equals_pytorchs_own_operator(
    device: str,
    sizes: tuple[int, ...],
    channels: tuple[int, int],
    layouts: tuple[str, ...],
    dtype: torch.dtype,
    tile: int,
) -> None:
    """PyTorch's fast kernels have values and gradients; its formula also has the others."""
    batch, *sides = sizes
    wide = torch.promote_types(dtype, torch.float32)
    shapes = zip((channels[0], *channels), (sides[:2], sides[2:], sides[2:]), strict=True)
    inputs = [
        LAYOUTS[layout](torch.randn(batch, c, *side, device=device).div(2).to(dtype))
        for layout, (c, side) in zip(layouts, shapes, strict=True)
    ]
    weights = [torch.randn_like(x.contiguous()) for x in (*inputs, sdpa(*inputs))]
    with pytest.MonkeyPatch.context() as patch:
        cut(patch, tile)
        results = all_derivatives(position_attention, inputs, weights)
    inputs, weights = ([x.to(wide) for x in tensors] for tensors in (inputs, weights))
    first = all_derivatives(sdpa, inputs, weights, order=1)
    assert_near(results[: len(first)], first, dtype)
    if dtype == wide:  # in half precision, gradients are rounded before they are differentiated
        with sdpa_kernel(SDPBackend.MATH):
            assert_near(results, all_derivatives(sdpa, inputs, weights), dtype)


def test_what_has_no_derivative_says_what_has() -> None:
    inputs = [x.detach() for x in (draw(1, 3, 2), draw(1, 4, 2), draw(1, 4, 3))]

    def first(*x: Tensor) -> Tensor:
        return grad(total(position_attention))(*x).square().sum()

    with pytest.raises(NotImplementedError, match=r"no third .* use torch\.softmax"):
        grad(lambda *x: grad(first)(*x).square().sum())(*inputs)
    with pytest.raises(NotImplementedError, match=r"no third"):
        jvp(grad(first), tuple(inputs), tuple(inputs))
    with pytest.raises(NotImplementedError, match=r"no forward mode within forward mode"):
        jacfwd(jacfwd(total(position_attention)))(*inputs)


@pytest.mark.parametrize("spread", [1.0, 30.0, 1000.0])
@pytest.mark.parametrize("rising", [False, True])
def test_equals_dense_for_energies_far_apart(
    monkeypatch: pytest.MonkeyPatch, spread: float, rising: bool
) -> None:
    """Also where the largest energy of a row comes late, and where most weights vanish."""
    cut(monkeypatch, 8)
    query, key, value = (x.detach() for x in (draw(2, 23, 3), draw(2, 29, 3), draw(2, 29, 4)))
    query = torch.cat([query, torch.ones_like(query[..., :1])], dim=2) * spread
    heights = torch.linspace(0, 9, 29, dtype=key.dtype) if rising else torch.zeros(29).to(key)
    key = torch.cat([key, heights.expand(2, 29)[..., None]], dim=2)
    inputs = [x.requires_grad_() for x in (query, key, value)]
    weight = torch.randn(2, 23, 4, dtype=torch.float64)
    result, expected = position_attention(*inputs), dense(*inputs)
    assert_close(result, expected, **EXACT)
    assert_close(
        torch.autograd.grad((result * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        **EXACT,
    )


def test_half_precision_sums_tiles_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error over a thousand tiles is the rounding of weights, values and output alone."""
    cut(monkeypatch, 4)
    query, key = torch.zeros(1, 3, 4), torch.zeros(1, 2000, 4)
    value = torch.rand(1, 2000, 5) + 1
    out = position_attention(query, key, value.bfloat16())
    assert_close(out.float(), value.mean(1, keepdim=True).expand(1, 3, 5), rtol=2**-7, atol=0)


def test_hand_computed() -> None:
    """Energies 0 and log 3: weights 1/4 and 3/4 of values 8 and 4."""
    query = torch.ones(1, 1, 1)
    key = torch.tensor([[[1.0], [3.0]]]).log()
    value = torch.tensor([[[8.0], [4.0]]])
    assert_close(position_attention(query, key, value), torch.tensor([[[5.0]]]))


def test_huge_energies_do_not_overflow() -> None:
    query, key, value = (torch.randn(1, 9, 4) * 1e3 for _ in range(3))
    assert_close(position_attention(query, key, value), dense(query, key, value))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_energies_are_float32(dtype: torch.dtype) -> None:
    """Energies near 4000 differ by 1, less than the spacing of bfloat16."""
    query = torch.full((1, 1, 16), 16.0, dtype=dtype)
    key = torch.full((1, 2, 16), 16.0, dtype=dtype)
    key[0, 1, 0] += 0.125
    value = torch.tensor([[[0.0], [1.0]]], dtype=dtype)
    share = position_attention(query, key, value).item()
    assert share == pytest.approx(torch.sigmoid(torch.tensor(2.0)).item(), abs=4e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_results_of_the_tiles_are_of_the_dtypes_of_the_inputs(dtype: torch.dtype) -> None:
    q, k, v, grad = (torch.randn(1, n, c, dtype=dtype) for n, c in ((3, 2), (5, 2), (5, 4), (3, 4)))
    out, log_sum = tiled.attend(q, k, v, 0.5)
    assert out.dtype == dtype
    assert log_sum.dtype == torch.float32
    assert_close(log_sum, (0.5 * q.float() @ k.float().mT).logsumexp(-1))
    for x in tiled.attend_backward(BackwardInputs(grad, q, k, v, out, log_sum, 0.5)):
        assert x.dtype == dtype


@pytest.mark.parametrize(
    ("length", "most", "expected"),
    [
        (7, 3, [3, 3, 1]),
        (6, 3, [3, 3]),
        (10, 7, [5, 5]),
        (3, 5, [3]),
        (1, 1, [1]),
        (3, 1, [1, 1, 1]),
        (0, 4, []),
    ],
)
def test_parts_are_few_and_nearly_equal(length: int, most: int, expected: list[int]) -> None:
    slices = tiled.parts(length, most)
    assert [part.stop - part.start for part in slices] == expected
    assert [i for part in slices for i in range(length)[part]] == list(range(length))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_second_derivatives_and_tangents_are_of_the_dtypes_of_the_inputs(
    dtype: torch.dtype,
) -> None:
    inputs = [torch.randn(1, n, c) for n, c in ((3, 2), (5, 2), (5, 4))]
    narrow = [x.to(dtype) for x in inputs]
    results = [
        vjp(lambda *x: jvp(dense, tuple(x), tuple(x))[1], *inputs)[1](torch.ones(1, 3, 4)),
        vjp(lambda *x: jvp(position_attention, tuple(x), tuple(x))[1], *narrow)[1](
            torch.ones(1, 3, 4, dtype=dtype)
        ),
    ]
    for exact, result in zip(*results, strict=True):
        assert result.dtype == dtype
        assert_close(result.float(), exact, rtol=0, atol=0.1 * exact.abs().max().item())


def test_only_needed_gradients() -> None:
    query, key, value = draw(1, 4, 2), draw(1, 5, 2), draw(1, 5, 3)
    total = position_attention(query.detach(), key.detach(), value).sum()
    (grad,) = torch.autograd.grad(total, value)
    (expected,) = torch.autograd.grad(dense(query, key, value).sum(), value)
    assert_close(grad, expected, **EXACT)


def test_memory_grows_with_pixels_not_pairs() -> None:
    """Twice the pixels: at most about twice the memory, forward and backward."""

    def peak(pixels: int) -> int:
        inputs = [torch.randn(1, pixels, c, requires_grad=True) for c in (8, 8, 32)]
        return peak_bytes(lambda: position_attention(*inputs).sum().backward())

    pixels = 8192
    assert peak(pixels) < 0.3 * 4 * pixels**2
    assert peak(2 * pixels) - peak(pixels) < 0.02 * 4 * pixels**2


def test_memory_of_second_derivatives_grows_with_pixels_not_pairs() -> None:
    def penalty(*inputs: Tensor) -> None:
        first = torch.autograd.grad(position_attention(*inputs).sum(), inputs, create_graph=True)
        torch.stack([x.square().sum() for x in first]).sum().backward()

    def tangent(*inputs: Tensor) -> None:
        values = tuple(x.detach() for x in inputs)
        jvp(position_attention, values, values)

    pixels = 8192
    inputs = [torch.randn(1, pixels, c, requires_grad=True) for c in (4, 4, 8)]
    for run in (penalty, tangent):
        assert peak_bytes(lambda run=run: run(*inputs)) < 0.3 * 4 * pixels**2


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 2, 3), (1, 2, 4), (1, 2, 5)), "differ in channels"),
        (((1, 2, 3), (1, 2, 3), (1, 7, 5)), "number of keys"),
        (((2, 2, 3), (1, 2, 3), (1, 2, 5)), "batch"),
        (((1, 2, 3), (1, 0, 3), (1, 0, 5)), "no keys"),
        (((2, 3), (1, 2, 3), (1, 2, 5)), r"expected \(B, Nq, D\)"),
    ],
)
def test_wrong_shapes_raise(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        position_attention(*(torch.zeros(s) for s in shapes))
    query, key, value = shapes
    assert str(raised.value).endswith(f"query {query}, key {key}, value {value}")


def test_weights_are_those_of_the_dense_map() -> None:
    block = PositionAttention(8).double()
    x = torch.randn(2, 8, 5, 7, dtype=torch.float64)
    query, key = block.query(x).flatten(2), block.key(x).flatten(2)
    expected = torch.einsum("bdi,bdj->bij", query, key).softmax(-1)
    assert_close(block.weights(x), expected, **EXACT)


def test_one_pixel_attends_to_itself() -> None:
    block = PositionAttention(8).double()
    block.gamma.data.fill_(1.0)
    x = torch.randn(2, 8, 1, 1, dtype=torch.float64)
    assert_close(block(x), block.value(x) + x, **EXACT)


@pytest.mark.parametrize("at", [(5, 0), (-1, 0), (0, 7), (0, -1)])
def test_pixel_outside_raises(at: tuple[int, int]) -> None:
    row, column = at
    with pytest.raises(
        ValueError, match=rf"pixel \({row}, {column}\) is outside the feature map of 5 x 7"
    ):
        PositionAttention(8).weights(torch.zeros(1, 8, 5, 7), at=at)


def test_too_few_channels_raise() -> None:
    with pytest.raises(ValueError, match="4 channels cannot be reduced by 8"):
        PositionAttention(4)


def test_flops_of_a_block_are_those_of_the_dense_formula() -> None:
    """161 million at 32 x 32: 151 of them products of pairs, which no built-in formula sees."""
    block, x = PositionAttention(64), torch.randn(1, 64, 32, 32)
    with FlopCounterMode(display=False) as counted:
        block(x)
    assert counted.get_total_flops() == 2 * 1024 * 64 * (8 + 8 + 64) + 2 * 1024**2 * (8 + 64)
    assert round(counted.get_total_flops() / 1e6) == 161


def test_flops_are_those_of_the_dense_form() -> None:
    """Forward equal; backward recomputes the energies, 2 B Nq Nk D more."""
    inputs = draw(2, 11, 3), draw(2, 7, 3), draw(2, 7, 4)
    counts = []
    for function in (position_attention, dense):
        with FlopCounterMode(display=False) as forward:
            out = function(*inputs)
        with FlopCounterMode(display=False) as backward:
            out.sum().backward()
        counts.append((forward.get_total_flops(), backward.get_total_flops()))
    assert counts[0][0] == counts[1][0] == 2 * 2 * 11 * 7 * (3 + 4)
    assert counts[0][1] == counts[1][1] + 2 * 2 * 11 * 7 * 3
