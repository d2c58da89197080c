"""Custom contexts, from a YAML file alone."""

import json
from pathlib import Path

import pytest
import yaml

from scenewise.apps.cli import main

BLOCK = """
from torch import nn

class Sharpen(nn.Module):
    def __init__(self, channels, strength=1.0):
        super().__init__()
        self.blur = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.strength = strength

    def forward(self, x):
        return x + self.strength * (x - self.blur(x))
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two steps of a chain whose first context is a module beside the YAML file."""
    (tmp_path / "outside_block.py").write_text(BLOCK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    own = {"class_path": "outside_block.Sharpen", "init_args": {"channels": 64, "strength": 0.5}}
    content = {
        "trainer": {"max_steps": 2, "val_check_interval": 2, "accelerator": "cpu"},
        "data": {
            "format": "scenes",
            "scenes_size": [32, 96],
            "scenes_train": 4,
            "scenes_val": 1,
            "batch_size": 2,
            "num_workers": 0,
        },
        "model": {
            "network": "chain",
            "backbone": "tiny",
            "head": {"contexts": [own, "dual_attention"]},
        },
        "name": "own",
    }
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_block_from_outside_trains_and_is_tested(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", str(config)]) == 0
    run = next(config.parent.glob("runs/own/*"))
    assert json.loads((run / "config.json").read_text())["model"] is None
    last = run / "checkpoints" / "last.ckpt"
    assert main(["test", "--config", str(run / "config.yaml"), "--ckpt_path", str(last)]) == 0
    assert main(["predict", str(config), "--model", str(run), "--out", "labels"]) == 2
    assert "a network with custom parts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("right", "wrong"), [("Sharpen", "Blunt"), ("strength", "strngth"), ("outside", "elsewhere")]
)
def test_a_block_that_cannot_be_built_is_reported(
    right: str, wrong: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(config.read_text().replace(right, wrong))
    assert main(["fit", "--config", str(config)]) == 2
    assert "cannot be built; check that it is a torch module," in capsys.readouterr().err
