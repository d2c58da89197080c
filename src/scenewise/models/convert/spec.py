"""What a family of published checkpoints is, and what is told about one file of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from scenewise.models.resnet_keys import resnet_name, resnet_places

Tensors = Mapping[str, Tensor]
ToOurs = Callable[[str, Tensor], Tensor]

RGB_255 = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "RGB", 255.0)
RGB_1 = Preprocessing(IMAGENET_MEAN, IMAGENET_STD)


@dataclass(frozen=True)
class Options:
    """What a file cannot tell. None is the setting of the released weights.

    Attributes:
        family: its name, instead of recognising it by the keys.
        multi_grid: dilations of the last stage's blocks; () for none.
        recurrence: of criss-cross attention.
        align_corners: how scores are upsampled.
        output_stride: 8 or 16.
    """

    family: str | None = None
    multi_grid: tuple[int, ...] | None = None
    recurrence: int | None = None
    align_corners: bool | None = None
    output_stride: int | None = None

    def given(self) -> dict[str, Any]:
        """Those that were given, JSON-able."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in vars(self).items()
            if value is not None
        }


@dataclass(frozen=True)
class Source:
    """A file, as the families see it.

    Attributes:
        name: without folders; mmsegmentation tells crop and stride in it.
        tensors: by their names in the file, without ``module.``.
        content: the whole file; mmsegmentation keeps class names beside the tensors.
    """

    name: str
    tensors: Tensors
    content: Mapping[str, Any]

    def rows(self, *keys: str) -> int:
        """How many classes the first of these classifiers that the file has gives."""
        for key in keys:
            if key in self.tensors and self.tensors[key].ndim:
                return int(self.tensors[key].shape[0])
        raise UserError(f"'{self.name}' has no tensor '{keys[0]}'; the file is incomplete")

    def has(self, prefix: str) -> bool:
        """Whether a name starts so."""
        return any(key.startswith(prefix) for key in self.tensors)


def as_it_is(key: str, tensor: Tensor) -> Tensor:
    """The tensor, with one entry more or less around a scalar (gamma) as our parameter has it."""
    return tensor.reshape(1) if tensor.ndim == 0 and key.rpartition(".")[2] == "scale" else tensor


def absolute(key: str, tensor: Tensor) -> Tensor:
    """InPlaceABN scales by ``|weight| + eps`` and not by its weight."""
    return tensor.abs() + 1e-5


@dataclass(frozen=True)
class Design:
    """The network that a file holds, and where each of its tensors goes.

    Attributes:
        network, variant: for ``create_model``.
        backbone: timm's name.
        places: prefixes of the file's names to prefixes of ours.
        classes, preprocessing: that travel with the weights.
        arguments: further ones for ``create_model``.
        dropped: prefixes of what is left out on purpose, such as the ImageNet classifier.
        to_ours: (name in the file, tensor) -> our tensor, where the form differs.
        absolute_norms: the norms are InPlaceABN's.
    """

    network: str
    variant: str
    backbone: str
    places: dict[str, str]
    classes: Classes
    preprocessing: Preprocessing
    arguments: dict[str, Any] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    to_ours: ToOurs = as_it_is
    absolute_norms: bool = False


@dataclass(frozen=True)
class Family:
    """One project's checkpoints.

    Attributes:
        title: in plain words.
        matches: whether a file's names are of this family.
        design: what the file holds.
    """

    title: str
    matches: Callable[[Tensors], bool]
    design: Callable[[Source, Options], Design]


def find_backbone(source: Source, prefix: str) -> tuple[str, dict[str, str]]:
    """timm's name of the ResNet behind ``prefix``, and the places of its tensors.

    Raises:
        UserError: none is there, or one that is not supported.
    """
    places = resnet_places(source.tensors, prefix)
    name = resnet_name(source.tensors, places) if places else None
    if name is None:
        raise UserError(
            f"'{source.name}' has no ResNet-50, 101 or 152 behind '{prefix}' with a known stem; "
            "other backbones are not converted"
        )
    return name, {theirs: f"backbone.net.{ours}" for theirs, ours in places.items()}


def refuse_torch_norms(source: Source) -> None:
    """PyTorch's norms, told by their counters, do not scale by |weight|, and ReLU follows them.

    Raises:
        UserError: a counter is there, where the family's published networks have InPlaceABN.
    """
    if any(key.endswith("num_batches_tracked") for key in source.tensors):
        raise UserError(
            f"'{source.name}' was trained with PyTorch's batch norm; of this family only networks "
            "with InPlaceABN and leaky ReLU, the published ones, are converted"
        )


def settle(options: Options, **released: Any) -> dict[str, Any]:
    """The released settings, replaced where an option is given.

    >>> settle(Options(multi_grid=()), multi_grid=(4, 8, 16), output_stride=8)
    {'multi_grid': None, 'output_stride': 8}
    """
    given = {key: getattr(options, key, None) for key in released}
    settled = {k: released[k] if given[k] is None else given[k] for k in released}
    if "multi_grid" in settled:
        settled["multi_grid"] = list(settled["multi_grid"] or ()) or None
    return settled
