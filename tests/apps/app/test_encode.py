"""Images of the page as files."""

import io

import numpy as np
import pytest
from PIL import Image

from scenewise.apps.app.encode import (
    confidence_png,
    figure_pdf,
    indexed_labels,
    labels_png,
    overlay_png,
    shown,
    thumbnail,
)
from scenewise.apps.app.state import ImageState
from scenewise.errors import UserError
from tests.apps.app import conftest
from tests.apps.app.test_render import AT, POSITION, decode, panel
from tests.apps.app.test_state import noise


def test_layers_are_exact(danet):
    drawn = panel(danet, without=POSITION)
    for without in (None, POSITION):
        labels, confidence = drawn.result.predictions[without]
        assert np.array_equal(decode(labels_png(drawn, without)), labels.numpy())
        sure = decode(confidence_png(drawn, without)) / 255
        assert np.abs(sure - confidence.numpy()).max() <= 0.5 / 255 + 1e-6


def test_images(danet):
    state = ImageState("a", noise(size=(37, 530)))
    content, kind = shown(state, danet)
    assert kind == "image/png"
    assert np.array_equal(decode(content), state.image.permute(1, 2, 0).numpy())
    assert shown(ImageState("a", noise(size=(512, 600))), danet)[1] == "image/jpeg"
    assert decode(thumbnail(state, danet)).shape == (22, 320, 3)


class TestFiles:
    def test_labels(self, danet):
        drawn = panel(danet)
        image = Image.open(io.BytesIO(indexed_labels(drawn)))
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), drawn.prediction.labels.numpy())
        assert image.getpalette()[3:6] == list(conftest.CLASSES.colors[1])

    def test_overlay(self, danet):
        drawn = panel(danet)
        colors = np.array(conftest.CLASSES.colors)[drawn.prediction.labels.numpy()]
        image = noise().permute(1, 2, 0).numpy()
        assert np.abs(decode(overlay_png(drawn)) - (image / 2 + colors / 2)).max() <= 1

    def test_figure(self, danet):
        assert figure_pdf(panel(danet, AT)).startswith(b"%PDF")

    def test_figure_needs_a_pixel(self, danet):
        with pytest.raises(UserError, match="no pixel is marked"):
            figure_pdf(panel(danet))

    def test_figure_of_a_model_without_attention(self, fcn):
        with pytest.raises(UserError, match="no attention"):
            figure_pdf(panel(fcn, AT))
