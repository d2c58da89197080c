"""Answers to the page: attention, effects, channels and files."""

import base64
import io
import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise import Predictor
from scenewise.apps.app import render
from scenewise.apps.app import state as module
from scenewise.apps.app.encode import encoded
from scenewise.apps.app.explorer import Explorer, _pooled
from scenewise.apps.app.panel import Panel
from scenewise.apps.app.render import attention, block_effect, channels, summary
from scenewise.apps.app.state import ImageState, Network
from scenewise.errors import UserError
from scenewise.visualize.attention_maps import cell
from scenewise.visualize.effect import explained
from scenewise.visualize.gradient import gradient_map
from tests.apps.app import conftest
from tests.apps.app.test_state import noise

POSITION, MIXER = "head.position.1", "head.channel.1"
CRISS_CROSS = "head.context.join.branch.block"
AT = (20, 11)


def panel(network: Network, at=None, size=(37, 53), without=None) -> Panel:
    state = ImageState("street.one.png", noise(size=size), at=at)
    return Panel(state.computed(network, without), network)


def times(answer: dict) -> np.ndarray:
    values = np.frombuffer(base64.b64decode(answer["times"]), "<f4")
    return values.reshape(answer["height"], answer["width"])


def png(image: torch.Tensor) -> bytes:
    return encoded(Image.fromarray(image.permute(1, 2, 0).numpy()), "PNG")


