"""The MATLAB reader against files that scipy writes; the package itself does not need scipy."""

import struct

import numpy as np
import pytest

from scenewise.data.formats.matlab import id_map, read_mat
from scenewise.errors import UserError
from tests.data.formats.trees import write_mat

scipy_io = pytest.importorskip("scipy.io")
KINDS = ["u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (5, 7), (31, 53)])
def test_every_type_of_numbers(tmp_path, kind, compressed, shape):
    values = np.random.default_rng(0).integers(0, 120, shape).astype(kind)
    path = tmp_path / "a.mat"
    before = np.ones((2, 3))
    scipy_io.savemat(path, {"T": before, "S": values}, do_compression=compressed)
    ids = id_map(read_mat(path), path, "S")
    assert ids.dtype.kind in "ui"
    assert np.array_equal(ids, values)


def test_structs_and_cells_are_entered(tmp_path):
    ids = np.arange(35, dtype=np.uint8).reshape(5, 7)
    cell = np.empty((1, 2), dtype=object)
    cell[0, 0], cell[0, 1] = ids, "text"
    content = {"Boundaries": cell, "Segmentation": ids, "CategoriesPresent": np.ones((3, 1))}
    path = write_mat(tmp_path / "a.mat", GTcls=content, cells=cell)
    variables = read_mat(path)
    assert set(variables) == {"GTcls", "cells"}
    for fields in (("GTcls", "Segmentation"), ("GTcls", "Boundaries"), ("cells",)):
        assert np.array_equal(id_map(variables, path, *fields), ids)


def test_big_endian_files(tmp_path):
    def element(kind, content):
        return struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)

    values = np.arange(300, 306, dtype=">u2").reshape(2, 3)
    matrix = element(6, struct.pack(">II", 11, 0)) + element(5, struct.pack(">ii", 2, 3))
    matrix += element(1, b"S") + element(4, values.tobytes(order="F"))
    path = tmp_path / "a.mat"
    path.write_bytes(b" " * 124 + b"\1\0MI" + element(14, matrix))
    assert np.array_equal(scipy_io.loadmat(path)["S"], values)
    assert np.array_equal(id_map(read_mat(path), path, "S"), values)


def test_files_of_other_types(tmp_path):
    with pytest.raises(UserError, match=r"label '.*none\.mat' not found"):
        read_mat(tmp_path / "none.mat")
    with pytest.raises(UserError, match="cannot read label"):
        read_mat(tmp_path)
    path = tmp_path / "a.mat"
    for content, message in (
        (b"", "is not a MATLAB file"),
        (b"MATLAB 7.3 MAT-file", "version 7.3; save it with -v7"),
        (b" " * 124 + b"\0\1IM" + struct.pack("<II", 15, 4) + b"\1\2\3\4", "cannot read label"),
        (b" " * 124 + b"\0\1IM" + struct.pack("<II", 14, 400), r"cannot read label .*truncated"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_mat(path)


@pytest.mark.parametrize(
    "content",
    [
        np.full((3, 4), 0.5),
        np.full((3, 4), np.nan),
        np.full((3, 4), np.inf),
        np.full((3, 4), 1j),
        np.zeros((0, 4)),
        np.zeros((2, 3, 4)),
        "text",
        {"V": 1},
    ],
    ids=["half", "nan", "inf", "complex", "empty", "3-d", "text", "struct"],
)
def test_variables_that_are_not_label_maps(tmp_path, content):
    path = write_mat(tmp_path / "a.mat", S=content)
    with pytest.raises(UserError, match=r"cannot read ids from 'S' of label '.*a\.mat'"):
        id_map(read_mat(path), path, "S")


def test_missing_fields(tmp_path):
    path = write_mat(tmp_path / "a.mat", S=np.ones((3, 4)), T={"V": 1})
    for fields in (("none",), ("S", "T"), ("T", "none"), ("T", "V", "W")):
        with pytest.raises(UserError, match="cannot read ids from"):
            id_map(read_mat(path), path, *fields)
