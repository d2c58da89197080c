import json

import numpy as np
import pytest
from PIL import Image

from scenewise.classes import Classes
from scenewise.data import FolderDataset
from scenewise.data.doctor import check, quick_check
from scenewise.data.doctor.contact_sheet import write_contact_sheet
from scenewise.data.formats.ade20k import ADE20K
from scenewise.data.formats.cityscapes import Cityscapes
from scenewise.data.legend import covered
from scenewise.data.missing_files import missing
from scenewise.data.scenes import Scenes
from scenewise.errors import UserError
from tests.data.formats.trees import ids, write_colors, write_image, write_label

VALUES = [0, 1, 2, 255]


def folder(root, classes=3, count=3, values=VALUES, splits=("train", "val")):
    seed = 0
    for split in splits:
        for k in range(count):
            seed += 1
            write_image(root / f"images/{split}/{k}.png", seed=seed)
            write_label(root / f"masks/{split}/{k}.png", ids(values))
    names = [f"c{k}" for k in range(classes)]
    (root / "classes.json").write_text(json.dumps({"names": names}))
    return root


def run(root, splits=("train", "val"), kind=FolderDataset):
    return check(lambda split: kind(root, split), splits)


def kinds(report, serious=True):
    return {(f.kind, f.split) for f in report.findings if f.serious == serious}


def only(report, kind):
    (finding,) = [f for f in report.findings if f.kind == kind]
    return finding


def test_a_good_dataset_counts_exactly(tmp_path):
    report = run(folder(tmp_path))
    assert report.ok
    assert report.findings == []
    train = report.splits["train"]
    plain = np.bincount(np.tile(ids(VALUES).ravel(), 3), minlength=256)
    assert train.pixels == plain[:3].tolist()
    assert train.ignored == plain[255]
    assert train.ignored_share == plain[255] / plain.sum()
    assert train.occurs_in == [3, 3, 3]
    assert train.sizes == {(5, 7): 3}
    values = report.to_dict()
    assert values["splits"]["val"]["pixels"]["c1"] == plain[1]
    assert json.loads(json.dumps(values)) == values


def test_an_ignored_id_among_the_classes_is_not_counted_as_one(tmp_path):
    root = folder(tmp_path, values=[0, 1, 2])
    (root / "classes.json").write_text('{"names": ["a", "b", "c"], "ignore_index": 2}')
    train = run(root).splits["train"]
    assert train.pixels[2] == 0
    assert train.ignored == 3 * (ids([0, 1, 2]) == 2).sum()


