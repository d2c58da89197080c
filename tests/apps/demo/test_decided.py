"""The pixel of the demo: one whose class the position attention decides."""

import torch

from scenewise import Predictor
from scenewise.apps.demo.decided import decided_pixel
from scenewise.data import Scenes
from scenewise.visualize import switched_off
from tests.toy_model import random_danet


def test_the_pixel_is_right_with_the_block_and_wrong_without() -> None:
    torch.manual_seed(0)
    scenes = Scenes(4, size=(32, 96))
    model = random_danet(scenes.classes).eval()

    class Labelled(Scenes):
        """Scenes whose true labels are what the model says, where that is a context class."""

        def read(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            image, mask = super().read(index)
            labels = Predictor(model)(image).labels
            with switched_off(model, "head.position.1"):
                moved = Predictor(model)(image).labels != labels
            column = torch.arange(mask.shape[1]) >= 48  # only there
            return image, torch.where(moved & column, labels, mask)

    labelled = Labelled(4, size=(32, 96))
    example = decided_pixel(model, labelled)
    image, mask = labelled.read(example.scene)
    assert example.decided
    assert Predictor(model)(image).labels[example.at] == mask[example.at]
    with switched_off(model, "head.position.1"):
        assert Predictor(model)(image).labels[example.at] != mask[example.at]


def test_without_such_a_pixel_it_is_one_of_a_context_class() -> None:
    torch.manual_seed(0)
    scenes = Scenes(4, size=(32, 96))
    model = random_danet(scenes.classes).eval()
    with torch.no_grad():
        model.head.position[1].gamma.zero_()
    example = decided_pixel(model, scenes)
    assert (example.scene, example.decided) == (0, False)
    assert int(scenes.read(0)[1][example.at]) in Scenes.context_classes
