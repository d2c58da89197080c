"""Messages to the viewer: images as data URLs, and captions."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise.apps.app import state as module
from scenewise.apps.app.render import (
    _NO_ATTENTION,
    AFTER,
    ATTENTION,
    BEFORE,
    CHANNEL,
    CLASSES,
    Choice,
    Panel,
    _class_shares,
    figure_file,
    labels_file,
)
from scenewise.apps.app.state import Network, VisitorState
from scenewise.errors import UserError
from scenewise.visualize.attention_maps import cell
from tests.apps.app import conftest
from tests.apps.app.test_state import noise, silent

POSITION, MIXER = "head.position.1", "head.channel.1"


def panel(network: Network, at=None, size=(37, 53), **choice: object) -> Panel:
    block = next(iter(network.maps.blocks()), None)
    chosen = Choice(network.name, "fused", CLASSES, block, 2, 0, BEFORE)._replace(**choice)
    state = VisitorState("street.one.png", noise(size=size), at)
    state = state.predicted(network, chosen.branch, silent).recorded(network, silent)
    return Panel(state, network, chosen)


def decode(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


def values(heat: dict) -> np.ndarray:
    return decode(heat["map"]) / 255 * (heat["high"] - heat["low"]) + heat["low"]


def test_caption_of_a_switched_off_block(danet):
    off = f"without {POSITION}"
    state = (
        VisitorState("a", noise()).predicted(danet, "fused", silent).predicted(danet, off, silent)
    )
    choice = panel(danet).choice._replace(branch=off)
    drawn = Panel(state, danet, choice)
    whole, without = (state.results["danet"].predictions[b].labels for b in ("fused", off))
    caption = drawn.draw()["caption"]
    assert f"{float((whole != without).float().mean()):.1%} of the pixels" in caption
    for k, name in enumerate(conftest.CLASSES.names):
        points = 100 * float((without == k).float().mean() - (whole == k).float().mean())
        assert points == 0 or f"{name} {points:+.1f}" in caption


class TestScene:
    def test_holds_labels_and_confidence(self, danet):
        drawn = panel(danet)
        scene, (labels, confidence) = drawn.scene(), drawn.prediction
        cells = decode(scene["cells"])
        assert cells.shape == (scene["height"], scene["width"], 3) == (37, 53, 3)
        assert np.array_equal(cells[..., 0], labels.numpy())
        assert np.abs(cells[..., 1] / 100 - confidence.numpy()).max() <= 0.005 + 1e-6
        assert decode(scene["image"]).shape == (37, 53, 3)

    def test_legend(self, danet):
        drawn = panel(danet)
        labels = torch.zeros(40, 50, dtype=torch.uint8)
        labels[0, :2], labels[:10, 5:] = 1, 2
        prediction = drawn.prediction._replace(labels=labels, confidence=labels / 2)
        result = replace(drawn.state.results["danet"], predictions={"fused": prediction})
        state = replace(drawn.state, image=noise(size=(40, 50)), results={"danet": result})
        colors = conftest.CLASSES.colors
        assert Panel(state, danet, drawn.choice).scene()["legend"] == [
            {"name": "road", "color": colors[0], "share": "77.4%"},
            {"name": "red <b>car</b>", "color": colors[2], "share": "22.5%"},
            {"name": "sky", "color": colors[1], "share": "0.1%"},
        ]


class TestAttention:
    @pytest.mark.parametrize("at", [(0, 0), (36, 52), (20, 11)])
    def test_is_the_row_of_the_dense_map(self, danet, at):
        drawn = panel(danet, at, show=ATTENTION)
        heat = drawn.draw()["heat"]
        block = danet.model.head.position[1]
        x = drawn.view.maps.positions[POSITION].before()
        place = cell(at, (37, 53), (5, 7), align_corners=danet.model.align_corners)
        with torch.no_grad():
            query, key = (f(x)[0].flatten(1).double() for f in (block.query, block.key))
            row = (query.T @ key).softmax(1)[place[0] * 7 + place[1]].reshape(5, 7)
        expected = (row / row.mean()).numpy()
        assert np.abs(values(heat) - expected).max() <= 0.51 * expected.max() / 255
        assert heat["box"] == (0, 0, 37, 53)

    def test_caption_names_the_classes(self, danet):
        drawn = panel(danet, (20, 11), show=ATTENTION)
        message = drawn.draw()
        row = drawn.view.maps.positions[POSITION].rows(
            [cell((20, 11), (37, 53), (5, 7), align_corners=True)]
        )
        labels = drawn.prediction.labels
        near = labels[[3, 11, 18, 25, 33]][:, [3, 11, 18, 26, 34, 41, 49]]
        sums = {
            name: float(row[0, 0][near == k].sum()) for k, name in enumerate(conftest.CLASSES.names)
        }
        best = max(sums, key=sums.get)
        assert f"It attends to {best} {sums[best]:.0%}" in message["caption"]
        confidence = drawn.prediction.confidence[20, 11]
        name = conftest.CLASSES.names[int(labels[20, 11])]
        assert message["caption"].startswith(
            f"Row 20, column 11: {name}, confidence {confidence:.0%}."
        )
        assert f"adds {danet.model.head.position[1].gamma.item():.3g} (gamma)" in message["caption"]

    def test_rounds(self, ccnet):
        """One round reaches the cross of the pixel, two reach everything."""
        once = values(panel(ccnet, (20, 11), show=ATTENTION, rounds=1).draw()["heat"])
        twice = values(panel(ccnet, (20, 11), show=ATTENTION, rounds=2).draw()["heat"])
        row, column = cell((20, 11), (37, 53), (5, 7), align_corners=True)
        cross = np.zeros((5, 7), bool)
        cross[row], cross[:, column] = True, True
        assert (once[~cross] == 0).all()
        assert (once[cross] > 0).sum() > 5
        assert (twice[~cross] > 0).sum() > 5

    def test_in_a_window(self, danet, monkeypatch):
        monkeypatch.setattr(module, "_WHOLE_PIXELS", 1)
        monkeypatch.setattr(module, "_WINDOW", 24)
        drawn = panel(danet, (30, 3), show=ATTENTION)
        block = drawn.view.maps.positions[POSITION]
        place = cell((30 - 13, 3), (24, 24), (3, 3), align_corners=danet.model.align_corners)
        row = block.rows([place])[0, 0].numpy()
        heat = drawn.draw()["heat"]
        assert heat["box"] == (13, 0, 37, 24)
        assert np.abs(values(heat) - row / row.mean()).max() <= 0.51 * heat["high"] / 255

    def test_without_a_pixel(self, danet):
        message = panel(danet, show=ATTENTION).draw()
        assert message["heat"] is None
        assert message["caption"].startswith("Click a pixel")

    def test_of_a_block_without_it(self, danet):
        message = panel(danet, (1, 2), show=ATTENTION, block=MIXER).draw()
        assert message["heat"] is None
        assert "show its channels instead" in message["caption"]

    def test_of_a_model_without_it(self, fcn):
        for show in (CLASSES, ATTENTION, CHANNEL):
            message = panel(fcn, (1, 2), show=show).draw()
            assert message["heat"] is None
            assert message["caption"].endswith(_NO_ATTENTION)


class TestChannel:
    @pytest.mark.parametrize("block", [POSITION, MIXER])
    def test_before_and_after(self, danet, block):
        for moment in (BEFORE, AFTER):
            drawn = panel(danet, show=CHANNEL, block=block, channel=5, moment=moment)
            maps = drawn.view.maps.blocks()[block]
            features = maps.before() if moment == BEFORE else maps.after()
            heat = values(drawn.draw()["heat"])
            expected = features[0, 5].numpy()
            assert np.abs(heat - expected).max() <= 0.51 * np.ptp(expected) / 255
            assert "Channel 5 of 64" in drawn.draw()["caption"]

    def test_partners(self, danet):
        drawn = panel(danet, show=CHANNEL, block=MIXER, channel=5)
        weights = drawn.view.maps.channels[MIXER].weights()[0, 5]
        first = re.search(r"gathers from channels (\d+) \((.*?)\)", drawn.draw()["caption"])
        assert weights[int(first[1])] == weights.max()
        assert first[2] == f"{weights.max():.1%}"

    def test_caption_names_the_class_where_it_is_highest(self, danet):
        drawn = panel(danet, show=CHANNEL, channel=5)
        features = drawn.view.maps.positions[POSITION].before()[0, 5]
        near = drawn.prediction.labels[[3, 11, 18, 25, 33]][:, [3, 11, 18, 26, 34, 41, 49]]
        means = {
            name: float(features[near == k].mean())
            for k, name in enumerate(conftest.CLASSES.names)
            if (near == k).any()
        }
        assert f"highest on {max(means, key=means.get)}." in drawn.draw()["caption"]

    def test_outside(self, danet):
        with pytest.raises(UserError, match="channels 0 to 63, not 64"):
            panel(danet, show=CHANNEL, channel=64).draw()


def test_mass_by_hand():
    row = torch.tensor([[0.5, 0.25, 0.25]])
    labels = torch.tensor([[0, 0, 2, 2, 0, 0]])
    assert _class_shares(row, labels, conftest.CLASSES) == [
        ("road", 0.75),
        ("red <b>car</b>", 0.25),
    ]


def test_labels_file(danet):
    drawn = panel(danet)
    file = labels_file(drawn)
    image = Image.open(io.BytesIO(base64.b64decode(file["url"].partition(",")[2])))
    assert file["name"] == "street.one_labels.png"
    assert image.mode == "P"
    assert np.array_equal(np.asarray(image), drawn.prediction.labels.numpy())
    assert image.getpalette()[3:6] == list(conftest.CLASSES.colors[1])


def test_figure_file(danet):
    file = figure_file(panel(danet, (20, 11)))
    assert file["name"] == "street.one_20_11.pdf"
    assert base64.b64decode(file["url"].partition(",")[2]).startswith(b"%PDF")


def test_figure_needs_a_pixel(danet):
    with pytest.raises(UserError, match="no pixel is marked"):
        figure_file(panel(danet))


def test_figure_of_a_model_without_attention(fcn):
    with pytest.raises(UserError, match="no attention"):
        figure_file(panel(fcn, (1, 2)))
