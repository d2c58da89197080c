"""Data classes of the conversion: options, the source file, the target network, the family."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scenewise.classes import Classes, distinct_colors
from scenewise.errors import UserError
from scenewise.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from scenewise.models.resnet_keys import is_basic, resnet_mapping, resnet_name

Tensors = Mapping[str, Tensor]
KeyMapping = dict[str, str]  # prefixes of the file's keys -> prefixes here

_MOST_CLASSES = 256  # one byte a pixel
_LARGEST_CLASSIFIER = 1_000_000  # elements; an expanded tensor claims any number
RGB_255 = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "RGB", 255.0)
RGB_1 = Preprocessing(IMAGENET_MEAN, IMAGENET_STD)


@dataclass(frozen=True)
class Options:
    """Settings that a file does not hold. None is the setting of the released weights.

    Attributes:
        family: its name, instead of detecting it from the keys.
        multi_grid: dilations of the last stage's blocks; () for none.
        recurrence: of criss-cross attention.
        align_corners: of the bilinear upsampling of logits.
        output_stride: 8, 16 or 32.
        threshold: above which a pixel is the object, in networks with one output channel.
        ema: whether to take the averaged weights where the file has both copies.
    """

    family: str | None = None
    multi_grid: tuple[int, ...] | None = None
    recurrence: int | None = None
    align_corners: bool | None = None
    output_stride: int | None = None
    threshold: float | None = None
    ema: bool | None = None

    def given(self) -> dict[str, Any]:
        """The options that are not None, as JSON types."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in vars(self).items()
            if value is not None
        }


class Setting(NamedTuple):
    """A setting that no tensor's shape shows, and what decided it.

    Attributes:
        value: as a JSON type, or the preprocessing.
        origin: ``"option"``, ``"config in the file"``, ``"file name"``, ``"tensors in the file"``
            or ``"released default"``.
    """

    value: Any
    origin: str


@dataclass(frozen=True)
class Source:
    """The checkpoint file.

    Attributes:
        name: without folders; mmsegmentation's file names hold crop and stride.
        tensors: by their names in the file, without the prefixes of wrappers.
        content: the whole file; mmsegmentation's holds class names too.
    """

    name: str
    tensors: Tensors
    content: Mapping[str, Any]

    def rows(self, *keys: str) -> int:
        """The number of classes: rows of the first of these tensors that the file has."""
        for key in keys:
            if key in self.tensors and self.tensors[key].ndim:
                count = int(self.tensors[key].shape[0])
                if not 1 <= count <= _MOST_CLASSES:
                    raise UserError(
                        f"'{self.name}' has {count:,} classes in '{key}'; a mask has 1 to "
                        f"{_MOST_CLASSES}"
                    )
                return count
        raise UserError(f"'{self.name}' has no tensor '{keys[0]}'; the file is incomplete")

    def has(self, prefix: str) -> bool:
        """Whether a name starts with ``prefix``."""
        return any(key.startswith(prefix) for key in self.tensors)


def unsqueeze_scale(key: str, tensor: Tensor) -> Tensor:
    """The tensor; a scalar scale (gamma) with shape (1,), as the parameter has here."""
    return tensor.reshape(1) if tensor.ndim == 0 and key.rpartition(".")[2] == "scale" else tensor


def two_rows(tensor: Tensor, threshold: float) -> Tensor:
    """The weight or bias of a classifier with one output z, for the logits 0 and z - logit(t).

    The object is then the larger logit where sigmoid(z) > t, and at t = 0.5 its softmax is
    sigmoid(z). A tensor that is not of such a classifier is returned unchanged.

    >>> two_rows(torch.tensor([2.0]), 0.5)
    tensor([0., 2.])
    """
    if tensor.ndim == 1:
        if tensor.shape[0] != 1:
            return tensor
        tensor = tensor.float() - math.log(threshold / (1 - threshold))  # (1,)
    elif tensor.shape[:1] != (1,) or tensor.numel() > _LARGEST_CLASSIFIER:
        return tensor
    return torch.cat([torch.zeros_like(tensor), tensor])  # (2, ...), the background first


