"""The three qualities: which predictions they are, alone and in a scored task."""

import pytest
import torch

from scenewise import Predictor
from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.inference.quality import QUALITIES, quality_predictor
from scenewise.training.task import SegmentationTask
from tests.toy_model import toy_model

IMAGE = torch.rand(3, 30, 44, generator=torch.Generator().manual_seed(1))


def test_fast_is_the_default() -> None:
    model = toy_model()
    assert quality_predictor(model, "fast").at_once
    assert torch.equal(
        quality_predictor(model, "fast").scores(IMAGE), Predictor(model).scores(IMAGE)
    )


def test_best_is_the_mean_over_scales_and_mirror_images() -> None:
    model = toy_model()
    views = [Predictor(model, scales=(s,), flip=True) for s in (0.75, 1.0, 1.25, 1.5)]
    expected = torch.stack([view.scores(IMAGE) for view in views]).mean(0)
    torch.testing.assert_close(quality_predictor(model, "best").scores(IMAGE), expected)


def test_good_is_the_mean_with_the_mirror_image_and_windows_fade() -> None:
    model = toy_model()
    mirrored = Predictor(model).scores(IMAGE.flip(-1)).flip(-1)
    expected = (Predictor(model).scores(IMAGE) + mirrored) / 2
    torch.testing.assert_close(quality_predictor(model, "good").scores(IMAGE), expected)
    windows = quality_predictor(model, "good", window=20)
    expected = Predictor(model, window=20, flip=True, blend="hann").scores(IMAGE)
    assert torch.equal(windows.scores(IMAGE), expected)


@pytest.mark.parametrize("quality", QUALITIES)
def test_a_task_scores_what_the_predictor_predicts(quality: str) -> None:
    torch.manual_seed(3)
    classes = Classes.numbered(3)
    task = SegmentationTask(
        classes, network="fcn", backbone="tiny", pretrained=False, quality=quality
    ).eval()
    with torch.no_grad():
        labels = task.labels_of(IMAGE[None])[0]
    assert torch.equal(labels, quality_predictor(task.model, quality, fast=False)(IMAGE).labels)


def test_a_protocol_has_its_own_scales() -> None:
    options = {"network": "fcn", "backbone": "tiny", "pretrained": False}
    with pytest.raises(UserError, match="drop --quality"):
        SegmentationTask(Classes.numbered(2), protocol="mmseg_ms", quality="best", **options)
