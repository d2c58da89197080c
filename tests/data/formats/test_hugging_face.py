import json
import sys

import numpy as np
import pytest
from PIL import Image

from scenewise.data import open_dataset
from scenewise.data.formats.hugging_face import HuggingFace
from scenewise.errors import UserError
from tests.data.formats.trees import ids

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch, tmp_path):
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def rows(count=3, masks=None, columns=("image", "label"), seed=0):
    random = np.random.default_rng(seed)
    images = [
        Image.fromarray(random.integers(0, 256, (5, 7, 3), dtype=np.uint8)) for _ in range(count)
    ]
    masks = masks or [Image.fromarray(ids([0, 1, 2, 255]).astype(np.uint8))] * count
    features = datasets.Features(dict.fromkeys(columns, datasets.Image()))
    return datasets.Dataset.from_dict(
        {columns[0]: images, columns[1]: masks}, features=features
    ), images


def saved(path, names=("a", "b", "c"), **options):
    content, images = rows(**options)
    datasets.DatasetDict(train=content, validation=content).save_to_disk(path)
    if names:
        (path / "id2label.json").write_text(json.dumps(dict(enumerate(names))))
    return images


@pytest.mark.parametrize("columns", [("image", "label"), ("pixel_values", "annotation")])
def test_image_and_mask_columns_are_found(tmp_path, columns):
    images = saved(tmp_path / "d", columns=columns)
    for split, name in (("train", "train"), ("val", "validation"), ("validation", "validation")):
        data = HuggingFace(tmp_path / "d", split)
        assert data.names == [f"{name}_0000000{i}" for i in range(3)]
        assert data.classes.names == ("a", "b", "c")
        image, mask = data.read(2)
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(images[2]))
        assert np.array_equal(mask.numpy(), ids([0, 1, 2, 255]))


def test_a_folder_of_parquet_files(tmp_path):
    content, _ = rows()
    (tmp_path / "d").mkdir()
    content.to_parquet(tmp_path / "d" / "train.parquet")
    assert len(HuggingFace(tmp_path / "d")) == 3
    with pytest.raises(UserError, match=r"split validation or val .* not found .*; it has train"):
        HuggingFace(tmp_path / "d", "val")


def test_classes_without_names_are_numbered(tmp_path, caplog):
    saved(tmp_path / "d", names=None)
    assert HuggingFace(tmp_path / "d").classes.names == ("class_0", "class_1", "class_2")
    assert "classes.json' is missing: the masks use ids up to 2" in caplog.text


def test_ambiguous_columns(tmp_path):
    saved(tmp_path / "d", columns=("front", "rear"))
    with pytest.raises(UserError, match="image columns are front, rear"):
        HuggingFace(tmp_path / "d")
    assert len(HuggingFace(tmp_path / "d", columns=("front", "rear"))) == 3
    with pytest.raises(UserError, match=r"column 'depth' not found in .*; choose from front, rear"):
        HuggingFace(tmp_path / "d", columns=("front", "depth"))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Image.new("RGB", (7, 5)), "colour image"),
        (Image.new("L", (5, 7)), "7 rows x 5 columns but its image .* is 5 rows x 7 columns"),
        (Image.new("L", (7, 5), 9), r"9 \(35 pixels\)"),
        (Image.new("I;16", (7, 5), 300), "300"),
        (None, "NoneType"),
    ],
)
def test_bad_masks_name_the_row(tmp_path, mask, message):
    saved(tmp_path / "d", masks=[Image.new("L", (7, 5)), mask, mask])
    data = HuggingFace(tmp_path / "d")
    data.read(0)
    with pytest.raises(UserError, match=message) as error:
        data.read(1)
    assert "train_00000001" in str(error.value)


def test_missing_dataset(tmp_path):
    with pytest.raises(UserError, match="cannot load dataset"):
        HuggingFace(tmp_path / "none")


def test_a_broken_class_list(tmp_path):
    saved(tmp_path / "d")
    for text in ("[]", '{"0": "a", "2": "c"}', "{"):
        (tmp_path / "d" / "id2label.json").write_text(text)
        with pytest.raises(UserError, match=r"id2label\.json"):
            HuggingFace(tmp_path / "d")


def test_without_the_library_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'scenewise\[hf\]'"):
        HuggingFace(tmp_path)


def test_a_dataset_of_train_alone_is_divided(tmp_path):
    content, _ = rows(count=5)
    datasets.DatasetDict(train=content).save_to_disk(tmp_path / "d")
    content.save_to_disk(tmp_path / "undivided")
    for root in ("d", "undivided"):
        train, val = (open_dataset(tmp_path / root, split) for split in ("train", "val"))
        assert len(train) == 4
        assert len(val) == 1
        assert not {*train.names} & {*val.names}


def test_instances_of_segments_ai_become_categories(tmp_path):
    """Instances 7 and 300 of category 2 and 1; reading the numbers as ids would be wrong."""
    numbers = np.array([[0, 7, 300]] * 5)
    bitmap = np.stack([numbers % 256, numbers // 256, 0 * numbers], axis=-1).astype(np.uint8)
    image = Image.new("RGB", (3, 5))
    content = datasets.Dataset.from_dict(
        {
            "image": [image],
            "label.segmentation_bitmap": [Image.fromarray(bitmap)],
            "label.annotations": [[{"id": 7, "category_id": 2}, {"id": 300, "category_id": 1}]],
        },
        features=datasets.Features(
            {
                "image": datasets.Image(),
                "label.segmentation_bitmap": datasets.Image(),
                "label.annotations": [
                    {"id": datasets.Value("int32"), "category_id": datasets.Value("int32")}
                ],
            }
        ),
    )
    datasets.DatasetDict(train=content).save_to_disk(tmp_path / "d")
    assert np.array_equal(HuggingFace(tmp_path / "d").read(0)[1], [[0, 2, 1]] * 5)
