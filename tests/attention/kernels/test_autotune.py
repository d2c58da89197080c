"""The choice among the forms of position attention on GPUs; the forms themselves where one is."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from scenewise.attention import position_attention
from scenewise.attention.kernels import autotune, tiled

X = torch.ones(3)


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "_chosen", {})


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
    assert autotune.choose(ways, (X,), ("kind",), timer(times)) == "b"
    times[double] = 0.1
    assert autotune.choose(ways, (X,), ("kind",), timer(times)) == "b"
    assert autotune.choose(ways, (X,), ("other",), timer(times)) == "a"


class TritonsOwnError(Exception):
    """Like ``triton.runtime.errors.OutOfResources``, which is no RuntimeError."""


def test_a_way_that_fails_in_any_manner_is_left_out() -> None:
    def too_large(x: Tensor) -> tuple[Tensor]:
        raise TritonsOwnError("shared memory")

    ways = {"a": double, "b": too_large}
    assert autotune.choose(ways, (X,), ("kind",), timer({double: 1.0, too_large: 0.1})) == "a"


@pytest.mark.parametrize("value", [[], [float("nan")], [float("inf")]])
def test_what_agrees_with_nothing_is_computed_and_not_remembered(value: list[float]) -> None:
    ways, times = {"a": double, "b": also_double}, timer({double: 2.0, also_double: 1.0})
    assert autotune.choose(ways, (torch.tensor(value),), ("kind",), times) == "a"
    assert autotune.choose(ways, (X,), ("kind",), times) == "b"


def test_one_way_needs_no_measuring() -> None:
    assert autotune.choose({"a": broken}, (X,), ("kind",)) == "a"


def test_kinds_tell_what_a_choice_depends_on() -> None:
    q, k, v = torch.zeros(1, 100, 4), torch.zeros(1, 100, 4), torch.zeros(1, 100, 8)
    kinds = {
        autotune.kind_of("forward", q, k, v),
        autotune.kind_of("backward", q, k, v),
        autotune.kind_of("forward", q.half(), k, v),
        autotune.kind_of("forward", q, k, torch.zeros(1, 100, 9)),
        autotune.kind_of("forward", torch.zeros(1, 200, 4), k, v),
    }
    assert len(kinds) == 5
    assert autotune.kind_of("forward", torch.zeros(1, 120, 4), k, v) in kinds


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-4), (torch.float16, 2**-6), (torch.bfloat16, 2**-6)]
)
def test_agreement_is_an_error_within_the_bound_of_the_largest_number(
    dtype: torch.dtype, bound: float
) -> None:
    expected = torch.tensor([-4.0, 0.0, 1.0], dtype=dtype)
    assert autotune.agree(expected.float() + torch.tensor([0, 3.9 * bound, 0]), expected)
    assert not autotune.agree(expected.float() - torch.tensor([0, 4.1 * bound, 0]), expected)
    assert autotune.agree(torch.zeros(2), torch.zeros(2, dtype=dtype))
    if dtype != torch.float32:
        assert autotune.agree(torch.tensor([1 + bound]), torch.ones(1, dtype=dtype))
    assert not autotune.agree(torch.full((2,), 1e-20), torch.zeros(2, dtype=dtype))


def test_a_time_is_the_median_of_three_with_nothing_left_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events, clock = [], iter([0.0, 9.0, 20.0, 21.0, 30.0, 32.0])

    def now() -> float:
        events.append("clock")
        return next(clock)

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: events.append("wait"))
    monkeypatch.setattr("scenewise.attention.kernels.autotune.time.perf_counter", now)
    assert autotune.measured(lambda a, b: events.append(a + b), ("ca", "ll")) == 2.0
    assert events == ["wait", "clock", "call", "wait", "clock"] * 3


class Chosen(Exception):
    """Ends a call at its choice, with what there was to choose from."""


def offered(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> tuple[str, list[str]]:
    """The step and the names of the ways that ``call`` may choose from on a GPU with Triton."""

    def choose(ways: dict[str, object], inputs: object, kind: tuple[str, ...]) -> str:
        raise Chosen(kind[0], list(ways))

    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "device", lambda _: nullcontext())
        patched.setattr(autotune, "choose", choose)
        with pytest.raises(Chosen) as told:
            call()
    return told.value.args  # type: ignore[return-value]


@pytest.mark.parametrize("deterministic", [False, True])
def test_kernels_are_no_way_for_float64_and_some_not_for_equal_runs(
    monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    inputs = [torch.randn(1, 3, c) for c in (2, 2, 4)]
    out, log_sum = tiled.attend(*inputs, 1.0)
    triton = ["triton"] if find_spec("triton") else []
    torch.use_deterministic_algorithms(deterministic)
    try:
        forward = offered(monkeypatch, lambda: autotune.attend(*inputs, 1.0))
        backward = offered(
            monkeypatch, lambda: autotune.attend_backward(out, *inputs, out, log_sum, 1.0)
        )
        assert forward == ("forward", ["tiles", "efficient", *triton])
        atomic = [] if deterministic else ["efficient"]
        assert backward == ("backward", ["tiles", *atomic, *triton])
        for wide in range(3):
            mixed = [x.double() if i == wide else x for i, x in enumerate(inputs)]
            calls = (partial(autotune.attend, *mixed, 1.0),
                     partial(autotune.attend_backward, out, *mixed, out, log_sum, 1.0))  # fmt: skip
            assert [offered(monkeypatch, call)[1] for call in calls] == [["tiles"]] * 2
    finally:
        torch.use_deterministic_algorithms(False)


def test_what_was_chosen_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiled, chosen as on a GPU; inputs, results and their order are those of the tiled."""
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(autotune, "choose", lambda ways, inputs, kind: "tiles")
    q, k, v, grad = (torch.randn(1, n, c) for n, c in ((3, 2), (5, 2), (5, 4), (3, 4)))
    out, log_sum = autotune.attend(q, k, v, 0.5)
    assert_close((out, log_sum), tiled.attend(q, k, v, 0.5))
    inputs = (grad, q, k, v, out, log_sum, 0.5)
    assert_close(autotune.attend_backward(*inputs), tiled.attend_backward(*inputs))


def test_each_step_and_each_number_of_a_kind() -> None:
    q, k, v = torch.zeros(3, 100, 4), torch.zeros(3, 17, 4), torch.zeros(3, 17, 9)
    cpu = torch.device("cpu")
    assert autotune.kind_of("f", q, k, v) == ("f", cpu, torch.float32, False, 4, 9, 2, 7, 5)


def gpu_inputs(dtype: torch.dtype) -> list[Tensor]:
    return [torch.randn(2, 1000, c, device="cuda", dtype=dtype) for c in (64, 64, 512)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gpu_equals_cpu_with_gradients(dtype: torch.dtype) -> None:
    inputs = [x.requires_grad_() for x in gpu_inputs(dtype)]
    exact = [x.detach().double().cpu().requires_grad_() for x in inputs]
    out, expected = (position_attention(*x, scale=0.125) for x in (inputs, exact))
    assert autotune.agree(out.cpu(), expected.to(dtype))
    grad = torch.randn_like(out)
    ours = torch.autograd.grad(out, inputs, grad)
    theirs = torch.autograd.grad(expected, exact, grad.double().cpu())
    for a, b in zip(ours, theirs, strict=True):
        assert autotune.agree(a.cpu(), b.to(dtype))


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
    assert_close(position_attention(q, k, v), tiled.attend(q, k, v, 1.0)[0])
