"""Untrusted images and archives: refused with one sentence, or read as data.

docs/security.md has the table of all attacks; many of their tests are among the readers' tests.
"""

import io
import json
import re
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from fuzz import seeds
from fuzz.checksums import PNG, with_png_checksums
from scenewise.apps.cli import main
from scenewise.classes import Classes
from scenewise.data.formats import matlab
from scenewise.data.formats.pascal_context import _json_mask
from scenewise.data.images import read_image, read_mask
from scenewise.data.shards import read_shard
from scenewise.errors import UserError
from tests.untrusted import bounded

ROOT = Path(__file__).parent.parent
RED, BLUE = (250, 10, 20), (5, 15, 240)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + bytes(4)


def png_with(extra: bytes, late: bool = False) -> bytes:
    """A red PNG of 5 x 7 pixels with chunks after its header, or after its pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (7, 5), RED).save(buffer, "PNG")
    whole = buffer.getvalue()
    at = whole.index(b"IEND") - 4 if late else len(PNG) + 25
    return with_png_checksums(whole[:at] + extra + whole[at:])


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "iCCP"])
def test_chunks_that_decompress_to_much(tmp_path: Path, kind: str, late: bool) -> None:
    packed = zlib.compress(bytes(10**8), 9)
    start = {"zTXt": b"x\0\0", "iTXt": b"x\0\1\0\0\0", "iCCP": b"x\0\0"}[kind]
    (tmp_path / "a.png").write_bytes(png_with(chunk(kind.encode(), start + packed), late))
    with bounded(16):
        try:
            image = read_image(tmp_path / "a.png")
        except UserError:
            return
    assert tuple(image[:, 4, 6].tolist()) == RED


@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_a_huge_exif_is_skipped_or_refused(tmp_path: Path) -> None:
    entries = b"".join(struct.pack(">HHII", tag, 2, 2**31, 8) for tag in range(65535))
    exif = b"MM\0*\0\0\0\x08\xff\xff" + entries
    (tmp_path / "a.png").write_bytes(png_with(chunk(b"eXIf", exif)))
    with bounded(64):
        assert read_image(tmp_path / "a.png").shape == (3, 5, 7)


def test_the_suffix_of_a_name_is_ignored(tmp_path: Path) -> None:
    Image.new("RGB", (7, 5), RED).save(tmp_path / "a.jpg", format="PNG")
    assert tuple(read_image(tmp_path / "a.jpg")[:, 0, 0].tolist()) == RED


@pytest.mark.filterwarnings("ignore:Image appears to be a malformed MPO file")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF"])
def test_a_polyglot_is_only_an_image(tmp_path: Path, kind: str) -> None:
    """An image that is also an archive, and an archive that contains an image."""
    image = io.BytesIO()
    Image.new("RGB", (7, 5), RED).save(image, kind)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("data.pkl", b"cos\nsystem\n(S'true'\ntR.")
    zipped = (tmp_path / "z.zip").read_bytes()
    (tmp_path / "a.png").write_bytes(image.getvalue() + zipped)
    assert read_image(tmp_path / "a.png").shape == (3, 5, 7)
    (tmp_path / "b.png").write_bytes(zipped + image.getvalue())
    with pytest.raises(UserError, match=r"b\.png' \(not an image of a supported type\)"):
        read_image(tmp_path / "b.png")


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
def test_of_an_animation_the_first_image_is_read(tmp_path: Path, kind: str) -> None:
    first, second = Image.new("RGB", (7, 5), RED), Image.new("RGB", (7, 5), BLUE)
    options = {"lossless": True} if kind == "WEBP" else {}
    path = tmp_path / "a.png"
    first.save(path, kind, save_all=True, append_images=[second] * 50, **options)
    image = read_image(path)
    assert image.shape == (3, 5, 7)
    assert image[:, 2, 2].tolist() == list(RED)


def test_no_image_starts_another_program(tmp_path: Path) -> None:
    """PIL hands EPS to Ghostscript."""
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 7 5\n%%EndComments\nshowpage\n%%EOF\n"
    assert Image.open(io.BytesIO(content)).format == "EPS"
    (tmp_path / "a.png").write_bytes(content)
    for read in (read_image, read_mask):
        with pytest.raises(UserError, match="not an image of a supported type"):
            read(tmp_path / "a.png")


def shard(path: Path, *members: tarfile.TarInfo) -> str:
    """A tar file of ``members``, whose contents are zeros."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return str(path)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


KINDS = [
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
    tarfile.DIRTYPE,
]


@pytest.mark.parametrize("kind", KINDS)
def test_links_and_devices_in_shards(tmp_path: Path, kind: bytes) -> None:
    path = shard(tmp_path / "x.tar", member("0.png", kind, "/etc/passwd"))
    with pytest.raises(UserError, match=r"x\.tar' is damaged \('0\.png' is not a plain file\)"):
        list(read_shard(path, 1))


