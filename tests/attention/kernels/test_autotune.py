"""The choice among implementations of position attention on GPUs; the kernels where a GPU is."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from scenewise.attention import position_attention
from scenewise.attention.kernels import autotune, tiled
from scenewise.attention.kernels.tiled import BackwardInputs

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
    return lambda candidate, inputs: times[candidate]


def test_the_fastest_that_agrees_is_chosen_once() -> None:
    candidates = {"a": double, "b": also_double, "c": wrong, "d": broken}
    times = {double: 3.0, also_double: 2.0, wrong: 1.0, broken: 0.5}
    assert autotune._choose(candidates, (X,), ("key",), timer(times)) == "b"
    times[double] = 0.1
    assert autotune._choose(candidates, (X,), ("key",), timer(times)) == "b"
    assert autotune._choose(candidates, (X,), ("other",), timer(times)) == "a"


class TritonsOwnError(Exception):
    """Like ``triton.runtime.errors.OutOfResources``, which does not derive from RuntimeError."""


def test_a_candidate_that_raises_any_exception_is_dropped() -> None:
    def too_large(x: Tensor) -> tuple[Tensor]:
        raise TritonsOwnError("shared memory")

    candidates = {"a": double, "b": too_large}
    assert autotune._choose(candidates, (X,), ("key",), timer({double: 1.0, too_large: 0.1})) == "a"


@pytest.mark.parametrize("value", [[], [float("nan")], [float("inf")]])
def test_results_that_cannot_be_compared_are_returned_and_not_cached(value: list[float]) -> None:
    candidates, times = {"a": double, "b": also_double}, timer({double: 2.0, also_double: 1.0})
    assert autotune._choose(candidates, (torch.tensor(value),), ("key",), times) == "a"
    assert autotune._choose(candidates, (X,), ("key",), times) == "b"


def test_a_single_candidate_is_not_measured() -> None:
    assert autotune._choose({"a": broken}, (X,), ("key",)) == "a"


def test_the_key_holds_what_a_choice_depends_on() -> None:
    q, k, v = torch.zeros(1, 100, 4), torch.zeros(1, 100, 4), torch.zeros(1, 100, 8)
    keys = {
        autotune._tune_key("forward", q, k, v),
        autotune._tune_key("backward", q, k, v),
        autotune._tune_key("forward", q.half(), k, v),
        autotune._tune_key("forward", q, k, torch.zeros(1, 100, 9)),
        autotune._tune_key("forward", torch.zeros(1, 200, 4), k, v),
    }
    assert len(keys) == 5
    assert autotune._tune_key("forward", torch.zeros(1, 120, 4), k, v) in keys


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-4), (torch.float16, 2**-6), (torch.bfloat16, 2**-6)]
)
def test_agreement_is_an_error_within_the_bound_of_the_largest_number(
    dtype: torch.dtype, bound: float
) -> None:
    expected = torch.tensor([-4.0, 0.0, 1.0], dtype=dtype)
    assert autotune._agree(expected.float() + torch.tensor([0, 3.9 * bound, 0]), expected)
    assert not autotune._agree(expected.float() - torch.tensor([0, 4.1 * bound, 0]), expected)
    assert autotune._agree(torch.zeros(2), torch.zeros(2, dtype=dtype))
    if dtype != torch.float32:
        assert autotune._agree(torch.tensor([1 + bound]), torch.ones(1, dtype=dtype))
    assert not autotune._agree(torch.full((2,), 1e-20), torch.zeros(2, dtype=dtype))


def test_a_time_is_the_median_of_three_synchronised_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events, clock = [], iter([0.0, 9.0, 20.0, 21.0, 30.0, 32.0])

    def now() -> float:
        events.append("clock")
        return next(clock)

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: events.append("wait"))
    monkeypatch.setattr("scenewise.attention.kernels.autotune.time.perf_counter", now)
    assert autotune._median_seconds(lambda a, b: events.append(a + b), ("ca", "ll")) == 2.0
    assert events == ["wait", "clock", "call", "wait", "clock"] * 3


class Chosen(Exception):
    """Ends a call at its choice, with the candidates."""


def offered(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> tuple[str, list[str]]:
    """The step and the candidates of ``call`` on a GPU with Triton."""

    def choose(candidates: dict[str, object], inputs: object, key: tuple[str, ...]) -> str:
        raise Chosen(key[0], list(candidates))

    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "device", lambda _: nullcontext())
        patched.setattr(autotune, "_choose", choose)
        with pytest.raises(Chosen) as raised:
            call()
    return raised.value.args  # type: ignore[return-value]


@pytest.mark.parametrize("deterministic", [False, True])
def test_float64_and_deterministic_runs_leave_kernels_out(
    monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    inputs = [torch.randn(1, 3, c) for c in (2, 2, 4)]
    out, log_sum = tiled.attend(*inputs, 1.0)
    triton = ["triton"] if find_spec("triton") else []
    torch.use_deterministic_algorithms(deterministic)
    try:
        forward = offered(monkeypatch, lambda: autotune.attend(*inputs, 1.0))
        inputs_back = BackwardInputs(out, *inputs, out, log_sum, 1.0)
        backward = offered(monkeypatch, lambda: autotune.attend_backward(inputs_back))
        assert forward == ("forward", ["tiles", "efficient", *triton])
        atomic = [] if deterministic else ["efficient"]
        assert backward == ("backward", ["tiles", *atomic, *triton])
        for wide in range(3):
            mixed = [x.double() if i == wide else x for i, x in enumerate(inputs)]
            mixed_back = BackwardInputs(out, *mixed, out, log_sum, 1.0)
            calls = (
                partial(autotune.attend, *mixed, 1.0),
                partial(autotune.attend_backward, mixed_back),
            )
            assert [offered(monkeypatch, call)[1] for call in calls] == [["tiles"]] * 2
    finally:
        torch.use_deterministic_algorithms(False)


def test_what_was_chosen_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the tiles chosen as on a GPU: same inputs, results and order as the tiles."""
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(autotune, "_choose", lambda candidates, inputs, key: "tiles")
    q, k, v, grad = (torch.randn(1, n, c) for n, c in ((3, 2), (5, 2), (5, 4), (3, 4)))
    out, log_sum = autotune.attend(q, k, v, 0.5)
    assert_close((out, log_sum), tiled.attend(q, k, v, 0.5))
    inputs = BackwardInputs(grad, q, k, v, out, log_sum, 0.5)
    assert_close(autotune.attend_backward(inputs), tiled.attend_backward(inputs))


