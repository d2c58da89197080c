"""Recognising layouts: the listing, and ``open_dataset``."""

from pathlib import Path

import pytest

from scenewise.data import open_dataset
from scenewise.data.formats.listing import list_root
from scenewise.errors import UserError
from tests.data.trees import write_tree


def test_a_listing_has_visible_names_of_all_depths_and_ends_in_a_loop_of_links(tmp_path: Path):
    for name in (
        "a/b/c.png",
        "a/.hidden/d.png",
        "a/._c.png",
        "__MACOSX/a.png",
        "Thumbs.db",
        "e.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    listing = list_root(tmp_path)
    assert listing.paths == ("e.txt", "a/b/c.png")
    assert listing.has("a")
    assert listing.has("a/b/c.png")
    assert not listing.has("a/x")
    assert listing.match("*.png") == ["a/b/c.png"]
    assert listing.json("e.txt") == {}
    assert listing.json("none") is None


def test_a_folder_dataset_is_opened_without_its_format(tmp_path: Path):
    root = write_tree(tmp_path)
    train = open_dataset(root)
    assert len(train) == 5
    chosen = train.select([3, 1])
    assert [sample["name"] for sample in chosen] == ["p3", "p1"]
    assert chosen[0]["mask"].equal(train[3]["mask"])
    assert open_dataset(root, "val").classes.names == ("road", "sky", "tree")
    with pytest.raises(UserError, match="unknown data format 'x'; choose one of auto, folder"):
        open_dataset(root, format="x")
    with pytest.raises(UserError, match="does not exist; give the folder of the dataset"):
        open_dataset(tmp_path / "none")
    with pytest.raises(UserError, match=r"or give --data\.format hugging_face"):
        open_dataset("owner/name")
