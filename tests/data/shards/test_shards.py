"""Shards hold the written samples, and damaged ones are an error that names the file."""

import io
import json
import pickle
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise.apps.cli import main
from scenewise.data import FolderDataset, Scenes
from scenewise.data.shards import _MASK, ShardSet, write_shards
from scenewise.errors import UserError
from tests.data.trees import write_tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = write_tree(tmp_path / "tree", train=7, val=3)
    Image.open(root / "images/train/p3.png").save(root / "images/train/p3.jpg")
    (root / "images/train/p3.png").unlink()
    return root


def write(tree: Path, out: Path, per_shard: int = 3) -> Path:
    return write_shards(partial(FolderDataset, tree), out, per_shard=per_shard, workers=2)


def test_shards_hold_the_same_samples(tree: Path, tmp_path: Path) -> None:
    out = write(tree, tmp_path / "out")
    assert sorted(path.name for path in out.iterdir()) == [
        "index.json",
        *(f"train-0000{k}-of-00003.tar" for k in range(3)),
        "val-00000-of-00001.tar",
    ]
    for split in ("train", "val"):
        original, shards = FolderDataset(tree, split), ShardSet(out, split)
        assert shards.names == original.names
        assert shards.classes == original.classes
        for k in range(len(original)):
            for written, read in zip(original.read(k), shards.read(k), strict=True):
                assert torch.equal(written, read)


def test_any_reader_of_tar_files_understands_them(tree: Path, tmp_path: Path) -> None:
    """webdataset groups by the name up to the first dot; images keep their bytes."""
    out = write(tree, tmp_path / "out")
    with tarfile.open(out / "train-00001-of-00003.tar") as tar:
        names = tar.getnames()
        assert names == [
            f"00000000{k}{end}" for k in (3, 4, 5) for end in (".jpg" if k == 3 else ".png", _MASK)
        ]
        content = tar.extractfile(names[0]).read()
    assert content == (tree / "images/train/p3.jpg").read_bytes()


def test_generated_images_become_png(tmp_path: Path) -> None:
    scenes = Scenes(2, (32, 96), 5)
    out = write_shards(lambda split: scenes, tmp_path, ["train"])
    assert torch.equal(ShardSet(out).read(1)[0], scenes.read(1)[0])


def test_writing_resumes_and_keeps_other_splits(tree: Path, tmp_path: Path) -> None:
    out = write(tree, tmp_path / "out")
    (out / "index.json").unlink()
    (out / "train-00002-of-00003.tar").unlink()
    kept = (out / "train-00000-of-00003.tar").stat().st_mtime_ns
    write_shards(partial(FolderDataset, tree), out, ["train"], per_shard=3)
    assert (out / "train-00000-of-00003.tar").stat().st_mtime_ns == kept
    assert len(ShardSet(out, "train")) == 7
    with pytest.raises(
        UserError, match=r"split 'val' not found among the shards .*they have train\)"
    ):
        ShardSet(out, "val")
    write_shards(partial(FolderDataset, tree), out, ["val"], per_shard=3)
    assert (len(ShardSet(out, "train")), len(ShardSet(out, "val"))) == (7, 3)


def test_other_classes_are_not_mixed_in(tree: Path, tmp_path: Path) -> None:
    out = write(tree, tmp_path / "out")
    with pytest.raises(UserError, match="already holds a dataset of other classes"):
        write_shards(lambda split: Scenes(2, (32, 96), 5), out, ["test"])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path))
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_address[1]}"
    http.shutdown()
    http.server_close()


def test_shards_are_read_from_a_url(tree: Path, tmp_path: Path, server: str) -> None:
    out = write(tree, tmp_path / "out")
    remote, local = ShardSet(f"{server}/out/", "train"), ShardSet(out, "train")
    assert torch.equal(remote.read(5)[0], local.read(5)[0])
    with pytest.raises(UserError, match=r"none/index\.json' not found; check the addr"):
        ShardSet(f"{server}/none", "train")


