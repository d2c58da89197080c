"""What attention blocks are worth over a whole split: its scores again without each of them.

>>> import torch
>>> from scenewise import Predictor, create_model
>>> model = create_model("danet", num_classes=3, backbone="tiny").eval()
>>> pairs = [(torch.rand(3, 40, 56), torch.randint(3, (40, 56))) for _ in range(2)]
>>> compared = compare_blocks(Predictor(model), pairs)
>>> list(compared.without)
['head.position.1', 'head.channel.1', 'all together']
>>> torch.equal(compared.matrix, compared.without["all together"])  # gamma is still 0
True
"""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from scenewise.data.images import ImageLike
from scenewise.errors import UserError, choose
from scenewise.inference.predictor import Predictor
from scenewise.models.segmenter import Segmenter
from scenewise.training.metrics.confusion import confusion_matrix, iou, mean_iou, scores
from scenewise.visualize.attention_maps import AttentionMaps, attention_maps
from scenewise.visualize.statistics import AttentionSums, attention_sums, switched_off

_EACH, _TOGETHER = "all", "all together"
_QUERIES = 1024  # of a larger feature map, about so many pixels are examined


class BlockComparison:
    """Confusion matrices of a split with all blocks and without chosen ones, batch by batch.

    Also how much of the attention of a pixel stays on its class, and how far it reaches. Memory
    does not grow with the split.

    Args:
        model: with attention blocks.
        blocks: names of blocks, or "all": each in turn, and all of them together.

    Attributes:
        matrix: (K, K) counts with all blocks; rows are true classes.
        without: the same without a block, by its name.
        attention: sums over the split for each block of attention between pixels; empty where
            images are predicted in several passes (windows, scales, mirror images).
        fixed: of "all", blocks that change the size of their input, so cannot be left out.

    Raises:
        UserError: the model has no attention block, or none of that name.

    >>> from scenewise import create_model
    >>> BlockComparison(create_model("fcn", num_classes=2, backbone="tiny"))
    Traceback (most recent call last):
    scenewise.errors.UserError: fcn has no attention block that could be left out; ...
    """

    def __init__(self, model: Segmenter, blocks: Sequence[str] = (_EACH,)) -> None:
        self.model, self.classes = model, model.classes
        self.blocks = _known_blocks(model, blocks)
        self.all = _EACH in blocks
        self.matrix = self._zeros()
        self.without: dict[str, Tensor] = {}
        self.attention: dict[str, AttentionSums] = {}
        self.fixed: list[str] = []

    def add(self, predict: Callable[[], Tensor], masks: Tensor) -> None:
        """Count one batch.

        Args:
            predict: runs the model, and returns labels (B, H, W).
            masks: true ids, (B, H, W).
        """
        with attention_maps(self.model, keep=2) as maps:
            self._count(self.matrix, predict(), masks)
        if self.all and not self.without:
            self._drop_fixed(maps)
        self._add_attention(maps, masks)
        groups = {name: [name] for name in self.blocks}
        if self.all and len(self.blocks) > 1:
            groups[_TOGETHER] = self.blocks
        for name, blocks in groups.items():
            with ExitStack() as off:
                for block in blocks:
                    off.enter_context(switched_off(self.model, block))
                self._count(self.without.setdefault(name, self._zeros()), predict(), masks)

    def change(self, name: str) -> list[float]:
        """What leaving ``name`` out changes in the IoU of each class, in points; NaN if absent."""
        difference: list[float] = (100 * (iou(self.without[name]) - iou(self.matrix))).tolist()
        return difference

    def merge(
        self, matrix: Tensor, without: dict[str, Tensor], attention: dict[str, AttentionSums]
    ) -> None:
        """Add what another process has counted, the attributes of the same names."""
        self.matrix += matrix
        for name, counts in without.items():
            self.without[name] = self.without.get(name, self._zeros()) + counts
        for name, sums in attention.items():
            self._add_sums(name, sums)

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, for ``without.json``; None where a class does not occur."""
        return {
            "with": scores(self.matrix, self.classes),
            "without": {name: scores(m, self.classes) for name, m in self.without.items()},
            "attention": {name: self._attention(sums) for name, sums in self.attention.items()},
            "cannot_be_left_out": self.fixed,
        }

    def table(self) -> Table:
        """The IoU of each class, and its change without each block, in points."""
        grid = Table(title="IoU, and its change without a block", title_justify="left")
        grid.add_column("class")
        grid.add_column("IoU %", justify="right")
        changes = {name: self.change(name) for name in self.without}
        for name in changes:
            grid.add_column(f"without {name}", justify="right", overflow="fold")
        for k, value in enumerate(iou(self.matrix).tolist()):
            cells = [_signed(values[k]) for values in changes.values()]
            grid.add_row(self.classes.names[k], _percent(value), *cells)
        grid.add_section()
        mean = mean_iou(self.matrix)
        cells = [_signed(100 * (mean_iou(m) - mean)) for m in self.without.values()]
        grid.add_row("mean (mIoU)", _percent(mean), *cells)
        return grid

    def sentences(self) -> list[str]:
        """Where attention goes, in words, and which blocks cannot be left out."""
        lines = []
        for name, sums in self.attention.items():
            found = self._attention(sums)
            lines.append(
                f"{name}: {100 * found['own_class']:.1f} % of a pixel's attention is on its own "
                f"class ({100 * found['own_class_even']:.1f} % if spread evenly), at a mean "
                f"distance of {found['distance']:.1f} cells ({found['distance_even']:.1f})"
            )
        if not self.attention:
            lines.append("where attention goes is examined only for whole images in one pass")
        for name in self.fixed:
            lines.append(f"{name} changes the size of its input, so it cannot be left out")
        return lines

    def _zeros(self) -> Tensor:
        return torch.zeros(len(self.classes), len(self.classes), dtype=torch.int64)

    def _count(self, matrix: Tensor, labels: Tensor, masks: Tensor) -> None:
        count, ignored = len(self.classes), self.classes.ignore_index
        matrix += confusion_matrix(labels.to(masks.device), masks.long(), count, ignored).cpu()

    def _drop_fixed(self, maps: AttentionMaps) -> None:
        """Take the blocks that change the size of their input off the list."""
        blocks = maps.blocks()
        same = [b for b in self.blocks if blocks[b].after().shape == blocks[b].before().shape]
        self.fixed = [name for name in self.blocks if name not in same]
        if not same:
            raise UserError(
                f"{', '.join(self.fixed)} changes the size of its input, so it cannot be left out; "
                "drop --without"
            )
        self.blocks = same

    def _add_attention(self, maps: AttentionMaps, masks: Tensor) -> None:
        count = len(self.classes)
        known = masks.masked_fill(masks == self.classes.ignore_index, count)  # (B, H, W)
        for name, block in maps.positions.items():
            if len(block.calls) != 1 or block.before().ndim != 4:
                continue
            cells = block.before()[0, 0].numel()
            step = max(1, math.ceil(math.sqrt(cells / _QUERIES)))
            sums = attention_sums(block, known.to(block.before().device), count, step=step)
            self._add_sums(name, sums)

    def _add_sums(self, name: str, sums: AttentionSums) -> None:
        before = self.attention.get(name)
        self.attention[name] = sums if before is None else before.plus(sums)

    def _attention(self, sums: AttentionSums) -> dict[str, float]:
        """Means over all pixels, and the share on the own class for each class."""
        pixels = sums.pixels.sum()
        words = {"own_class": sums.own, "own_class_even": sums.own_even}
        words |= {"distance": sums.distance, "distance_even": sums.distance_even}
        found = {word: float(values.sum() / pixels) for word, values in words.items()}
        for k, name in enumerate(self.classes.names):
            if sums.pixels[k] > 0:
                found[f"own_class/{name}"] = float(sums.own[k] / sums.pixels[k])
                found[f"own_class_even/{name}"] = float(sums.own_even[k] / sums.pixels[k])
        return found


def compare_blocks(
    predictor: Predictor,
    pairs: Iterable[tuple[ImageLike, Tensor]],
    blocks: Sequence[str] = (_EACH,),
) -> BlockComparison:
    """Predict all images with and without attention blocks, and count the pixels.

    Args:
        predictor: of a model with attention blocks.
        pairs: images as ``predictor`` takes them, and their masks (H, W) of true ids.
        blocks: names of blocks, or "all": each in turn, and all of them together.

    Raises:
        UserError: the model has no attention block, or none of that name.
    """
    comparison = BlockComparison(predictor.model, blocks)
    for image, mask in pairs:
        comparison.add(partial(_labels, predictor, image), mask[None])
    return comparison


def _labels(predictor: Predictor, image: ImageLike) -> Tensor:
    return predictor(image).labels[None]  # (1, H, W)


def _known_blocks(model: Segmenter, chosen: Sequence[str]) -> list[str]:
    """The chosen blocks, in order, each once; all of them for "all".

    Raises:
        UserError: the model has none, or none of that name.
    """
    with attention_maps(model) as maps:
        names = list(maps.blocks())
    if not names:
        name = (model.recipe or {"name": "this network"})["name"]
        raise UserError(
            f"{name} has no attention block that could be left out; choose a network with "
            "attention, or drop --without"
        )
    for word in chosen:
        if word != _EACH and word not in names:
            raise UserError(f"unknown block '{word}'; {choose(word, [*names, _EACH])}")
    return names if _EACH in chosen else list(dict.fromkeys(chosen))


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}"


def _signed(points: float) -> str:
    return "-" if math.isnan(points) else f"{points:+.1f}"
