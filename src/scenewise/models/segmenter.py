"""The network: backbone, head, and what must travel with the weights."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.models.backbone import IMAGENET_MEAN, IMAGENET_STD
from scenewise.models.heads import HeadOutput


class SegmenterOutput(NamedTuple):
    """What a :class:`Segmenter` gives, in training and evaluation alike.

    Attributes:
        logits: (B, K, H, W), class scores at the size of the pictures.
        auxiliary: named side scores of the same shape, or (B, K) where they tell which classes the
            whole picture shows; empty in evaluation.
        penalties: named scalar losses that blocks ask for.
    """

    logits: Tensor
    auxiliary: dict[str, Tensor]
    penalties: dict[str, Tensor]


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the network's input: ``(picture * value_range - mean) / std``.

    Attributes:
        mean, std: for each channel, in the network's channel order and value range.
        channel_order: ``"RGB"``, or ``"BGR"`` for networks trained on OpenCV pictures.
        value_range: 1 if the network was trained on 0..1, 255 if on 0..255.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    channel_order: Literal["RGB", "BGR"] = "RGB"
    value_range: float = 1.0

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB, uint8 or float in 0..1 -> normalised float.

        >>> Preprocessing()(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))[0, :, 0, 0]
        tensor([-2.1179, -2.0357, -1.8044])
        """
        scale = self.value_range / 255 if images.dtype == torch.uint8 else self.value_range
        floats = images.float() if not images.is_floating_point() else images
        if self.channel_order == "BGR":
            floats = floats.flip(1)
        mean = floats.new_tensor(self.mean).view(-1, 1, 1)
        std = floats.new_tensor(self.std).view(-1, 1, 1)
        return (floats * scale - mean) / std

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form, read back by :meth:`from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Preprocessing":
        """The preprocessing that :meth:`to_dict` wrote.

        >>> Preprocessing.from_dict(Preprocessing().to_dict()) == Preprocessing()
        True
        """
        order = value["channel_order"]
        if order not in ("RGB", "BGR"):
            raise ValueError(f"channel_order is 'RGB' or 'BGR', not {order!r}")
        mean, std = (tuple(float(number) for number in value[key]) for key in ("mean", "std"))
        value_range = float(value["value_range"])
        if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, mean)):
            raise ValueError(f"mean {mean} and std {std} are three numbers each")
        if not all(0 < number < math.inf for number in (*std, value_range)):
            raise ValueError(f"std {std} and value_range {value_range} are above 0")
        return cls(mean, std, order, value_range)


class Segmenter(nn.Module):
    """A scene-segmentation network that knows its classes, colours and preprocessing.

    Built by :func:`scenewise.create_model`; the constructor takes parts of your own as well.

    Args:
        backbone: pictures -> list of feature maps; where it takes only pictures whose sides are
            multiples of a number, it has that number as its attribute ``multiple``.
        head: list of maps -> :class:`scenewise.models.heads.HeadOutput`.
        auxiliary_head: another head, used in training only, for side scores on an earlier stage.
        classes: names and colours.
        preprocessing: applied by :meth:`normalize`, nowhere else.
        align_corners: how scores are enlarged to the size of the pictures.
        loss_weights: weight of each side score and penalty in the loss.
        recipe: arguments of ``create_model`` that build this network again; None for a network
            of your own parts, which can then only be loaded into itself.
        source: where converted weights come from: file, sha256, family, options; else None.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        auxiliary_head: nn.Module | None = None,
        *,
        classes: Classes,
        preprocessing: Preprocessing | None = None,
        align_corners: bool = True,
        loss_weights: dict[str, float] | None = None,
        recipe: dict[str, Any] | None = None,
        source: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.auxiliary_head = auxiliary_head
        self.classes = classes
        self.preprocessing = preprocessing or Preprocessing()
        self.align_corners = align_corners
        self.loss_weights = loss_weights or {}
        self.recipe = recipe
        self.source = source

    def forward(self, images: Tensor) -> SegmenterOutput:
        """Normalised pictures (B, 3, H, W) -> scores at their size."""
        out, size = self.small(images)
        height, width = images.shape[2:]

        def full(scores: Tensor) -> Tensor:
            return self.enlarge(scores, size)[..., :height, :width]

        enlarged = {name: full(s) if s.ndim == 4 else s for name, s in out.auxiliary.items()}
        return SegmenterOutput(full(out.logits), enlarged, out.penalties)

    def small(self, images: Tensor) -> tuple[SegmenterOutput, tuple[int, int]]:
        """Scores as the heads give them, (B, K, h, w), and the size forward enlarges them to.

        That size is the pictures', or larger for backbones that need multiples of a number; what
        is beyond the pictures, right and below, is then cut off.
        """
        images = self._padded(images)
        maps = self.backbone(images)
        out: HeadOutput = self.head(maps)
        side = dict(out.auxiliary)
        if self.training and self.auxiliary_head is not None:
            side["auxiliary"] = self.auxiliary_head(maps).logits
        return SegmenterOutput(out.logits, side, out.penalties), (images.shape[2], images.shape[3])

    def _padded(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3:
            raise UserError(
                f"a network takes pictures of shape (B, 3, H, W), not {tuple(images.shape)}; "
                "add or permute axes"
            )
        return _pad(images, getattr(self.backbone, "multiple", 1))

    def normalize(self, images: Tensor) -> Tensor:
        """RGB pictures (B, 3, H, W), uint8 or float in 0..1, -> the network's input."""
        return self.preprocessing(images)

    def enlarge(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Bilinear resize of (B, K, h, w) to ``size`` = (height, width)."""
        return F.interpolate(scores, size=size, mode="bilinear", align_corners=self.align_corners)

    def parameter_groups(self, lr: float, head_multiplier: float = 1.0) -> list[dict[str, Any]]:
        """Optimiser groups: the backbone at ``lr``, all else at ``lr * head_multiplier``."""
        inside = {id(p) for p in self.backbone.parameters()}
        rest = [p for p in self.parameters() if id(p) not in inside]
        return [
            {"params": list(self.backbone.parameters()), "lr": lr, "name": "backbone"},
            {"params": rest, "lr": lr * head_multiplier, "name": "head"},
        ]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` into ``folder``."""
        from scenewise.models.checkpoints import save_model

        save_model(self, folder)


def _pad(images: Tensor, multiple: int) -> Tensor:
    """Zeros (the mean colour) right and below, up to multiples of ``multiple``."""
    if multiple == 1:
        return images
    height, width = ((side + multiple - 1) // multiple * multiple for side in images.shape[2:])
    return F.pad(images, (0, width - images.shape[3], 0, height - images.shape[2]))
