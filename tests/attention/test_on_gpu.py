"""The choice among the forms of position attention on GPUs; the forms themselves where one is."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from scenewise.attention import on_gpu, position_attention, tiles

X = torch.ones(3)


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_gpu, "_chosen", {})


def double(x: Tensor) -> tuple[Tensor]:
    return (2 * x,)


def also_double(x: Tensor) -> tuple[Tensor]:
    return (x + x,)


def wrong(x: Tensor) -> tuple[Tensor]:
    return (2 * x + 0.01,)


def broken(x: Tensor) -> tuple[Tensor]:
    raise torch.OutOfMemoryError("too large")


def timer(times: dict[object, float]) -> object:
    return lambda way, inputs: times[way]


def test_the_fastest_that_agrees_is_chosen_once() -> None:
    ways = {"a": double, "b": also_double, "c": wrong, "d": broken}
    times = {double: 3.0, also_double: 2.0, wrong: 1.0, broken: 0.5}
    assert on_gpu.choose(ways, (X,), ("kind",), timer(times)) == "b"
    times[double] = 0.1
    assert on_gpu.choose(ways, (X,), ("kind",), timer(times)) == "b"
    assert on_gpu.choose(ways, (X,), ("other",), timer(times)) == "a"


class TritonsOwnError(Exception):
    """Like ``triton.runtime.errors.OutOfResources``, which is no RuntimeError."""


def test_a_way_that_fails_in_any_manner_is_left_out() -> None:
    def too_large(x: Tensor) -> tuple[Tensor]:
        raise TritonsOwnError("shared memory")

    ways = {"a": double, "b": too_large}
    assert on_gpu.choose(ways, (X,), ("kind",), timer({double: 1.0, too_large: 0.1})) == "a"


@pytest.mark.parametrize("value", [[], [float("nan")], [float("inf")]])
def test_what_agrees_with_nothing_is_computed_and_not_remembered(value: list[float]) -> None:
    ways, times = {"a": double, "b": also_double}, timer({double: 2.0, also_double: 1.0})
    assert on_gpu.choose(ways, (torch.tensor(value),), ("kind",), times) == "a"
    assert on_gpu.choose(ways, (X,), ("kind",), times) == "b"


def test_one_way_needs_no_measuring() -> None:
    assert on_gpu.choose({"a": broken}, (X,), ("kind",)) == "a"


def test_kinds_tell_what_a_choice_depends_on() -> None:
    q, k, v = torch.zeros(1, 100, 4), torch.zeros(1, 100, 4), torch.zeros(1, 100, 8)
    kinds = {
        on_gpu.kind_of("forward", q, k, v),
        on_gpu.kind_of("backward", q, k, v),
        on_gpu.kind_of("forward", q.half(), k, v),
        on_gpu.kind_of("forward", q, k, torch.zeros(1, 100, 9)),
        on_gpu.kind_of("forward", torch.zeros(1, 200, 4), k, v),
    }
    assert len(kinds) == 5
    assert on_gpu.kind_of("forward", torch.zeros(1, 120, 4), k, v) in kinds


def gpu_inputs(dtype: torch.dtype) -> list[Tensor]:
    return [torch.randn(2, 1000, c, device="cuda", dtype=dtype) for c in (64, 64, 512)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gpu_equals_cpu_with_gradients(dtype: torch.dtype) -> None:
    inputs = [x.requires_grad_() for x in gpu_inputs(dtype)]
    exact = [x.detach().double().cpu().requires_grad_() for x in inputs]
    out, expected = (position_attention(*x, scale=0.125) for x in (inputs, exact))
    assert on_gpu.agree(out.cpu(), expected.to(dtype))
    grad = torch.randn_like(out)
    ours = torch.autograd.grad(out, inputs, grad)
    theirs = torch.autograd.grad(expected, exact, grad.double().cpu())
    for a, b in zip(ours, theirs, strict=True):
        assert on_gpu.agree(a.cpu(), b.to(dtype))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_gpu_memory_is_linear() -> None:
    def peak(pixels: int) -> int:
        inputs = [
            torch.randn(1, pixels, c, device="cuda", requires_grad=True) for c in (64, 64, 512)
        ]
        position_attention(*inputs).sum().backward()  # chooses
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        position_attention(*inputs).sum().backward()
        return torch.cuda.max_memory_allocated() - before

    assert peak(16384) < 4 * 16384**2 / 2


def test_tiles_are_what_a_cpu_computes() -> None:
    q, k, v = (torch.randn(2, 9, c) for c in (3, 3, 5))
    assert_close(position_attention(q, k, v), tiles.attend(q, k, v, 1.0)[0])
