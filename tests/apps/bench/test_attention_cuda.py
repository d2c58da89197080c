"""``scenewise bench attention_cuda``, with a fake clock so that it runs without a GPU."""

import pytest
import torch

from bench import __main__ as document
from scenewise.apps.bench import attention_cuda
from scenewise.apps.bench.attention_cuda import CHANNELS, INNER
from scenewise.apps.bench.measure import Run
from scenewise.apps.cli import main

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA GPU is available")
ONLY_ON_GPUS = {"efficient", "triton"}


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_PIXELS": (37,), "_DTYPES": (torch.float32,), "_PRODUCT": 8}.items():
        monkeypatch.setattr(attention_cuda, name, value)


def half_a_second(run: Run, repeats: int) -> tuple[float, int]:
    run()
    return 0.5, 3_000_000


@pytest.mark.usefixtures("_small")
def test_rows_have_the_rate_and_name_variants_that_cannot_run() -> None:
    table = list(attention_cuda._measure(torch.device("cpu"), half_a_second, 1))
    forward, backward = table[: len(table) // 2], table[len(table) // 2 :]
    for rows, times in ((forward, 1), (backward, 3)):
        ran = {row.variant: row for row in rows if row.seconds is not None}
        assert set(ran) == {"dense", "tiles"}
        failed = {row.variant.split(": ")[0] for row in rows if row.seconds is None}
        assert failed == {
            name for name in ONLY_ON_GPUS if name in attention_cuda._variants([], backward=False)
        }
        operations = times * 2 * 37**2 * (INNER + CHANNELS)
        assert ran["tiles"].tflops == pytest.approx(operations / 0.5 / 1e12)
        assert ran["tiles"].rate_share == pytest.approx(operations / (2 * 8**3))
        assert ran["tiles"].megabytes == 3


def test_variants_compute_the_same_gradients() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(1, 9, c, dtype=torch.float64) for c in (3, 3, 5)]
    for backward in (False, True):
        runs = attention_cuda._variants(inputs, backward=backward)
        torch.testing.assert_close(runs["tiles"](), runs["dense"]())


@no_gpu
def test_without_a_gpu_it_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "attention_cuda"]) == 2
    error = capsys.readouterr().err
    assert "no CUDA GPU found" in error
    assert "Traceback" not in error


@no_gpu
def test_the_document_says_that_it_was_not_measured() -> None:
    text = document.section("attention_cuda", 1)
    assert "Not measured: no CUDA GPU found" in text
