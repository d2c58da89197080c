import pytest

from scenewise.data.formats.ade20k import ADE20K, CLASSES
from scenewise.errors import UserError
from tests.data.formats.trees import ids, write_image, write_label
from tests.shared_data import shared


def tree(root, values=range(151), size=(11, 17)):
    for part in ("training", "validation"):
        name = f"ADE_{part[:3]}_00000001"
        write_image(root / f"images/{part}/{name}.jpg", size)
        write_label(root / f"annotations/{part}/{name}.png", ids(values, size))
    return root


@pytest.mark.parametrize("split", ["train", "val"])
def test_zero_is_ignored_and_the_rest_counts_from_zero(tmp_path, split):
    tree(tmp_path / "ADEChallengeData2016")
    mask = ADE20K(tmp_path, split).read(0)[1]
    expected = [[255 if v == 0 else int(v) - 1 for v in row] for row in ids(range(151), (11, 17))]
    assert mask.tolist() == expected


def test_labels_that_are_already_reduced_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"0 to 150, 0 ignored\): 255"):
        ADE20K(tree(tmp_path, [0, 149, 255])).read(0)


def test_classes_are_the_published_ones():
    scipy = pytest.importorskip("scipy.io")
    base = shared("fixtures/ade20k/sceneparsing")
    rows = (base / "objectInfo150.txt").read_text().strip().splitlines()[1:]
    names = [row.split("\t")[4].split(",")[0].strip() for row in rows]
    assert list(CLASSES.names) == names
    colors = scipy.loadmat(base / "visualizationCode" / "color150.mat")["colors"]
    assert [list(color) for color in CLASSES.colors] == colors.tolist()


def test_real_sample(tmp_path):
    sample = shared("fixtures/ade20k/sceneparsing/sampleData")
    for kind, folder in (("images", "images"), ("annotations", "annotations")):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "validation").symlink_to(sample / folder)
    data = ADE20K(tmp_path, "val")
    assert len(data) == 3
    image, mask = data.read(0)
    assert image.shape == (3, 512, 683)
    assert {data.classes.names[k] for k in mask.unique().tolist() if k != 255} == {
        "wall",
        "building",
        "sky",
        "tree",
        "road",
        "grass",
        "plant",
    }


def test_the_full_ade20k_is_refused():
    root = shared("fixtures/ade20k/datumaro/ade20k2017_dataset/dataset")
    with pytest.raises(
        UserError,
        match=r"images/training', '.* not found .*it holds training, val",
    ):
        ADE20K(root)
