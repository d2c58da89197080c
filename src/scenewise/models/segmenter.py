"""The network: backbone, head, and what must travel with the weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from scenewise._version import __version__
from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.files import atomic_write, write_json
from scenewise.models.heads.base import HeadOutput
from scenewise.models.preprocessing import Preprocessing

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


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
        align_corners: how scores are upsampled to the size of the pictures.
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
        out, size = self.low_res(images)
        height, width = images.shape[2:]

        def full(scores: Tensor) -> Tensor:
            return self.upsample(scores, size)[..., :height, :width]

        upsampled = {name: full(s) if s.ndim == 4 else s for name, s in out.auxiliary.items()}
        return SegmenterOutput(full(out.logits), upsampled, out.penalties)

    def low_res(self, images: Tensor) -> tuple[SegmenterOutput, tuple[int, int]]:
        """Scores as the heads give them, (B, K, h, w), and the size forward upsamples them to.

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

    def upsample(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
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

    def config(self) -> dict[str, Any]:
        """What must travel with the weights, JSON-able; ``load_model`` builds the network from it.

        ``model`` is the recipe, None for a network of custom parts; ``source`` is there only for
        converted weights.
        """
        config = {
            "scenewise": __version__,
            "model": self.recipe,
            "classes": self.classes.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
        }
        return config if self.source is None else {**config, "source": self.source}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``, each whole or not at all.

        Raises:
            UserError: the folder cannot be written to, or the disk is full.
        """
        target = Path(folder)
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()}
        with atomic_write(target / WEIGHTS) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})
        write_json(target / CONFIG, self.config())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module is in the mode it was in.

    >>> model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    >>> with evaluating(model):
    ...     [module.training for module in model]
    [False, False]
    >>> [module.training for module in model]
    [True, False]
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _pad(images: Tensor, multiple: int) -> Tensor:
    """Zeros (the mean colour) right and below, up to multiples of ``multiple``."""
    if multiple == 1:
        return images
    height, width = ((side + multiple - 1) // multiple * multiple for side in images.shape[2:])
    return F.pad(images, (0, width - images.shape[3], 0, height - images.shape[2]))