def decode(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def of_url(url: str) -> np.ndarray:
    return decode(base64.b64decode(url.partition(",")[2]))


class TestAttention:
    @pytest.mark.parametrize("at", [(0, 0), (36, 52), AT])
    def test_is_the_row_of_the_dense_map(self, danet, at):
        drawn = panel(danet, at)
        answer = attention(drawn, POSITION)
        block = danet.model.head.position[1]
        x = drawn.view.maps.positions[POSITION].before()
        place = cell(at, (37, 53), (5, 7), align_corners=danet.model.align_corners)
        with torch.no_grad():
            query, key = (f(x)[0].flatten(1).double() for f in (block.query, block.key))
            row = (query.T @ key).softmax(1)[place[0] * 7 + place[1]].reshape(5, 7)
        assert times(answer) == pytest.approx((row / row.mean()).numpy(), rel=1e-4)
        assert answer["box"] == [0, 0, 37, 53]
        assert answer["class"] == drawn.prediction.labels[at]
        assert answer["confidence"] == drawn.prediction.confidence[at]

    def test_shares_by_hand(self):
        row = torch.tensor([[0.5, 0.25, 0.25, 0.0]])
        labels = torch.tensor([[0, 0, 2, 2, 0, 0, 1, 1]])
        assert render._by_class(row, labels, 3) == [
            {"class": 0, "share": 0.75, "times": 1.5},
            {"class": 2, "share": 0.25, "times": 1.0},
        ]

    def test_sentence_names_the_classes(self, danet):
        drawn = panel(danet, AT)
        answer = attention(drawn, POSITION)
        names = conftest.CLASSES.names
        first = answer["shares"][0]
        text = answer["sentence"]
        confidence = f"{drawn.prediction.confidence[AT]:.0%}"
        assert text.startswith(
            f"Row 20, column 11: {names[answer['class']]}, confidence {confidence}. "
            f"It attends to {names[first['class']]} {first['share']:.0%}"
        )
        assert f"adds {danet.model.head.position[1].gamma.item():.3g} (gamma)" in text
        assert sum(part["share"] for part in answer["shares"]) == pytest.approx(1)

    def test_nearly_even_attention_is_called_so(self, danet):
        even = replace(danet, model=deepcopy(danet.model))
        torch.nn.init.zeros_(even.model.head.position[1].key.weight)
        answer = attention(panel(even, AT), POSITION)
        assert times(answer) == pytest.approx(np.ones((5, 7)), rel=1e-5)
        assert "nearly even: at most 1.0 times the average" in answer["sentence"]
        assert answer["regions"] == []

    def test_regions(self, danet):
        drawn = panel(danet, AT, size=(256, 384))  # 32 x 48 cells, regions of 5 x 5
        row = torch.zeros(32, 48)
        row[8:11, 40:43] = 3.0
        row[0, 0] = 9.0
        labels = drawn.prediction.labels
        first, second = render._regions(drawn, row)
        assert (first["row"], first["column"]) == (76, 332)  # the middle of cell (9, 41)
        assert first["share"] == pytest.approx(27 / float(row.sum()), rel=0.01)
        assert second["share"] == pytest.approx(9 / float(row.sum()), rel=0.01)
        assert second["row"] < 24
        assert second["column"] < 24
        assert first["class"] == int(labels[76, 332])

    def test_rounds(self, ccnet):
        """One round reaches the cross of the pixel, two reach everything."""
        once, twice = (times(attention(panel(ccnet, AT), CRISS_CROSS, k)) for k in (1, 2))
        row, column = cell(AT, (37, 53), (5, 7), align_corners=True)
        cross = np.zeros((5, 7), bool)
        cross[row], cross[:, column] = True, True
        assert (once[~cross] == 0).all()
        assert (once[cross] > 0).sum() > 5
        assert (twice[~cross] > 0).sum() > 5
        assert np.array_equal(times(attention(panel(ccnet, AT), CRISS_CROSS)), twice)

    def test_in_a_window(self, danet, monkeypatch):
        monkeypatch.setattr(module, "_WHOLE_PIXELS", 1)
        monkeypatch.setattr(module, "_WINDOW", 24)
        drawn = panel(danet, (30, 3))
        block = drawn.view.maps.positions[POSITION]
        place = cell((30 - 13, 3), (24, 24), (3, 3), align_corners=danet.model.align_corners)
        row = block.rows([place])[0, 0].numpy()
        answer = attention(drawn, POSITION)
        assert answer["box"] == [13, 0, 37, 24]
        assert times(answer) == pytest.approx(row / row.mean(), rel=1e-5)
        assert "predicted in 6 windows of 24 x 24" in summary(drawn, None)["note"]

    @pytest.mark.parametrize(
        ("at", "block", "rounds", "message"),
        [
            (AT, MIXER, None, "Channel attention does not attend to pixels; show its channels"),
            (AT, "head.position.2", None, "unknown block 'head.position.2'; did you mean"),
            (AT, POSITION, 2, "has no rounds, not 2"),
            (None, POSITION, None, "no pixel is marked"),
        ],
    )
    def test_refused(self, danet, at, block, rounds, message):
        with pytest.raises(UserError, match=message):
            attention(panel(danet, at), block, rounds)


class TestGradient:
    def test_is_the_map_of_the_predicted_class(self, fcn):
        pytest.importorskip("captum", reason="captum is not installed")
        explorer = Explorer([fcn])
        image = explorer.images.add(png(noise()), "a.png")
        drawn, row = explorer.gradient(image, fcn, AT)
        answer = render.gradient(drawn, row)
        expected = gradient_map(fcn.model, noise(), AT).numpy()
        assert times(answer) == pytest.approx(expected / expected.mean(), rel=1e-4, abs=1e-6)
        assert answer["class"] == drawn.prediction.labels[AT]
        assert 'score of "' in answer["sentence"]

    def test_a_large_one_is_averaged(self):
        whole = torch.arange(400 * 600.0).view(400, 600)
        pooled = _pooled(whole)
        assert pooled.numel() <= 2**14
        assert float(pooled.mean()) == pytest.approx(float(whole.mean()), rel=1e-3)
        assert torch.equal(_pooled(whole[:5, :7]), whole[:5, :7])


class TestEffect:
    @pytest.mark.parametrize("gamma", [0.0, 50.0])
    def test_is_that_of_explained(self, danet, gamma):
        danet = replace(danet, model=deepcopy(danet.model))
        torch.nn.init.constant_(danet.model.head.position[1].gamma, gamma)
        answer = block_effect(panel(danet, AT, without=POSITION), POSITION)
        expected = explained(Predictor(danet.model, fast=False), noise(), [AT])
        found = expected.effects[POSITION].pixels[0]
        assert (answer["class"], answer["class_without"]) == (found.label, found.label_without)
        assert answer["confidence"] == pytest.approx(found.score, abs=1e-6)
        assert answer["confidence_without"] == pytest.approx(found.score_without, abs=1e-6)
        assert answer["changed"] == pytest.approx(expected.changed(POSITION))
        assert answer["hardly"] is (gamma == 0.0)
        assert ("hardly matters here" in answer["sentence"]) == (gamma == 0.0)
        assert answer["sentence"].startswith("Without position attention: ")
        moved = max(abs(part["with"] - part["without"]) for part in answer["scores"])
        assert moved == pytest.approx(found.moved, abs=1e-6)


class TestChannels:
    @pytest.mark.parametrize("block", [POSITION, MIXER])
    def test_strongest_before_and_after(self, danet, block):
        drawn = panel(danet, AT)
        maps = drawn.view.maps.blocks()[block]
        before, after = maps.before()[0].numpy(), maps.after()[0].numpy()
        answer = channels(drawn, block, 3)
        strength = np.abs(after).mean((1, 2))
        assert [part["channel"] for part in answer] == np.argsort(-strength)[:3].tolist()
        for part in answer:
            pair = before[part["channel"]], after[part["channel"]]
            low, high = np.min(pair), np.max(pair)
            for url, expected in zip((part["before"], part["after"]), pair, strict=True):
                found = of_url(url) / 255 * (high - low) + low
                assert np.abs(found - expected).max() <= 0.51 * (high - low) / 255

    def test_class_is_the_one_where_it_is_highest(self, danet):
        drawn = panel(danet, AT)
        (part,) = channels(drawn, POSITION, 1)
        features = drawn.view.maps.positions[POSITION].after()[0, part["channel"]]
        near = drawn.prediction.labels[[3, 11, 18, 25, 33]][:, [3, 11, 18, 26, 34, 41, 49]]
        means = {k: float(features[near == k].mean()) for k in near.unique().tolist()}
        assert part["class"] == max(means, key=means.get)


def test_summary(danet):
    drawn = panel(danet)
    labels = torch.zeros(40, 50, dtype=torch.uint8)
    labels[0, :2], labels[:10, 5:] = 1, 2
    prediction = replace(drawn.prediction, labels=labels)
    result = replace(drawn.result, predictions={None: prediction})
    state = replace(drawn.state, image=noise(size=(40, 50)), results={"danet": result})
    assert summary(Panel(state, danet), None) == {
        "shares": [
            {"class": 0, "share": 0.774},
            {"class": 2, "share": 0.225},
            {"class": 1, "share": 0.001},
        ],
        "window": None,
        "note": None,
    }


def test_file_of_attention(danet):
    drawn = panel(danet, AT)
    content = json.loads(render.attention_json(drawn, POSITION))
    assert content["times"] == times(attention(drawn, POSITION)).tolist()
    assert content["at"] == [20, 11]
    assert content["classes"] == list(conftest.CLASSES.names)