@pytest.mark.parametrize("name", ["../up", "/tmp/root", "a/../../up", "..\\up"])
def test_members_of_shards_are_never_written(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    path = shard(inside / "x.tar", member(f"{name}.png"), member(f"{name}.mask.png"))
    (sample,) = read_shard(path, 1)
    assert sample.image == b""
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "x.tar"]


def test_names_of_members_cannot_break_the_message(tmp_path: Path) -> None:
    """Found by fuzzing."""
    path = shard(tmp_path / "x.tar", member("0.png"), member("\n\x1b[2J/"))
    with pytest.raises(UserError, match=r"' \\x1b\[2J/' is not the mask") as error:
        list(read_shard(path, 1))
    assert str(error.value).isprintable()


def test_shards_that_claim_to_be_huge(tmp_path: Path) -> None:
    claimed = member("0.png")
    claimed.size = 2**40
    path = tmp_path / "x.tar"
    path.write_bytes(claimed.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with bounded(8), pytest.raises(UserError, match=r"'0\.png' claims 1,099,511,627,776"):
        list(read_shard(str(path), 1))


def test_holes_of_a_sparse_member_are_not_filled(tmp_path: Path) -> None:
    header = bytearray(member("0.png", tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 0)
    header[483:495] = b"%011o\0" % (2**30 - 1)  # the size with its hole
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "x.tar").write_bytes(bytes(header) + bytes(1024))
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert tar.next().size == 2**30 - 1  # type: ignore[union-attr]
    with bounded(8), pytest.raises(UserError, match=r"'0\.png' is not a plain file"):
        list(read_shard(str(tmp_path / "x.tar"), 1))


@pytest.mark.parametrize("name", ["../../up", "/up", "a/../../../up", "..\\..\\up"])
def test_prepare_writes_nothing_outside(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    image, mask = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (7, 5), RED).save(image, "PNG")
    Image.new("L", (7, 5), 1).save(mask, "PNG")
    root = tmp_path / "in"
    root.mkdir()
    with tarfile.open(root / "a.tar", "w") as tar:
        for ending, content in ((".png", image), (".mask.png", mask)):
            info = tarfile.TarInfo(f"0{ending}")
            info.size = len(content.getvalue())
            tar.addfile(info, io.BytesIO(content.getvalue()))
    value = {"classes": Classes.numbered(2).to_dict(), "splits": {"train": {"a.tar": [name]}}}
    (root / "index.json").write_text(json.dumps(value))
    out = tmp_path / "a" / "b" / "c"
    words = ["prepare", "stream", str(root), "--out", str(out), "--split", "train"]
    assert main(words) == 2
    assert "leads out of the folder" in capsys.readouterr().err
    assert {p.name for p in tmp_path.rglob("*.png")} == set()


def test_annotations_that_claim_a_huge_image(tmp_path: Path) -> None:
    """Found by fuzzing: a few bytes took half a gigabyte."""
    value = json.loads(seeds.annotations()[0])
    value["images"][0] |= {"height": 2**13, "width": 2**13}
    value["annos_segmentation"][0]["segmentation"]["counts"] = [2**26]
    path = tmp_path / "trainval_merged.json"
    path.write_text(json.dumps(value))
    with bounded(4), pytest.raises(UserError, match="an image of 8192 x 8192 pixels"):
        _json_mask(path, "a")


def test_matlab_cells_nested_or_too_many(tmp_path: Path) -> None:
    """A byte in the file can take a hundred in memory, and each level of nesting a copy."""
    plain, cell = seeds.matlab()[:2]
    inner = seeds.matrix("", 9, (5, 7), seeds.element(2, bytes(35)))
    for _ in range(50):
        inner = seeds.matrix("", 1, (1, 1), inner)
    (tmp_path / "deep.mat").write_bytes(plain[:128] + seeds.matrix("LabelMap", 1, (1, 1), inner))
    with pytest.raises(UserError, match="more than 8 nested cells"):
        matlab.id_map(matlab.read_mat(tmp_path / "deep.mat"), Path("deep.mat"), "LabelMap")
    (tmp_path / "many.mat").write_bytes(cell + bytes(10**6))
    with bounded(4), pytest.raises(UserError, match="more than 4096 parts"):
        matlab.read_mat(tmp_path / "many.mat")


def test_matlab_variables_that_decompress_to_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matlab, "_MAX_BYTES", 10**6)
    many = seeds.matrix("A", 9, (1, 600_000), seeds.element(2, bytes(600_000)))
    packed = zlib.compress(many)
    one = struct.pack("<II", 15, len(packed)) + packed
    (tmp_path / "a.mat").write_bytes(seeds.matlab()[4] + one * 2)
    with bounded(4), pytest.raises(UserError, match="unpacks to more than 1,000,000 bytes"):
        matlab.read_mat(tmp_path / "a.mat")


def test_every_test_in_the_table_exists() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) > 30
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"
    defined = {
        (f"tests/{file.name}", name)
        for file in (ROOT / "tests").glob("test_untrusted_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    own = ("tests/test_untrusted_files.py", "test_every_test_in_the_table_exists")
    assert defined - set(named) == {own}
