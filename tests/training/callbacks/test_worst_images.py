"""The worst images of a test: which they are, in which order, and what is drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor, nn

from scenewise.data import SegmentationData
from scenewise.training.callbacks import worst_images
from scenewise.training.callbacks.worst_images import WorstImages
from scenewise.training.metrics.confusion import confusion_matrix, mean_iou
from scenewise.training.task import SegmentationTask
from scenewise.visualize.training import Sample

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")
COUNT, SIZE = 15, (32, 64)


@pytest.mark.parametrize("window", [0, 48], ids=["whole", "windows"])
def test_the_worst_are_drawn_with_what_was_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    drawn: list[Sample] = []
    sheet = worst_images.samples_sheet

    def keep(samples: list[Sample], *rest: Any) -> Image.Image:
        drawn.extend(samples)
        return sheet(samples, *rest)

    monkeypatch.setattr(worst_images, "samples_sheet", keep)
    torch.manual_seed(0)
    data = SegmentationData(
        "scenes", scenes_val=COUNT, scenes_size=SIZE, num_workers=0, eval_batch_size=4
    )
    task = SegmentationTask(
        data.classes, network="fcn", backbone="tiny", pretrained=False, eval_window=window
    )
    for norm in task.model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        callbacks=[WorstImages()],
        default_root_dir=tmp_path,
    )
    trainer.test(task, data, verbose=False)
    scenes = data.dataset("test")
    masks = {scenes.names[i]: scenes.read(i)[1] for i in range(COUNT)}

    def score(labels: Tensor, name: str) -> float:
        return mean_iou(confusion_matrix(labels, masks[name].long(), len(data.classes)))

    names = [sample.name.split(" ")[0] for sample in drawn]
    scores = [score(s.labels, name) for s, name in zip(drawn, names, strict=True)]
    assert len(set(names)) == 12
    assert scores == sorted(scores)
    assert all(torch.equal(s.mask, masks[n].long()) for s, n in zip(drawn, names, strict=True))
    assert f"mean IoU {100 * scores[0]:.1f} %" in drawn[0].name
    predictor = task._predictor(torch.zeros(1, 3, *SIZE))
    for name in masks.keys() - set(names):  # the three best
        image = scenes.read(scenes.names.index(name))[0]
        if predictor is None:
            labels = task.model.eval()(task._normalised(image[None])).logits[0].argmax(0)
        else:
            labels = predictor(image).labels
        assert score(labels.detach(), name) >= scores[-1]
    with Image.open(tmp_path / "worst.png") as opened:
        pixels = np.asarray(opened)
    assert len(pixels) > 12 * 180


def test_an_image_of_two_processes_counts_once() -> None:
    empty = torch.zeros(1, 1)
    scored = [(0.1 * i, Sample(f"image {i % 3}", empty, empty, empty)) for i in range(3)]
    assert worst_images._lowest([*scored, *scored]) == scored


def test_large_images_are_kept_small() -> None:
    assert worst_images._small(torch.zeros(3, 1024, 2048)).shape == (3, 342, 683)
    assert worst_images._small(torch.zeros(500, 720)).shape == (500, 720)
