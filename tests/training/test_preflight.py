from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise.data import SegmentationData
from scenewise.errors import UserError
from scenewise.memory import free_bytes
from scenewise.models import create_model
from scenewise.models.cost import product_rate
from scenewise.training.preflight import check_labels, crop_note, licence_note
from tests.data.trees import write_tree

CPU = torch.device("cpu")


def scenes() -> SegmentationData:
    data = SegmentationData(format="scenes", scenes_size=(32, 96), batch_size=2)
    data.setup("fit")
    return data


def test_rates_and_free_memory_are_plausible() -> None:
    assert 1e8 < product_rate(CPU, size=128) < 1e15
    free = free_bytes(CPU)
    assert free is None or 1e7 < free < 1e15


def test_labels_of_a_folder_are_looked_at(tmp_path: Path) -> None:
    write_tree(tmp_path)
    [line] = check_labels(SegmentationData(root=str(tmp_path)))
    assert line.startswith("classes in 5 images: sky ")
    mask = next((tmp_path / "masks" / "val").iterdir())
    wrong = np.array(Image.open(mask))
    wrong[0, 0] = 77
    Image.fromarray(wrong).save(mask)
    with pytest.raises(UserError, match="77"):
        check_labels(SegmentationData(root=str(tmp_path)))


def test_scenes_need_no_look() -> None:
    assert check_labels(scenes()) == []


def test_a_licence_with_conditions_is_named() -> None:
    with torch.device("meta"):
        options = {"num_classes": 2, "pretrained": False}
        ours = create_model("dpt", backbone="vit_small_patch16_dinov3", **options)
        open_source = create_model("dpt", backbone="vit_small_patch14_dinov2", **options)
    assert "'dinov3-license'" in (licence_note(ours) or "")
    assert licence_note(open_source) is None


def test_crops_that_a_patch_does_not_divide_are_named() -> None:
    note = crop_note((10, 480), 14) or ""
    assert "padded to 14 x 490" in note
    assert note.endswith("--data.crop_size [14,490] needs no padding")
    assert crop_note((40, 56), 1) is None
