"""Readers of any file content give the right ids or a one-sentence error; they never guess."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from scenewise.classes import Classes
from scenewise.data.datasets import PairedDataset
from scenewise.data.doctor.record import examine
from scenewise.data.formats.ade20k import ADE20K
from scenewise.data.formats.camvid import CamVid
from scenewise.data.formats.cityscapes import Cityscapes
from scenewise.data.formats.coco_stuff import CocoStuff
from scenewise.data.formats.pascal_context import CLASSES, PascalContext
from scenewise.data.formats.regions import decode_runs
from scenewise.data.formats.voc import VOC
from scenewise.data.images import image_kind, read_image, read_mask
from scenewise.data.layout import common_layout
from scenewise.errors import UserError
from tests.data.formats.trees import write_mat

FUZZ = settings(
    max_examples=40,
    derandomize=True,
    deadline=5000,  # milliseconds: a reader that hangs fails
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SIZES = st.tuples(st.integers(1, 7), st.integers(1, 11))
IDS = SIZES.flatmap(lambda size: arrays(np.uint8, size))
ORIENTATION = 0x0112
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a),
}


def reads(read, path):
    """The tensor that ``read`` gives, or ``None`` if it refuses in one sentence."""
    try:
        return read(path)
    except UserError as error:
        sentence = str(error)
    assert path.name in sentence
    assert "\n" not in sentence
    return None


@FUZZ
@given(ids=IDS, mode=st.sampled_from(["L", "P", "I;16"]), turn=st.sampled_from([*TURNS]))
def test_ids_survive_every_mode_that_holds_ids(tmp_path, ids, mode, turn):
    if mode == "P":
        image = Image.fromarray(ids)
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    else:
        wide = np.uint8 if mode == "L" else np.uint16
        image = Image.fromarray(ids.astype(wide))
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    path = tmp_path / "a.png"
    image.save(path, exif=exif)
    assert np.array_equal(read_mask(path).numpy(), TURNS[turn](ids))


@FUZZ
@given(
    ids=SIZES.flatmap(lambda size: arrays(np.uint16, size)),
    suffix=st.sampled_from([".png", ".tif"]),
)
def test_16_bits_give_all_ids_or_none(tmp_path, ids, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(ids).save(path)
    mask = reads(read_mask, path)
    assert (mask is None) == (ids.max() > 255)
    assert mask is None or np.array_equal(mask.numpy(), ids)
    assert reads(read_image, path) is None  # as 8 bits, which would be another image
    layout = common_layout([(str(path), image_kind(path))])
    assert np.array_equal(read_image(path, layout)[0].numpy(), ids)


@FUZZ
@given(
    size=SIZES,
    mode=st.sampled_from(["RGB", "RGBA", "LA", "CMYK", "YCbCr", "F", "HSV", "LAB"]),
    suffix=st.sampled_from([".png", ".jpg", ".tif", ".webp", ".bmp"]),
)
def test_colour_images_are_refused_as_masks(tmp_path, size, mode, suffix):
    path = tmp_path / f"a{suffix}"
    try:
        Image.new(mode, size[::-1]).save(path)
    except (OSError, ValueError):  # this kind of file cannot hold the mode
        return
    assert reads(read_mask, path) is None
    image = reads(read_image, path)
    assert image is None or image.shape == (3, *size)


@FUZZ
@given(size=SIZES, turn=st.sampled_from([*TURNS]), mode=st.sampled_from(["RGB", "L", "CMYK"]))
def test_jpegs_are_rotated_as_images_and_refused_as_masks(tmp_path, size, turn, mode):
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    Image.new(mode, size[::-1]).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape[1:] == TURNS[turn](np.zeros(size)).shape
    assert reads(read_mask, tmp_path / "a.jpg") is None


def valid_files():
    ids = np.arange(35, dtype=np.uint8).reshape(5, 7)
    files = []
    for mode, kind in [
        ("L", "PNG"),
        ("P", "PNG"),
        ("1", "PNG"),
        ("RGBA", "PNG"),
        ("RGB", "JPEG"),
        ("L", "TIFF"),
        ("RGB", "BMP"),
        ("RGB", "WEBP"),
        ("P", "GIF"),
    ]:
        buffer = io.BytesIO()
        Image.fromarray(ids).convert(mode).save(buffer, format=kind)
        files.append(buffer.getvalue())
    return files


@st.composite
def damaged(draw, originals):
    """A file with some bytes changed, truncated, or with bytes appended."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 6))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))
    return bytes(data[:cut]) + draw(st.binary(max_size=9))