def test_truncated_missing_and_invalid_shards(tree: Path, tmp_path: Path) -> None:
    out = write(tree, tmp_path / "out")
    shard = out / "train-00001-of-00003.tar"
    whole = shard.read_bytes()
    for length in (0, 700, 1024, 3000, len(whole) // 2):
        shard.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"shard '.*train-00001-of-00003\.tar' .*copy it again"):
            list(map(ShardSet(out).read, (3, 4, 5)))
    shard.write_bytes(bytes(reversed(whole)))
    with pytest.raises(UserError, match=r"train-00001-of-00003\.tar"):
        ShardSet(out).read(3)
    shard.unlink()
    with pytest.raises(UserError, match=r"train-00001-of-00003\.tar' not found"):
        ShardSet(out).read(3)


def replace_members(shard: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(shard, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("exploded"),)


def test_nothing_in_a_shard_is_executed(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = write(tree, tmp_path / "out", per_shard=10)
    monkeypatch.chdir(tmp_path)
    bomb = pickle.dumps(Bomb())
    shard = out / "val-00000-of-00001.tar"
    for members in (
        {"0.jpg": bomb, f"0{_MASK}": bomb},
        {"0.pickle": bomb, f"0{_MASK}": bomb},
        {"0.pyd": bomb, "0.pkl": bomb},
        {"../../0.png": bomb, "0.txt": bomb},
    ):
        replace_members(shard, members)
        with pytest.raises(UserError, match=r"val-00000-of-00001\.tar"):
            ShardSet(out, "val").read(0)
    assert not (tmp_path / "exploded").exists()


def test_links_and_images_without_masks_are_refused(tree: Path, tmp_path: Path) -> None:
    out = write(tree, tmp_path / "out", per_shard=10)
    shard = out / "val-00000-of-00001.tar"
    image = (tree / "images/val/p0.png").read_bytes()
    replace_members(shard, {"0.png": image, "1.png": image})
    with pytest.raises(UserError, match=r"'1\.png' is not the mask of '0\.png'"):
        ShardSet(out, "val").read(0)
    with tarfile.open(shard, "w") as tar:
        member = tarfile.TarInfo("0.png")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(UserError, match=r"'0\.png' is not a plain file"):
        ShardSet(out, "val").read(0)


def test_wrong_masks_are_named_with_their_shard(tree: Path, tmp_path: Path) -> None:
    out = write(tree, tmp_path / "out", per_shard=10)
    content = io.BytesIO()
    Image.fromarray(np.full((13, 17), 9, np.uint8)).save(content, "PNG")
    image = (tree / "images/val/p0.png").read_bytes()
    replace_members(
        out / "val-00000-of-00001.tar", {"0.png": image, f"0{_MASK}": content.getvalue()}
    )
    with pytest.raises(UserError, match=r"of-00001\.tar/0\.mask\.png' holds ids outside .*9 \(221"):
        ShardSet(out, "val").read(0)


@pytest.mark.parametrize(
    "index",
    [
        "no json",
        "[]",
        '{"splits": {}}',
        '{"classes": {"names": [], "colors": [], "ignore_index": 255}, "splits": {"train": {}}}',
    ],
)
def test_an_invalid_index_is_reported(tmp_path: Path, index: str) -> None:
    (tmp_path / "index.json").write_text(index)
    with pytest.raises(UserError, match=r"index\.json' is not an index of shards"):
        ShardSet(tmp_path)


@pytest.mark.parametrize(
    "name", ["../secret.tar", "/etc/a.tar", "file::a.tar", "a.sh", "C:\\a.tar"]
)
def test_an_index_lists_its_own_folder_only(tree: Path, tmp_path: Path, name: str) -> None:
    out = write(tree, tmp_path / "out")
    index = json.loads((out / "index.json").read_text())
    index["splits"]["train"][name] = ["a"]
    (out / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"only NAME\.tar in the same folder is read"):
        ShardSet(out)


def test_prepare_writes_shards(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["prepare", "folder", str(tree), "--out", str(out), "--shards"]
    assert main([*words, "4"]) == 0
    assert f"--data.format stream --data.root {out}" in capsys.readouterr().out
    assert [len(names) for _, names in ShardSet(out).shards] == [4, 3]
    assert main(["check", str(out), "--format", "stream"]) == 0
    assert main([*words, "0"]) == 2
