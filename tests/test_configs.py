"""Every file in configs/ runs a step on a tiny dataset of its format, and builds its network."""

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from scenewise.apps.cli import main
from scenewise.classes import VOC
from scenewise.models import create_model
from scenewise.training.callbacks import figures, run_folder
from tests.data.formats.trees import ids, write_image, write_label, write_lines
from tests.data.trees import write_tree

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
NAMES = [str(path.relative_to(ROOT / "configs").with_suffix("")) for path in CONFIGS]
SIZE = (40, 56)
STAND_INS = {  # of the same structure, with few parameters
    "resnet": "test_resnet",
    "convnext": "test_convnext",
    "vit_small_patch14_dinov2": "test_vit",
    "vit_small_patch16_dinov3": "eva02_tiny_patch14_224",  # timm has both in one class
    "eva02_small": "eva02_tiny_patch14_224",
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]
each_config = pytest.mark.parametrize("config", CONFIGS, ids=NAMES)


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training images and one validation image in every published format, and in folders."""
    root = tmp_path_factory.mktemp("trees")
    write_tree(root / "folder", train=2, val=1, size=SIZE)
    for number, split in enumerate(("train", "train", "val")):
        _write_published(root, split, f"p{number}")
    for name in ("voc_aug/VOCdevkit/VOC2012", "pascal_context/VOCdevkit/VOC2010"):
        folder = "Main" if "2010" in name else "Segmentation"
        for split, names in (("train", ["p0", "p1"]), ("val", ["p2"]), ("train_aug", ["p0", "p1"])):
            write_lines(root / name / f"ImageSets/{folder}/{split}.txt", names)
    return root


def _write_published(root: Path, split: str, name: str) -> None:
    city = root / "cityscapes"
    write_image(city / f"leftImg8bit/{split}/a/{name}_leftImg8bit.png", SIZE)
    write_label(city / f"gtFine/{split}/a/{name}_gtFine_labelIds.png", ids(range(34), SIZE))
    voc = root / "voc_aug/VOCdevkit/VOC2012"
    write_image(voc / f"JPEGImages/{name}.jpg", SIZE)
    for folder in ("SegmentationClass", "SegmentationClassAug"):
        write_label(voc / folder / f"{name}.png", ids(range(21), SIZE), VOC.palette())
    context = root / "pascal_context/VOCdevkit/VOC2010"
    write_image(context / f"JPEGImages/{name}.jpg", SIZE)
    write_label(context / f"SegmentationClassContext/{name}.png", ids(range(60), SIZE))
    stuff = root / "coco_stuff"
    write_image(stuff / f"images/{split}2017/{name}.jpg", SIZE)
    write_label(
        stuff / f"annotations/{split}2017/{name}.png", ids([0, 17, 91, 156, 181, 255], SIZE)
    )
    part = {"train": "training", "val": "validation"}[split]
    write_image(root / f"ade20k/images/{part}/{name}.jpg", SIZE)
    write_label(root / f"ade20k/annotations/{part}/{name}.png", ids(range(151), SIZE))


@each_config
def test_config_runs_one_step(
    config: Path, tmp_path: Path, trees: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (run_folder, figures):  # drawing 171 classes takes longer than the step
        monkeypatch.setattr(module, "save_figure", lambda figure, path: None)
    settings = yaml.safe_load(config.read_text())
    small: dict[str, Any] = {
        "trainer.default_root_dir": tmp_path,
        "trainer.max_steps": 1,
        "trainer.max_epochs": 1,
        "trainer.val_check_interval": 1,
        "trainer.check_val_every_n_epoch": 1,
        "trainer.accelerator": "cpu",
        "data.crop_size": "[33,41]",
        "data.batch_size": 2,
        "data.num_workers": 0,
        "model.pretrained": "false",
    }
    if settings["data"]["format"] == "scenes":
        small |= {"data.scenes_size": "[32,96]", "data.scenes_train": 2, "data.scenes_val": 1}
        small["data.crop_size"] = "[32,96]"
    else:
        layout = settings["data"]["format"]
        small["data.root"] = trees / ("folder" if layout == "auto" else layout)
    for family, stand_in in STAND_INS.items():
        if settings["model"]["backbone"].startswith(family):
            small["model.backbone"] = stand_in
    if "freeze" in settings["model"]:  # random features are refused
        small["model.backbone_weights"] = tmp_path / "weights.safetensors"
        whole = timm.create_model(small["model.backbone"])
        save_file(whole.state_dict(), small["model.backbone_weights"])
    words = [f"--{name}={value}" for name, value in small.items()]
    assert main(["fit", "--config", str(config), *words]) == 0
    run = next(tmp_path.glob("*/version_0"))
    assert (run / "model.safetensors").is_file()
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert written["model"]["network"] == settings["model"]["network"]


@each_config
def test_config_builds_its_network(config: Path) -> None:
    """At full size, on the meta device: no memory for its weights."""
    model = yaml.safe_load(config.read_text())["model"]
    shared = ("network", "variant", "backbone", "output_stride", "multi_grid", "auxiliary")
    options = {name: model[name] for name in shared if name in model} | model.get("head", {})
    with torch.device("meta"):
        network = create_model(options.pop("network"), num_classes=19, pretrained=False, **options)
    weights = sum(p.numel() for p in network.parameters())
    small = ("tiny", "mobilenetv2_100", "tf_efficientnet_lite0")
    assert (weights > 30e6) == (model["backbone"] not in small)


@each_config
def test_config_is_complete_and_described(config: Path) -> None:
    text = config.read_text()
    settings = yaml.safe_load(text)
    assert text.startswith("# ")
    assert {"trainer", "data", "model"} <= set(settings)
    assert {"network", "backbone", "lr"} <= set(settings["model"])
    if config.parent.name == "configs":
        return
    assert f"\n# scenewise fit --config {config.relative_to(ROOT)} --data.root DIR\n" in text
    if config.parent.name == "few_images":
        assert "\n# Sources: " in text
        return
    assert settings["data"]["format"] == config.parent.name
    for part in ("Aims at", "Scored by", "Differs", "Batch"):
        assert f"\n# {part}: " in text


@each_config
def test_config_is_in_the_table_with_its_score(config: Path) -> None:
    link = f"](../{config.relative_to(ROOT)}) |"
    rows = [row for row in (ROOT / "docs" / "recipes.md").read_text().splitlines() if link in row]
    assert len(rows) == 1
    if aim := re.search(r"# Aims at: ([\d.]+) mIoU", config.read_text()):
        assert f"| {aim[1]}" in rows[0]


@each_config
def test_config_depends_on_no_default_recipe(config: Path) -> None:
    """Defaults for people's own images may change; a recipe may not change with them."""
    settings = yaml.safe_load(config.read_text())
    model = settings["model"]
    assert {"optimizer", "lr", "head_multiplier", "weight_decay", "output_stride"} <= set(model)
    if model["optimizer"] == "adamw":
        assert {"loss", "warmup", "class_weights"} <= set(model)
    assert {"max_steps", "max_epochs"} & set(settings["trainer"])
    if config.stem != "one_hour":
        assert settings["trainer"]["precision"] == "32-true"