@settings(FUZZ, max_examples=200)
@given(data=st.one_of(damaged(valid_files()), st.binary(max_size=64)))
def test_damaged_files(tmp_path, data):
    path = tmp_path / "a.png"
    path.write_bytes(data)
    image, mask = reads(read_image, path), reads(read_mask, path)
    record = examine(PairedDataset([path], [path], Classes.numbered(256)), 0)
    assert (image is None or mask is None) == bool(record.kind)


@FUZZ
@given(
    width=st.one_of(st.just(0), st.integers(20_000, 2**32 - 1)),
    height=st.one_of(st.just(0), st.integers(20_000, 2**32 - 1)),
    kind=st.sampled_from([0, 2, 3, 4, 6]),
)
def test_sizes_that_are_zero_or_claimed(tmp_path, width, height, kind):
    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(64)))
        + chunk(b"IEND", b"")
    )
    assert reads(read_image, path) is None
    assert reads(read_mask, path) is None


READERS = {
    "a_gtFine_labelIds.png": (Cityscapes, None),
    "a_gtFine_labelTrainIds.png": (Cityscapes, None),
    "voc.png": (VOC, None),
    "ade.png": (ADE20K, None),
    "coco.png": (CocoStuff, None),
    "context.png": (PascalContext, CLASSES),
    "camvid.png": (CamVid, None),
}


@pytest.mark.parametrize("name", READERS)
@settings(FUZZ, max_examples=25)
@given(data=damaged(valid_files()[:5]))
def test_damaged_labels_of_published_formats(tmp_path, name, data):
    kind, classes = READERS[name]
    reader = kind.__new__(kind)
    reader.classes = classes
    path = tmp_path / name
    path.write_bytes(data)
    mask = reads(reader.read_mask, path)
    assert mask is None or set(mask.unique().tolist()) <= {*range(171), 255}


def matlab(tmp_path):
    ids = np.ones((5, 7), np.uint8)
    path = write_mat(tmp_path / "x.mat", S=ids, LabelMap=ids, GTcls={"Segmentation": ids})
    return path.read_bytes()


@settings(FUZZ, max_examples=80)
@given(data=st.data())
def test_damaged_matlab_files(tmp_path, data):
    pytest.importorskip("scipy")
    path = tmp_path / "a.mat"
    path.write_bytes(data.draw(damaged([matlab(tmp_path)])))
    for kind in (CocoStuff, VOC, PascalContext):
        reader = kind.__new__(kind)
        reader.classes = CLASSES
        mask = reads(reader.read_mask, path)
        assert mask is None or mask.ndim == 2


@FUZZ
@given(text=st.one_of(st.text(max_size=30), st.binary(max_size=30)))
def test_run_lengths_of_any_text(text):
    try:
        mask = decode_runs(text, 5, 7)
    except ValueError:
        return
    assert mask.shape == (5, 7)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["images", "annos_segmentation", "image_id", "file_name", "phase"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@FUZZ
@given(content=JSON)
def test_json_files_of_any_content(tmp_path, content):
    (tmp_path / "JPEGImages").mkdir(exist_ok=True)
    path: Path = tmp_path / "trainval_merged.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError):
        PascalContext(tmp_path)
