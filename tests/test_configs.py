"""Every experiment in configs/ runs one step, on generated scenes instead of its data."""

from pathlib import Path

import pytest
import yaml

from scenewise.apps.cli import main

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_config_runs_one_step(config: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load(config.read_text())
    small = {
        "trainer.default_root_dir": tmp_path,
        "trainer.max_steps": 1,
        "trainer.val_check_interval": 1,
        "trainer.limit_val_batches": 1,
        "trainer.accelerator": "cpu",
        "data.format": "scenes",
        "data.scenes_size": "[32,96]",
        "data.scenes_train": 4,
        "data.scenes_val": 1,
        "data.crop_size": "[32,96]",
        "data.batch_size": 2,
        "data.num_workers": 0,
        "model.pretrained": "false",
    }
    words = [f"--{name}={value}" for name, value in small.items()]
    assert main(["fit", "--config", str(config), *words]) == 0
    run = next(tmp_path.glob("*/version_0"))
    assert (run / "model.safetensors").is_file()
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert written["model"]["network"] == settings["model"]["network"]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_config_is_whole_and_says_what_it_is(config: Path) -> None:
    text = config.read_text()
    settings = yaml.safe_load(text)
    assert text.startswith("# ")
    assert {"trainer", "data", "model"} <= set(settings)
    assert {"network", "backbone", "lr"} <= set(settings["model"])