def test_each_step_and_each_number_of_a_key() -> None:
    q, k, v = torch.zeros(3, 100, 4), torch.zeros(3, 17, 4), torch.zeros(3, 17, 9)
    cpu = torch.device("cpu")
    assert autotune._tune_key("f", q, k, v) == ("f", cpu, torch.float32, False, 4, 9, 2, 7, 5)


def gpu_inputs(dtype: torch.dtype) -> list[Tensor]:
    return [torch.randn(2, 1000, c, device="cuda", dtype=dtype) for c in (64, 64, 512)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gpu_equals_cpu_with_gradients(dtype: torch.dtype) -> None:
    inputs = [x.requires_grad_() for x in gpu_inputs(dtype)]
    exact = [x.detach().double().cpu().requires_grad_() for x in inputs]
    out, expected = (position_attention(*x, scale=0.125) for x in (inputs, exact))
    assert autotune._agree(out.cpu(), expected.to(dtype))
    grad = torch.randn_like(out)
    gradients = torch.autograd.grad(out, inputs, grad)
    exact_gradients = torch.autograd.grad(expected, exact, grad.double().cpu())
    for a, b in zip(gradients, exact_gradients, strict=True):
        assert autotune._agree(a.cpu(), b.to(dtype))


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


def test_a_cpu_computes_the_tiles() -> None:
    q, k, v = (torch.randn(2, 9, c) for c in (3, 3, 5))
    assert_close(position_attention(q, k, v), tiled.attend(q, k, v, 1.0)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 3, 8, 10])
def test_the_efficient_kernel_reads_aligned_rows(dtype: torch.dtype, channels: int) -> None:
    flat = torch.arange(1.0, 2 * 5 * channels + 2).to(dtype)
    for x in (flat[:-1], flat[1:]):  # the second starts between two multiples of 16 bytes
        x = x.view(2, 5, channels)
        result = autotune._aligned(x)
        rows = [result[b, 0, n].data_ptr() for b in range(2) for n in range(5)]
        assert all(address % 16 == 0 for address in rows)
        assert result.stride(-1) == 1
        assert torch.equal(result[:, 0, :, :channels], x)
        assert not result[:, 0, :, channels:].any()


def test_the_efficient_kernel_is_given_padded_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernel replaced by the formula: what was padded is cut off again."""

    def forward(q: Tensor, k: Tensor, v: Tensor, *_: object, scale: float) -> tuple[Tensor, Tensor]:
        assert all(x.shape[-1] % 4 == 0 for x in (q, k, v))
        scores = scale * q @ k.mT
        log_sum = F.pad(scores.logsumexp(-1), (0, -q.shape[2] % 32))
        return scores.softmax(-1) @ v, log_sum

    def backward(
        g: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: None, o: Tensor, log_sum: Tensor,
        *_: object, scale: float,
    ) -> tuple[Tensor, Tensor, Tensor, None]:  # fmt: skip
        inputs = (g, q, k, v, o)
        assert all(x.shape[-1] % 4 == 0 for x in inputs)
        *rows, sums = (x[:, 0] for x in (*inputs, log_sum[..., : q.shape[2]]))
        d = tiled.attend_backward(BackwardInputs(*rows, sums, scale))
        return d[0][:, None], d[1][:, None], d[2][:, None], None

    aten = SimpleNamespace(
        _scaled_dot_product_efficient_attention=forward,
        _scaled_dot_product_efficient_attention_backward=backward,
    )
    q, k, v, g = (torch.randn(2, n, c) for n, c in ((7, 5), (11, 5), (11, 10), (7, 10)))
    expected, log_sum = tiled.attend(q, k, v, 0.3)
    inputs = BackwardInputs(g, q, k, v, expected, log_sum, 0.3)
    expected_gradients = tiled.attend_backward(inputs)
    monkeypatch.setattr(torch, "ops", SimpleNamespace(aten=aten))
    assert_close(autotune._efficient(q, k, v, 0.3), (expected, log_sum))
    assert_close(autotune._efficient_backward(inputs), expected_gradients)
