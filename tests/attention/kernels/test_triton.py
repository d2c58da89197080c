"""The Triton kernels, run by Triton's interpreter where there is no GPU."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from scenewise.attention.kernels.tiled import BackwardInputs

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")

SHAPES = [(2, 67, 83, 5, 7), (1, 130, 70, 64, 300), (3, 1, 65, 16, 128), (1, 64, 64, 8, 8)]


def dense(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return torch.softmax(scale * query @ key.transpose(1, 2), dim=-1) @ value


def error(
    dtype: torch.dtype, shape: tuple[int, ...], scale: float, device: str
) -> dict[str, float]:
    """Largest errors of output, log-sum and gradients over the largest number of each."""
    from scenewise.attention.kernels import triton

    batch, queries, keys, inner, channels = shape
    sizes = ((queries, inner), (keys, inner), (keys, channels), (queries, channels))
    inputs = [torch.randn(batch, n, c).to(dtype).to(device) for n, c in sizes]
    exact = [x.double().requires_grad_() for x in inputs]
    out, log_sum = triton.attend(*inputs[:3], scale)
    expected = dense(*exact[:3], scale)
    energies = scale * exact[0] @ exact[1].transpose(1, 2)
    gradients = triton.attend_backward(BackwardInputs(inputs[3], *inputs[:3], out, log_sum, scale))
    exact_gradients = torch.autograd.grad(expected, exact[:3], exact[3])
    assert [x.dtype for x in (out, log_sum)] == [dtype, torch.float32]
    assert [x.dtype for x in gradients] == [dtype] * 3
    pairs = {"out": (out, expected), "log_sum": (log_sum, energies.logsumexp(-1))}
    pairs |= {f"d{i}": pair for i, pair in enumerate(zip(gradients, exact_gradients, strict=True))}
    return {
        name: float((a.double() - b).abs().max() / b.abs().max()) for name, (a, b) in pairs.items()
    }


def _skip_an_old_interpreter(errors: str) -> None:
    """Triton 3.6's interpreter stops at NumPy 2.4, whatever the kernel."""
    if "TypeError('only 0-dimensional arrays can be converted to Python scalars')" in errors:
        pytest.skip("this Triton's interpreter does not run with this NumPy")


def test_interpreted_kernels_equal_the_dense_formula() -> None:
    """In a subprocess: the interpreter is chosen when Triton is imported."""
    code = (
        "import os; os.environ['TRITON_INTERPRET'] = '1'\n"
        "import json, torch; torch.manual_seed(0); torch.set_num_threads(1)\n"
        "from tests.attention.kernels.test_triton import SHAPES, error\n"
        "print(json.dumps([error(d, s, c, 'cpu') for d, c in ((torch.float32, 1.0), "
        "(torch.float32, 0.3), (torch.float16, 0.3)) for s in SHAPES] + "
        "[error(torch.float32, SHAPES[1], 10.0, 'cpu')]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    _skip_an_old_interpreter(done.stderr)
    assert done.returncode == 0, done.stderr
    *near, far = json.loads(done.stdout.splitlines()[-1])
    # energies to 320: the largest of one row is e^100 times that of another
    assert all(value < 4 * 320 * 2**-24 for value in far.values()), far
    assert len(near) == 3 * len(SHAPES)
    for number, errors in enumerate(near):
        # float32: four roundings of an energy of 32; float16: two roundings of the result
        bound = 4 * 32 * 2**-24 if number < 2 * len(SHAPES) else 2**-9
        assert all(value < bound for value in errors.values()), errors


def test_programs_and_tiles_are_as_few_and_small_as_the_inputs_allow() -> None:
    from scenewise.attention.kernels import triton

    blocks = [triton._blocks(length, 64) for length in (1, 63, 64, 65, 128, 129)]
    assert blocks == [1, 1, 1, 2, 2, 3]
    value = torch.empty(1, 7, 300)
    for inner, padded in ((1, 16), (16, 16), (17, 32), (32, 32), (33, 64), (64, 64), (100, 128)):
        sizes = triton._sizes(torch.empty(1, 5, inner), value)
        assert (sizes["D"], sizes["C"], sizes["PADDED"]) == (inner, 300, padded)


def upcast_interpreted_dots() -> None:
    """Triton's interpreter multiplies bfloat16 as the integers that hold its bits; upcast them.

    Products of two bfloat16 are exact in float32, so this is what a GPU computes.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    plain = builder.create_dot

    def create_dot(self, a, b, *rest):  # type: ignore[no-untyped-def]
        wide = [self.cast_impl(x, tl.float32) if x.dtype == tl.bfloat16 else x for x in (a, b)]
        return plain(self, *wide, *rest)

    builder.create_dot = create_dot


def test_interpreted_bfloat16_equals_the_dense_formula() -> None:
    code = (
        "import os; os.environ['TRITON_INTERPRET'] = '1'\n"
        "import json, torch; torch.manual_seed(0); torch.set_num_threads(1)\n"
        "from tests.attention.kernels.test_triton import SHAPES, error, upcast_interpreted_dots\n"
        "upcast_interpreted_dots()\n"
        "print(json.dumps([error(torch.bfloat16, s, 0.3, 'cpu') for s in SHAPES]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    _skip_an_old_interpreter(done.stderr)
    assert done.returncode == 0, done.stderr
    for errors in json.loads(done.stdout.splitlines()[-1]):
        # rounded twice to 8 bits, a weight and the result; the interpreter rounds towards zero
        assert all(value < 2 * 2**-7 for value in errors.values()), errors


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [*SHAPES, (1, 4099, 4097, 64, 512)])
def test_compiled_kernels_equal_the_dense_formula(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    bound = {torch.float32: 1e-5, torch.float16: 2**-9, torch.bfloat16: 2**-6}[dtype]
    assert all(value < bound for value in error(dtype, shape, 0.3, "cuda").values())
