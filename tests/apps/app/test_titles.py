"""Names of models and blocks."""

from dataclasses import replace

import pytest

from scenewise.apps.app.titles import block_titles, describe, score_in, titles
from scenewise.files import write_json


def test_models_are_named_by_what_they_are(danet, fcn):
    scored = replace(danet, score=0.7812)
    assert titles([scored, fcn]) == ["DANet · tiny · 78.1 mIoU", "FCN · tiny"]


def test_the_folder_is_named_where_two_would_read_the_same(danet, fcn):
    first, second = replace(danet, name="a/best"), replace(danet, name="b/best")
    assert titles([first, fcn, second]) == [
        "DANet · tiny · a/best",
        "FCN · tiny",
        "DANet · tiny · b/best",
    ]


@pytest.mark.parametrize(
    ("content", "score"),
    [
        ({"val": {"miou": 0.5}}, 0.5),
        ({"val": {"miou": 0.5}, "test": {"miou": 0.25}}, 0.25),
        ({"val": {"miou": None}}, None),
        ({"val": {}}, None),
        ([], None),
        ("miou", None),
    ],
)
def test_score_of_a_run(tmp_path, content, score):
    write_json(tmp_path / "metrics.json", content)
    assert score_in(tmp_path) == score
    (tmp_path / "last.ckpt").touch()
    assert score_in(tmp_path / "last.ckpt") == score


def test_blocks_in_words(danet, ccnet):
    assert list(block_titles(danet.maps.blocks()).values()) == [
        "Position attention",
        "Channel attention",
    ]
    assert list(block_titles(ccnet.maps.blocks()).values()) == ["Criss-cross attention, 2 steps"]


def test_blocks_of_one_title_have_their_place_too(danet):
    block = danet.maps.blocks()["head.position.1"]
    assert block_titles({"a": block, "b": block}) == {
        "a": "Position attention (a)",
        "b": "Position attention (b)",
    }


def test_description(ccnet, fcn):
    about = describe(ccnet, 1, "CCNet")
    assert about["id"] == "1"
    assert about["attention"] is True
    assert about["classes"][2] == {"name": "red <b>car</b>", "color": [250, 200, 5]}
    (block,) = about["blocks"]
    assert block["kind"] == "criss_cross"
    assert block["rounds"] == [1, 2]
    assert block["maps"] is True
    assert describe(fcn, 0, "FCN")["blocks"] == []
    assert describe(fcn, 0, "FCN")["attention"] is False
