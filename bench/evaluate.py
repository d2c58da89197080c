"""Benchmark of evaluation: the confusion matrix, and prediction at several scales."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from scenewise.apps.bench.measure import Row, Run, compare, in_turns
from scenewise.inference.predictor import Predictor
from scenewise.models.build import create_model
from scenewise.models.segmenter import Segmenter
from scenewise.training.metrics.confusion import ConfusionMatrix

CLASSES, SIZE, IGNORED = 19, (1024, 2048), 255
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.2)


def rows(repeats: int = 5) -> list[Row]:
    """The confusion matrix, then the prediction of one image, which takes minutes."""
    return [*_counting(repeats), *_scales(max(1, repeats // 2))]


def _counting(repeats: int) -> list[Row]:
    """One update with the labels of a street image, a tenth of them ignored."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(CLASSES, (1, *SIZE), generator=generator)
    labels = torch.randint(CLASSES, (1, *SIZE), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.1] = IGNORED
    checked = MulticlassConfusionMatrix(CLASSES, ignore_index=IGNORED)
    unchecked = MulticlassConfusionMatrix(CLASSES, ignore_index=IGNORED, validate_args=False)
    matrix = ConfusionMatrix(CLASSES, IGNORED)
    variants = {
        "torchmetrics": lambda: checked.update(labels, target),
        "torchmetrics, unchecked": lambda: unchecked.update(labels, target),
        "scenewise": lambda: matrix.update(labels, target),
    }
    return compare(f"{CLASSES} classes, {SIZE[0]} x {SIZE[1]} labels", variants, repeats)


def _scales(turns: int) -> list[Row]:
    """DANet with ResNet-18 at stride 16, eight scales from 0.5 to 2.2 and mirror images."""
    torch.manual_seed(0)
    model = create_model(
        "danet", num_classes=CLASSES, backbone="resnet18", pretrained=False, output_stride=16
    ).eval()
    image = torch.rand(3, *SIZE)
    trained = Predictor(model, scales=SCALES, flip=True, fast=False)
    fast = Predictor(model, scales=SCALES, flip=True)
    labels: dict[str, Tensor] = {}
    variants: dict[str, Callable[[], Tensor]] = {
        "keep all, then average": lambda: _naive(model, image),
        "scenewise, as trained": lambda: trained(image).labels,
        "scenewise, for inference": lambda: fast(image).labels,
    }

    def keep(name: str) -> Run:
        return lambda: labels.__setitem__(name, variants[name]())

    work = f"DANet R18, {SIZE[0]} x {SIZE[1]}, {len(SCALES)} scales, mirrored"
    table = in_turns(work, {name: keep(name) for name in variants}, turns)
    expected, *others = labels.values()
    if min((other == expected).double().mean() for other in others) < 0.999:
        raise AssertionError("less than 99.9 % of the labels agree")
    return table


@torch.no_grad()
def _naive(model: Segmenter, image: Tensor) -> Tensor:
    """Labels from the probabilities of all scales and mirror images, kept in memory."""
    kept = []
    for scale in SCALES:
        size = [int(side * scale + 0.5) for side in SIZE]
        x = model.normalize(image[None])
        x = F.interpolate(x, size, mode="bilinear", align_corners=False)
        for mirrored in (False, True):
            y = model(x.flip(-1) if mirrored else x).logits
            y = F.interpolate(y, SIZE, mode="bilinear", align_corners=model.align_corners)
            kept.append((y.flip(-1) if mirrored else y).softmax(1))
    return torch.stack(kept).mean(0)[0].argmax(0)