def test_unreadable_and_truncated_files(tmp_path):
    root = folder(tmp_path, count=5)
    whole = (root / "images/train/1.png").read_bytes()
    (root / "images/train/1.png").write_bytes(whole[: len(whole) // 2])
    (root / "masks/train/3.png").write_bytes(b"not an image")
    (root / "images/val/0.png").write_bytes(b"")
    report = run(root)
    assert kinds(report) == {
        ("unreadable image", "train"),
        ("unreadable mask", "train"),
        ("unreadable image", "val"),
    }
    assert report.splits["train"].readable == 3
    assert "1.png" in report.findings[0].files[0]


def test_sizes_that_differ(tmp_path):
    root = folder(tmp_path)
    write_label(root / "masks/train/2.png", ids(VALUES, (7, 5)))
    finding = only(run(root), "size mismatch")
    assert "image is 5x7, mask 7x5" in finding.message
    assert finding.files == (str(root / "masks/train/2.png"),)


def test_ids_outside_the_classes_are_counted_over_all_files(tmp_path):
    root = folder(tmp_path, classes=19, values=range(34))
    finding = only(run(root, ["train"]), "wrong ids")
    assert finding.count == 3
    assert "3 masks with ids outside the 19 classes: 19 (3 pixels in 3), 20 (3" in finding.message
    assert "not trainIds" in finding.hint


def test_the_same_in_a_published_layout(tmp_path):
    stem = "train/ulm/ulm_000000_000019"
    write_image(tmp_path / f"leftImg8bit/{stem}_leftImg8bit.png")
    write_label(tmp_path / f"gtFine/{stem}_gtFine_labelTrainIds.png", ids(range(34)))
    finding = only(run(tmp_path, ["train"], Cityscapes), "wrong ids")
    assert "ids outside the 19 classes: 19 (1 pixels in 1)" in finding.message
    assert "labelIds (0 to 33), not trainIds" in finding.hint


def test_labels_that_are_reduced_already(tmp_path):
    write_image(tmp_path / "images/training/a.jpg")
    write_label(tmp_path / "annotations/training/a.png", ids([0, 149, 255]))
    finding = only(run(tmp_path, ["train"], ADE20K), "wrong ids")
    assert "not ADE20K ids (0 to 150, 0 ignored): 255" in finding.message


def test_one_mask_in_colours_among_grey_ones(tmp_path):
    root = folder(tmp_path)
    write_colors(root / "masks/train/0.png", ids([0, 1, 2]), {k: (k, 0, 9) for k in range(3)})
    finding = only(run(root, ["train"]), "missing")
    assert finding.serious
    assert "train/0.png' is in colours, but" in finding.message


def test_masks_of_0_and_255_are_background_and_an_object(tmp_path):
    report = run(folder(tmp_path, classes=2, values=[0, 255]))
    assert report.ok
    pixels = np.bincount(np.tile(ids([0, 255]).ravel(), 3))
    assert report.splits["train"].pixels == [pixels[0], pixels[255]]
    assert report.splits["train"].ignored == 0


def test_ignored_masks(tmp_path):
    root = folder(tmp_path)
    write_label(root / "masks/train/0.png", ids([255]))
    for k in range(3):
        write_label(root / f"masks/val/{k}.png", ids([255]))
    report = run(root)
    assert kinds(report) == {("ignored", "val")}
    assert ("ignored", "train") in kinds(report, serious=False)


def test_classes_that_never_occur(tmp_path):
    finding = only(run(folder(tmp_path, classes=5), ["val"]), "absent classes")
    assert not finding.serious
    assert finding.message == "2 of 5 classes never occur: c3, c4"


def test_masks_without_images(tmp_path):
    root = folder(tmp_path)
    write_label(root / "masks/val/lost.png", ids(VALUES))
    finding = only(run(root), "orphans")
    assert finding.files == (str(root / "masks/val/lost.png"),)


def test_orphans_of_names_with_endings(tmp_path):
    for k in range(2):
        stem = f"train/ulm/ulm_00000{k}_000019"
        write_image(tmp_path / f"leftImg8bit/{stem}_leftImg8bit.png", seed=k)
        for kind in ("labelIds", "color", "instanceIds"):
            write_label(tmp_path / f"gtFine/{stem}_gtFine_{kind}.png", ids([7, 26]))
    assert "orphans" not in {f.kind for f in run(tmp_path, ["train"], Cityscapes).findings}
    lost = tmp_path / "leftImg8bit/train/ulm/ulm_000001_000019_leftImg8bit.png"
    lost.unlink()
    finding = only(run(tmp_path, ["train"], Cityscapes), "orphans")
    assert [f[-27:] for f in finding.files] == ["_000019_gtFine_labelIds.png"]
    assert "000001" in finding.files[0]


def test_validation_images_in_the_training_split(tmp_path):
    root = folder(tmp_path)
    with Image.open(root / "images/train/1.png") as original:
        original.save(root / "images/val/copy.bmp")  # other bytes, the same pixels
    write_label(root / "masks/val/copy.png", ids(VALUES))
    finding = only(run(root), "duplicates")
    assert finding.serious
    assert finding.files == (str(root / "images/val/copy.bmp"),)


def test_blank_tiles_are_alike_without_being_duplicates(tmp_path):
    root = folder(tmp_path)
    for split in ("train", "val"):
        with Image.open(root / "images/train/1.png") as original:
            Image.new("RGB", original.size, (0, 0, 7)).save(root / f"images/{split}/blank.png")
        write_label(root / f"masks/{split}/blank.png", ids(VALUES))
    assert "duplicates" not in {finding.kind for finding in run(root).findings}


def test_a_split_that_cannot_be_opened(tmp_path):
    report = run(folder(tmp_path, splits=("train",)))
    assert kinds(report) == {("missing", "val")}
    assert "split 'val' not found" in only(report, "missing").message
    assert report.splits["train"].readable == 3


def test_rotated_images_are_reported(tmp_path):
    root = folder(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 3
    with Image.open(root / "images/train/0.png") as original:
        original.copy().save(root / "images/train/0.png", exif=exif)
    finding = only(run(root), "orientation")
    assert not finding.serious
    assert finding.count == 1


def test_generated_scenes_have_no_findings():
    report = check(lambda split: Scenes(4, (32, 96), seed=len(split)))
    assert report.ok
    assert report.splits["val"].readable == 4


def test_quick_check_stops_at_what_training_would_fail_on(tmp_path):
    root = folder(tmp_path, count=9)
    assert quick_check(FolderDataset(root)) == []
    (root / "images/train/8.png").write_bytes(b"")
    broken = FolderDataset(root)
    with pytest.raises(UserError, match=r"of 9 images read, 1 unreadable image.*8\.png"):
        quick_check(broken)
    assert quick_check(broken, sample=1) == []
    write_label(root / "masks/train/0.png", ids([3]))
    with pytest.raises(UserError, match=r"ids outside the 3 classes: 3 \(35 .*'scenewise check'"):
        quick_check(broken, sample=1)


def test_quick_check_reads_no_more_than_its_sample():
    class Counted(Scenes):
        reads = 0

        def read(self, index):
            self.reads += 1
            return super().read(index)

    scenes = Counted(100, (16, 48))
    quick_check(scenes, sample=5)
    assert scenes.reads == 5


def test_overlay_is_half_image_half_colour():
    classes = Classes(("a", "b"), ((0, 100, 200), (50, 50, 50)))
    image = Image.new("RGB", (3, 2), (100, 100, 100))
    mask = Image.fromarray(ids([0, 1, 255], (2, 3)).astype(np.uint8))
    drawn = np.asarray(covered(image, mask, classes))
    assert drawn[0].tolist() == [[50, 100, 150], [75, 75, 75], [177, 177, 177]]


def test_the_contact_sheet_shows_what_can_be_read(tmp_path):
    root = folder(tmp_path)
    (root / "images/train/1.png").write_bytes(b"")
    path = tmp_path / "sheet.png"
    datasets = {split: FolderDataset(root, split) for split in ("train", "val")}
    write_contact_sheet(datasets, path, count=2, columns=2)
    with Image.open(path) as sheet:
        assert sheet.width == 480
        assert len(sheet.getcolors(sheet.width * sheet.height)) > 9
    for name in (root / "images").rglob("*.png"):
        name.write_bytes(b"")
    write_contact_sheet(datasets, path)
    assert path.exists()


def test_missing_files_do_not_hide_what_else_is_wrong(tmp_path):
    root = folder(tmp_path, count=4)
    (root / "masks/train/0.png").unlink()
    cut = root / "images/train/1.png"
    cut.write_bytes(cut.read_bytes()[:60])
    write_label(root / "masks/train/2.png", ids(VALUES, (4, 7)))
    report = run(root)
    assert kinds(report) == {
        ("missing", "train"),
        ("unreadable image", "train"),
        ("size mismatch", "train"),
    }
    assert only(report, "missing").files == (str(root / "masks/train/0.png"),)
    assert only(report, "missing").hint is None
    assert (report.splits["train"].images, report.splits["train"].readable) == (4, 1)
    with pytest.raises(UserError, match=r"1 of 4 images in .* have no mask"):
        FolderDataset(root)


def test_a_half_extracted_archive_is_read_as_far_as_it_goes(tmp_path):
    for k in range(4):
        write_image(tmp_path / f"leftImg8bit/train/a/{k}_leftImg8bit.png", seed=k)
        if k != 2:
            write_label(tmp_path / f"gtFine/train/a/{k}_gtFine_labelIds.png", ids(range(34)))
    (finding,) = [f for f in run(tmp_path, ["train"], Cityscapes).findings if f.serious]
    assert finding.message == "1 of 4 masks not found"
    assert finding.hint == "the archive was not extracted whole; extract it again"
    with pytest.raises(UserError, match="extract the whole archive again"):
        Cityscapes(tmp_path, "train")


def test_labels_inside_one_file_are_not_missing(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "labels.json").write_text("{}")
    existing = [tmp_path / "a.png", tmp_path / "labels.json" / "a"]
    assert missing([*existing, tmp_path / "b.png", tmp_path / "no" / "c.png"]) == [
        tmp_path / "b.png",
        tmp_path / "no" / "c.png",
    ]
