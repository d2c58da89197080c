"""A training that runs out of memory reports what takes less, with numbers."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scenewise import create_model
from scenewise.apps.cli import main
from scenewise.models.activation_checkpointing import recompute_backbone
from scenewise.models.cost import estimate
from scenewise.models.segmenter import Segmenter
from scenewise.training.callbacks.memory_advice import _advice

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")

FIT = """fit --data.format scenes --data.scenes_train 8 --data.scenes_val 2 --data.batch_size 4
    --data.num_workers 0 --model.network danet --model.backbone tiny --model.output_stride 8
    --trainer.accelerator cpu --trainer.max_steps 2""".split()  # noqa: SIM905
ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    MemoryError(),
)


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_fit_names_the_batch_and_what_takes_less(
    error: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    low_res = Segmenter.low_res

    def short(self: Segmenter, images: torch.Tensor) -> object:
        if self.training and type(images) is torch.Tensor:  # no estimate's
            raise error
        return low_res(self, images)

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(Segmenter, "low_res", short)
    words = [*FIT, "--data.crop_size", "64", "--trainer.default_root_dir", str(tmp_path)]
    assert main(words) == 2
    message = capsys.readouterr().err
    assert message.count("scenewise: error:") == 1
    assert "out of memory in step 0 with 4 images of 64 x 64, by estimate" in message
    assert "--data.batch_size 2 --trainer.accumulate_grad_batches 2 (" in message
    assert "--data.crop_size 32 (" in message
    assert "--model.output_stride 16" in message
    assert "--model.checkpoint_activations true" in message
    assert "nan" not in message


def test_what_is_advised_takes_less() -> None:
    model = create_model("danet", num_classes=5, backbone="resnet18", pretrained=False)
    message = _advice(model, (4, 512, 384), 3, mixed=False)
    whole, *others = (float(n) for n in re.findall(r"([\d.]+) GiB", message))
    assert len(others) == 3
    assert max(others) < whole
    assert whole == pytest.approx(
        estimate(model, (512, 384), 4, training=True).bytes / 2**30, rel=0.05
    )
    assert "--data.crop_size [256,192]" in message
    assert "--trainer.accumulate_grad_batches 6" in message


def test_small_images_gain_nothing_from_half_precision() -> None:
    """The weights are held twice then."""
    model = create_model("danet", num_classes=5, backbone="resnet18", pretrained=False)
    assert "bf16" not in _advice(model, (2, 64, 64), 1, mixed=False)


def test_recomputed_blocks_need_no_advice() -> None:
    model = create_model("danet", num_classes=5, backbone="tiny")
    recompute_backbone(model.backbone)
    assert "checkpoint_activations" not in _advice(model, (4, 64, 64), 1, mixed=False)


def test_scoring_runs_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = Segmenter.forward

    def short(self: Segmenter, images: torch.Tensor) -> object:
        if not self.training and type(images) is torch.Tensor:
            raise MemoryError
        return forward(self, images)

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(Segmenter, "forward", short)
    assert main([*FIT, "--trainer.default_root_dir", str(tmp_path)]) == 2
    assert "out of memory while scoring" in capsys.readouterr().err


def test_what_is_done_already_is_not_advised() -> None:
    model = create_model(
        "fcn", num_classes=5, backbone="resnet18", pretrained=False, output_stride=16
    )
    message = _advice(model, (2, 128, 128), 1, mixed=True)
    assert "batch_size" not in message
    assert "precision" not in message
    assert "output_stride" not in message
    assert "--data.crop_size 64" in message


LIMITED = """
import re, resource, sys, torch
from pathlib import Path
from lightning.pytorch import Callback
from scenewise.apps.cli import main
from scenewise.training import trainer
torch.set_num_threads(1)

class Limit(Callback):
    def on_train_batch_start(self, *_):
        used = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
        resource.setrlimit(resource.RLIMIT_AS, (used + 150 * 2**20, resource.RLIM_INFINITY))

own = trainer._run_callbacks
trainer._run_callbacks = lambda stage: [*own(stage), Limit()]
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_a_real_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address space of 150 MiB more than is in use: the allocator itself refuses."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = [*FIT, "--data.crop_size", "768", "--trainer.default_root_dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *words], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2, done.stderr
    assert "out of memory in step 0 with 4 images of 768 x 768, by estimate" in done.stderr
    assert "Traceback" not in done.stderr
