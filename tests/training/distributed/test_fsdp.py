"""Sharded weights train as unsharded ones do."""

import copy
import shlex
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from scenewise.apps.cli import main
from scenewise.models import Segmenter, create_model
from scenewise.training.distributed import full_tensor
from scenewise.training.distributed.fsdp import shard
from tests.training.distributed.test_processes import SCENES, replace, torchrun

PROCESSES = 4
MESHES = {"fsdp": ((4,), ("shard",)), "hsdp": ((2, 2), ("replicate", "shard"))}


def network() -> Segmenter:
    torch.manual_seed(0)
    model = create_model("danet", num_classes=3, backbone="tiny", pretrained=False).double()
    replace(model, normed=False)
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            nn.init.constant_(parameter, 0.3)
    return model


def steps(model: Segmenter, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients of two steps of SGD with momentum, and the weights after them."""
    actual = {}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(2):
        optimizer.zero_grad()
        out = model(images)
        (out.logits.square().mean() + sum(x.mean() for x in out.auxiliary.values())).backward()
        named = [(n, p.grad) for n, p in model.named_parameters() if p.grad is not None]
        actual |= {f"{step}/{name}": full_tensor(grad).clone() for name, grad in named}
        optimizer.step()
    return actual | {name: full_tensor(p.detach()) for name, p in model.named_parameters()}


def images() -> torch.Tensor:
    return torch.randn(PROCESSES, 3, 24, 40, generator=torch.Generator().manual_seed(1)).double()


def test_sharded_weights_take_the_steps_of_unsharded_ones(tmp_path: Path) -> None:
    torchrun(PROCESSES, "-m", "tests.training.distributed.test_fsdp", str(tmp_path))
    expected = steps(network(), images())
    for name in MESHES:
        actual = torch.load(tmp_path / name, weights_only=True)
        assert actual.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(actual[key], value, rtol=1e-6, atol=1e-12)


def test_a_sharded_training_is_resumed_where_it_stopped(tmp_path: Path) -> None:
    """Checkpoints are complete files, as of one process, and are sharded again when read."""
    words = ["-m", "scenewise", "fit", "--name", "run", "--trainer.strategy", "fsdp2"]
    words += [*shlex.split(SCENES), "--data.scenes_val", "4", "--trainer.devices", "2"]
    words += ["--trainer.default_root_dir", str(tmp_path), "--model.network", "danet"]
    words += ["--model.backbone", "tiny", "--trainer.max_steps"]
    last = tmp_path / "run" / "version_0" / "checkpoints" / "last.ckpt"
    torchrun(2, *words, "1")
    first = torch.load(last, weights_only=False)
    torchrun(2, *words, "3", "--ckpt_path", "last")
    second = torch.load(last, weights_only=False)
    assert (first["global_step"], second["global_step"]) == (1, 3)
    for name, value in second["state_dict"].items():
        assert type(value) is torch.Tensor
        assert value.shape == first["state_dict"][name].shape
        if name.endswith("num_batches_tracked"):  # of batch norms, which are not sharded
            assert (first["state_dict"][name].item(), value.item()) == (1, 3)


def test_no_moving_average_of_sharded_weights(capsys: pytest.CaptureFixture[str]) -> None:
    words = f"fit {SCENES} --model.backbone tiny --trainer.strategy fsdp2 --ema 0.9"
    assert main(words.split()) == 2
    assert (
        "--ema cannot be used with --trainer.strategy fsdp2; leave one out"
        in capsys.readouterr().err
    )


def sharded(folder: Path) -> None:
    """What one of the processes does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    plain, mine = network(), images()[dist.get_rank()][None]
    for name, (shape, axes) in MESHES.items():
        model = copy.deepcopy(plain)
        shard(model, init_device_mesh("cpu", shape, mesh_dim_names=axes))
        assert all(isinstance(p, DTensor) for p in model.parameters())
        shares = [p.to_local().numel() for p in model.parameters()]
        total = sum(p.numel() for p in plain.parameters())
        assert sum(shares) < total / shape[-1] + 64 * len(shares)
        actual = steps(model, mine)
        if dist.get_rank() == 0:
            torch.save(actual, folder / name)
    dist.destroy_process_group()


if __name__ == "__main__":
    sharded(Path(sys.argv[1]))
