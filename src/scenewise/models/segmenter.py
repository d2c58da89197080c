"""``Segmenter``: backbone, head, and the configuration that is saved with the weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from scenewise._version import __version__
from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.files import atomic_write, write_json
from scenewise.models.classifiers import replace_classifiers
from scenewise.models.heads.base import HeadOutput
from scenewise.models.preprocessing import Preprocessing

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


class SegmenterOutput(NamedTuple):
    """What a :class:`Segmenter` returns, in training and evaluation alike.

    Attributes:
        logits: (B, K, H, W), at the size of the images.
        auxiliary: named auxiliary logits of the same shape, or (B, K) where they predict which
            classes the image shows; empty in evaluation.
        penalties: named scalar losses that blocks add.
    """

    logits: Tensor
    auxiliary: dict[str, Tensor]
    penalties: dict[str, Tensor]


class Segmenter(nn.Module):
    """A scene-segmentation network that knows its classes, colours and preprocessing.

    Built by :func:`scenewise.create_model`; the constructor also takes custom parts.

    Args:
        backbone: images -> list of feature maps. A backbone that needs image sides to be multiples
            of a number has that number as its attribute ``multiple``.
        head: list of feature maps -> :class:`scenewise.models.heads.HeadOutput`.
        auxiliary_head: another head on an earlier stage, used in training only.
        classes: names and colours.
        preprocessing: applied by :meth:`normalize`, nowhere else.
        align_corners: of the bilinear upsampling of logits to the size of the images.
        loss_weights: weight of each auxiliary output and penalty in the loss.
        recipe: arguments of ``create_model`` that build this network again; None for a network
            of custom parts, whose weights can only be loaded with ``load_model(path, into=...)``.
        source: where converted weights come from: file, sha256, family, options; else None.
        thresholds: of class probabilities, by class name, as ``scenewise test --choose_thresholds``
            chose them; a Predictor uses them if it is asked to.
    """

    def __init__(  # noqa: PLR0913 - all that a network is
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
        thresholds: dict[str, float] | None = None,
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
        self.thresholds = thresholds or {}

    def forward(self, images: Tensor) -> SegmenterOutput:
        """Normalised images (B, C, H, W) -> logits (B, K, H, W); C is 3 for RGB."""
        out, size = self.low_res(images)
        height, width = images.shape[2:]

        def full(logits: Tensor) -> Tensor:
            return self.upsample(logits, size)[..., :height, :width]  # without the padding

        upsampled = {
            name: full(logits) if logits.ndim == 4 else logits  # (B, K) has no size
            for name, logits in out.auxiliary.items()
        }
        return SegmenterOutput(full(out.logits), upsampled, out.penalties)

    def low_res(self, images: Tensor) -> tuple[SegmenterOutput, tuple[int, int]]:
        """Low-resolution logits (B, K, h, w), and the size that ``forward`` upsamples them to.

        That size is the images', or larger for backbones that need multiples of a number;
        ``forward`` then crops the padding on the right and below.
        """
        features = self.features(images)
        return self.decode(features), self.padded((images.shape[2], images.shape[3]))

    def features(self, images: Tensor) -> list[Tensor]:
        """The backbone's feature maps of normalised images, each (B, C_i, h_i, w_i)."""
        channels = self.preprocessing.in_channels
        if images.ndim != 4 or images.shape[1] != channels:
            raise UserError(
                f"the network takes images of shape (B, {channels}, H, W), not "
                f"{tuple(images.shape)}; add or permute axes"
            )
        if getattr(self.backbone, "multiple", 1) != 1:  # with zeros, the mean colour
            height, width = self.padded((images.shape[2], images.shape[3]))
            images = F.pad(images, (0, width - images.shape[3], 0, height - images.shape[2]))
        features: list[Tensor] = self.backbone(images)
        return features

    def decode(self, features: list[Tensor]) -> SegmenterOutput:
        """Low-resolution logits (B, K, h, w) from the backbone's feature maps."""
        out: HeadOutput = self.head(features)
        auxiliary = dict(out.auxiliary)
        if self.training and self.auxiliary_head is not None:
            auxiliary["auxiliary"] = self.auxiliary_head(features).logits
        return SegmenterOutput(out.logits, auxiliary, out.penalties)

    def padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width after padding right and below to multiples that the backbone takes."""
        multiple = getattr(self.backbone, "multiple", 1)
        if multiple == 1:
            return size
        height, width = ((n + multiple - 1) // multiple * multiple for n in size)  # up
        return height, width

    def normalize(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> the network's input, as :class:`Preprocessing` describes."""
        return self.preprocessing(images)

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Bilinear resize of (B, K, h, w) to ``size`` = (height, width)."""
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=self.align_corners)

    def parameter_groups(self, lr: float, head_multiplier: float = 1.0) -> list[dict[str, Any]]:
        """Parameter groups: the backbone at ``lr``, all else at ``lr * head_multiplier``.

        Frozen parameters (without ``requires_grad``) are in none, and there is no empty group.
        """
        backbone = list(self.backbone.parameters())
        ids = {id(p) for p in backbone}  # `in` would compare tensors elementwise
        rest = [p for p in self.parameters() if id(p) not in ids]
        groups: list[dict[str, Any]] = [
            {"params": backbone, "lr": lr, "name": "backbone"},
            {"params": rest, "lr": lr * head_multiplier, "name": "head"},
        ]
        for group in groups:
            group["params"] = [p for p in group["params"] if p.requires_grad]
        return [group for group in groups if group["params"]]

    def with_classes(self, classes: Classes) -> "Segmenter":
        """A copy for other classes: everything but the classifiers is equal to the bit.

        In every classifier, those of auxiliary heads included, the rows of classes that both call
        by the same name are kept; the others are random, as PyTorch initialises a layer.

        Raises:
            UserError: a network of custom parts; build it again with the classes.

        >>> from scenewise import create_model
        >>> street = Classes(("road", "sky"), ((128, 64, 128), (70, 130, 180)))
        >>> harbour = Classes(("ship", "sky", "water"), ((9, 9, 9), (70, 130, 180), (0, 0, 250)))
        >>> model = create_model("danet", classes=street, backbone="tiny")
        >>> other = model.with_classes(harbour)
        >>> bool((other.head.classify[1].weight[1] == model.head.classify[1].weight[1]).all())
        True
        """
        if self.recipe is None:
            raise UserError(
                "a network with custom parts cannot take other classes; build it again with them"
            )
        model = deepcopy(self)
        replace_classifiers(model, self.classes, classes)
        model.classes, model.thresholds = classes, {}
        return model

    def config(self) -> dict[str, Any]:
        """The content of ``config.json``; ``load_model`` builds the network from it.

        ``model`` is the recipe, None for a network of custom parts; only converted weights have
        ``source``, and only models with chosen thresholds have ``thresholds``.
        """
        config: dict[str, Any] = {
            "scenewise": __version__,
            "model": self.recipe,
            "classes": self.classes.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
        }
        if self.source is not None:
            config["source"] = self.source
        if self.thresholds:
            config["thresholds"] = self.thresholds
        return config

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``, each atomically.

        Raises:
            UserError: the folder cannot be written to, or the disk is full.
        """
        target = Path(folder)
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()}
        with atomic_write(target / WEIGHTS) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})  # as transformers expects
        write_json(target / CONFIG, self.config())

    @staticmethod
    def from_pretrained(source: str | Path) -> "Segmenter":
        """The model in ``source``, see :func:`scenewise.load_model`."""
        above = import_module("scenewise.models.checkpoints")  # it builds Segmenters
        model: Segmenter = above.load_model(source)
        return model

    def push_to_hub(
        self,
        repo: str,
        *,
        licence: str,
        dataset: str | None = None,
        metrics: Mapping[str, Any] | None = None,
        private: bool = False,
    ) -> str:
        """Upload ``config.json``, ``model.safetensors`` and a model card, in one commit.

        ``load_model("hf-hub:owner/name")`` loads it again. A card that was edited on the hub is
        kept.

        Args:
            repo: ``owner/name``; created if it does not exist.
            licence: identifier of the hub, for example ``apache-2.0`` or ``cc-by-4.0``.
            dataset: id on the hub, ``owner/name``, of the dataset that was scored.
            metrics: the content of the run's ``metrics.json``.
            private: of a repository that is created.

        Returns:
            The address of the repository.

        Raises:
            UserError: scores of another model, not logged in, no connection, or the repository
                cannot be written to.
        """
        above = import_module("scenewise.models.publish")  # it saves Segmenters
        about = above.About(licence, dataset, metrics)
        address: str = above.push_to_hub(self, repo, about, private=private)
        return address


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the context; restores the mode of every module afterwards.

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