def check_threshold(threshold: float) -> float:
    """``threshold``; a UserError unless it is between 0 and 1."""
    if not 0 < threshold < 1:
        raise UserError(f"threshold is {threshold}; give a number between 0 and 1")
    return threshold


def binary_classes(name: str = "object") -> Classes:
    """``background`` and the object.

    >>> binary_classes("vessel").names
    ('background', 'vessel')
    """
    return Classes(("background", name), distinct_colors(2))


@dataclass(frozen=True)
class Design:
    """The network that a file holds, and the key mapping of its tensors.

    Attributes:
        network, variant: for ``create_model``.
        backbone: timm's name.
        key_mapping: prefixes of the file's keys -> prefixes here.
        classes, preprocessing: saved with the weights.
        arguments: further ones for ``create_model``.
        dropped: prefixes that are left out on purpose, and what they are.
        import_tensor: (key in the file, tensor) -> tensor here, where shapes differ.
        absolute_norms: the norms are InPlaceABN's.
        settings: those that no tensor's shape shows, and what decided each.
    """

    network: str
    variant: str
    backbone: str
    key_mapping: KeyMapping
    classes: Classes
    preprocessing: Preprocessing
    arguments: dict[str, Any] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)
    import_tensor: Callable[[str, Tensor], Tensor] = unsqueeze_scale
    absolute_norms: bool = False
    settings: dict[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """One project's checkpoints.

    Attributes:
        title: for error messages.
        matches: whether a file's keys are of this family.
        design: (source, options) -> the network in the file.
    """

    title: str
    matches: Callable[[Tensors], bool]
    design: Callable[[Source, Options], Design]


def find_backbone(source: Source, prefix: str, *, basic: bool = False) -> tuple[str, KeyMapping]:
    """timm's name of the ResNet under ``prefix``, and the key mapping of its tensors.

    ``basic`` allows ResNet-18 and 34, whose dilations only mmsegmentation's code settles.

    Raises:
        UserError: a ResNet is not found, or not supported.
    """
    mapping = resnet_mapping(source.tensors, prefix)
    name = resnet_name(source.tensors, mapping) if mapping else None
    if name is None or (is_basic(name) and not basic):
        shallow = "ResNet-18, 34, 50" if basic else "ResNet-50"
        raise UserError(
            f"'{source.name}' has no {shallow}, 101 or 152 with a known stem under '{prefix}'; "
            "other backbones are not supported"
        )
    return name, {key: f"backbone.net.{target}" for key, target in mapping.items()}


def refuse_torch_norms(source: Source) -> None:
    """Refuse PyTorch's batch norms, which do not scale by ``|weight|`` and are followed by ReLU.

    Raises:
        UserError: a norm has a counter; the family's published networks have InPlaceABN without.
    """
    if any(key.endswith("num_batches_tracked") for key in source.tensors):
        raise UserError(
            f"'{source.name}' was trained with PyTorch's batch norm; of this family only networks "
            "with InPlaceABN and leaky ReLU, the published ones, are supported"
        )


def settle(
    options: Options,
    config: Mapping[str, Any] | None = None,
    name: Mapping[str, Any] | None = None,
    **released: Any,
) -> dict[str, Setting]:
    """Each of the ``released`` settings, from the first source that has it.

    Sources are the options, the config in the file, the file name, and the released value.

    >>> settle(Options(multi_grid=()), multi_grid=(4, 8, 16))
    {'multi_grid': Setting(value=None, origin='option')}
    >>> settle(Options(), {"output_stride": 8}, output_stride=16)["output_stride"].origin
    'config in the file'
    """
    given = {key: value for key, value in vars(options).items() if value is not None}
    sources = {
        "option": given,
        "config in the file": config or {},
        "file name": name or {},
        "released default": released,
    }
    return {
        key: next(
            Setting(_plain(values[key]), origin)
            for origin, values in sources.items()
            if key in values
        )
        for key in released
    }


def arguments(settings: Mapping[str, Setting]) -> dict[str, Any]:
    """The settings that are arguments of ``create_model``."""
    others = ("preprocessing", "threshold")
    return {key: setting.value for key, setting in settings.items() if key not in others}


def _plain(value: Any) -> Any:
    """Tuples as lists; () means none."""
    return (list(value) or None) if isinstance(value, (tuple, list)) else value
