import numpy as np
import pytest
import torch

from scenewise.data import SegmentationData
from scenewise.data.formats.cityscapes import (
    CATEGORIES,
    CLASSES,
    Cityscapes,
    CityscapesCoarse,
)
from scenewise.errors import UserError
from scenewise.training.metrics.confusion import grouped, iou, mean_iou, scores
from tests.data.formats.trees import ids, write_image, write_label
from tests.shared_data import shared

# id of the 34 -> class of the 19, written down from the publisher's table.
TRAINED = dict(
    zip(
        [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33],
        range(19),
        strict=True,
    )
)


def tree(root, split="train", kind="labelIds", annotation="gtFine", values=range(34), frames=2):
    for k in range(frames):
        city = ("ulm", "jena")[k % 2]
        stem = f"{city}_00000{k}_000019"
        write_image(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", seed=k)
        write_label(
            root / annotation / split / city / f"{stem}_{annotation}_{kind}.png", ids(values)
        )
    return root


def test_classes_are_the_published_ones():
    assert len(CLASSES) == 19
    assert CLASSES.names[0] == "road"
    assert CLASSES.names[18] == "bicycle"
    assert CLASSES.colors[:2] == ((128, 64, 128), (244, 35, 232))
    assert CLASSES.colors[13] == (0, 0, 142)


def test_34_label_ids_become_19_classes(tmp_path):
    data = Cityscapes(tree(tmp_path))
    assert data.names == ["jena_000001_000019", "ulm_000000_000019"]
    image, mask = data.read(0)
    assert image.shape == (3, 5, 7)
    expected = [[TRAINED.get(int(v), 255) for v in row] for row in ids(range(34))]
    assert mask.tolist() == expected
    assert data[0]["name"] == data.names[0]


def test_train_ids_are_preferred_if_every_image_has_them(tmp_path):
    root = tree(tmp_path, values=[7])
    tree(root, kind="labelTrainIds", values=[*range(19), 255])
    assert Cityscapes(root).read(1)[1].tolist() == ids([*range(19), 255]).tolist()
    next((root / "gtFine").rglob("*TrainIds.png")).unlink()
    assert Cityscapes(root).read(1)[1].unique().tolist() == [0]


def test_coarse_labels_train_and_fine_ones_validate(tmp_path):
    tree(tmp_path, "train", annotation="gtCoarse", values=[7, 26])
    tree(tmp_path, "val")
    assert CityscapesCoarse(tmp_path).read(0)[1].unique().tolist() == [0, 13]
    assert "gtFine" in str(CityscapesCoarse(tmp_path, "val").masks[0])
    assert CityscapesCoarse(tmp_path).published_count == 2975
    tree(tmp_path, "train_extra", annotation="gtCoarse", values=[8], frames=1)
    assert len(CityscapesCoarse(tmp_path)) == 1
    assert CityscapesCoarse(tmp_path).published_count == 19998
    assert CityscapesCoarse(tmp_path, "val").published_count == 500


@pytest.mark.parametrize(("kind", "value"), [("labelTrainIds", 19), ("labelIds", 34)])
def test_other_ids_are_refused(tmp_path, kind, value):
    data = Cityscapes(tree(tmp_path, kind=kind, values=[7, value]))
    with pytest.raises(UserError, match=rf"ulm_000000.*{kind}.*{value} \(17 pixels\)"):
        data.read(1)


def test_a_half_extracted_archive_is_noticed(tmp_path):
    root = tree(tmp_path, frames=5)
    gone = sorted((root / "gtFine").rglob("*labelIds.png"))[:2]
    for path in gone:
        path.unlink()
    with pytest.raises(UserError, match=rf"2 of 5 labels .* '{gone[0].name}', '{gone[1].name}' in"):
        Cityscapes(root)
    for path in (root / "gtFine").rglob("*.png"):
        path.rename(path.with_name(path.name.replace("labelIds", "color")))
    with pytest.raises(UserError, match=r"holds other files but no \*_labelIds.png"):
        Cityscapes(root)


def test_categories_group_the_confusion_counts():
    assert tuple(CATEGORIES) == (
        "flat",
        "construction",
        "object",
        "nature",
        "sky",
        "human",
        "vehicle",
    )
    group = [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 5, 6, 6, 6, 6, 6, 6]
    matrix = torch.randint(0, 1000, (19, 19))
    expected = np.zeros((7, 7), dtype=np.int64)
    for i in range(19):
        for j in range(19):
            expected[group[i], group[j]] += int(matrix[i, j])
    assert grouped(matrix, CATEGORIES).tolist() == expected.tolist()
    values = scores(matrix, CLASSES, categories=CATEGORIES)
    assert values["category_miou"] == pytest.approx(mean_iou(torch.from_numpy(expected)))
    assert values["category_iou/vehicle"] == pytest.approx(
        iou(torch.from_numpy(expected))[6].item()
    )


def test_the_data_module_has_the_categories(tmp_path):
    tree(tmp_path)
    assert SegmentationData("cityscapes", str(tmp_path)).categories == CATEGORIES


def test_sample_of_another_project():
    root = shared("fixtures/cityscapes/datumaro/cityscapes_dataset")
    data = Cityscapes(root / "train_dataset", "train")
    with pytest.raises(UserError, match=r"not trainIds: 19 \("):
        data.read(0)
    with pytest.raises(UserError, match=r"holds other files but no \*_labelIds.png"):
        Cityscapes(root / "dataset", "train")
