"""Counting a confusion matrix, beside torchmetrics; and eight scales with mirror images."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from scenewise.apps.bench.measure import Row, Run, compare, in_turns
from scenewise.inference.predictor import Predictor
from scenewise.models.build import create_model
from scenewise.models.optimize.fuse import for_inference
from scenewise.models.segmenter import Segmenter
from scenewise.training.metrics.confusion import ConfusionMatrix

CLASSES, SIZE, IGNORED = 19, (1024, 2048), 255
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.2)


def rows(repeats: int = 5) -> list[Row]:
    """The counting, then the evaluation of one picture, which takes minutes."""
    return [*_counting(repeats), *_scales(max(1, repeats // 2))]


def _counting(repeats: int) -> list[Row]:
    """One update with a street picture's labels, a tenth of them ignored."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(CLASSES, (1, *SIZE), generator=generator)
    labels = torch.randint(CLASSES, (1, *SIZE), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.1] = IGNORED
    theirs = MulticlassConfusionMatrix(CLASSES, ignore_index=IGNORED)
    unchecked = MulticlassConfusionMatrix(CLASSES, ignore_index=IGNORED, validate_args=False)
    ours = ConfusionMatrix(CLASSES, IGNORED)
    ways = {
        "torchmetrics": lambda: theirs.update(labels, target),
        "torchmetrics, unchecked": lambda: unchecked.update(labels, target),
        "scenewise": lambda: ours.update(labels, target),
    }
    return compare(f"{CLASSES} classes, {SIZE[0]} x {SIZE[1]} labels", ways, repeats)


def _scales(turns: int) -> list[Row]:
    """DANet with ResNet-18 at stride 16, eight scales from 0.5 to 2.2 and mirror images."""
    torch.manual_seed(0)
    model = create_model(
        "danet", num_classes=CLASSES, backbone="resnet18", pretrained=False, output_stride=16
    ).eval()
    picture = torch.rand(3, *SIZE)
    ours = Predictor(model, scales=SCALES, flip=True)
    fast = Predictor(for_inference(model), scales=SCALES, flip=True)
    labels: dict[str, Tensor] = {}
    ways: dict[str, Callable[[], Tensor]] = {
        "keep all, then average": lambda: naive(model, picture),
        "scenewise, as trained": lambda: ours(picture).labels,
        "scenewise, for inference": lambda: fast(picture).labels,
    }

    def kept(way: str) -> Run:
        return lambda: labels.__setitem__(way, ways[way]())

    work = f"DANet R18, {SIZE[0]} x {SIZE[1]}, {len(SCALES)} scales, mirrored"
    found = in_turns(work, {way: kept(way) for way in ways}, turns)
    expected, *others = labels.values()
    if min((other == expected).double().mean() for other in others) < 0.999:
        raise AssertionError("less than 99.9 % of the labels agree")
    return found


@torch.no_grad()
def naive(model: Segmenter, picture: Tensor) -> Tensor:
    """Labels from the probabilities of all scales and mirror images, kept until all are there."""
    kept = []
    for scale in SCALES:
        size = [int(side * scale + 0.5) for side in SIZE]
        x = model.normalize(picture[None])
        x = F.interpolate(x, size, mode="bilinear", align_corners=False)
        for mirrored in (False, True):
            y = model(x.flip(-1) if mirrored else x).logits
            y = F.interpolate(y, SIZE, mode="bilinear", align_corners=model.align_corners)
            kept.append((y.flip(-1) if mirrored else y).softmax(1))
    return torch.stack(kept).mean(0)[0].argmax(0)
