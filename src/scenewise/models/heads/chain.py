"""A chain of context modules, by name or custom, then the classifier."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from scenewise.attention import (
    ASPOC,
    CBAM,
    AsymmetricPyramid,
    BaseOC,
    ChannelAttention,
    CompactChannel,
    CompactPosition,
    ContextEncoding,
    CrissCrossAttention,
    DisentangledNonLocal,
    ExpectationMaximisation,
    GlobalContext,
    InterlacedSparse,
    NonLocal,
    PositionAttention,
    PyramidOC,
    SAGANAttention,
    SqueezeExcite,
)
from scenewise.attention.layers import conv_norm
from scenewise.errors import UserError
from scenewise.models.heads.base import HeadOutput
from scenewise.models.heads.danet import DualAttention
from scenewise.models.layers import classifier, head_width
from scenewise.models.pooling import ASPP, PyramidPooling


def _pyramid_pooling(inputs: int, width: int) -> nn.Sequential:
    """Pyramid pooling and the 3x3 convolution after it, as in PSPNet."""
    pooling = PyramidPooling(inputs)
    return nn.Sequential(pooling, conv_norm(pooling.out_channels, width, 3))


# Blocks that keep the number of channels; called with that number.
BLOCKS: dict[str, Callable[[int], nn.Module]] = {
    "asp_oc": ASPOC,
    "asymmetric": AsymmetricPyramid,
    "base_oc": BaseOC,
    "cbam": CBAM,
    "channel": ChannelAttention,
    "compact_channel": CompactChannel,
    "compact_position": CompactPosition,
    "context_encoding": ContextEncoding,
    "criss_cross": CrissCrossAttention,
    "disentangled": DisentangledNonLocal,
    "expectation_maximisation": ExpectationMaximisation,
    "global_context": GlobalContext,
    "interlaced": InterlacedSparse,
    "non_local": NonLocal,
    "position": PositionAttention,
    "pyramid_oc": PyramidOC,
    "sagan": SAGANAttention,
    "squeeze_excite": SqueezeExcite,
}

# Contexts that reduce the channels to the width of the chain themselves.
_REDUCING: dict[str, Callable[[int, int], nn.Module]] = {
    "aspp": ASPP,
    "dual_attention": DualAttention,
    "pyramid_pooling": _pyramid_pooling,
}


def list_contexts() -> list[str]:
    """The names that :class:`ChainHead` takes.

    >>> list_contexts()[:2]
    ['asp_oc', 'aspp']
    """
    return sorted(BLOCKS | _REDUCING)


class ChainHead(nn.Module):
    """Any context modules in sequence, then the classifier.

    Each context takes and returns ``width`` channels. The first one gets the backbone's
    last feature map: ``aspp``, ``dual_attention`` and ``pyramid_pooling`` reduce it to ``width``
    channels themselves; any other gets a 3x3 convolution with batch norm and ReLU before it.

    Args:
        channels: of the backbone's feature maps; the last is used.
        classes: K.
        contexts: names of :func:`list_contexts`, or custom modules that map (B, width, h, w) to
            the same shape; in a YAML file ``class_path`` and ``init_args``.
        width: default a quarter of the last channels, at least 64.
        dropout: probability that a channel is dropped before the classifier.

    Raises:
        UserError: an unknown name, or a module that returns another number of channels.

    >>> import torch
    >>> head = ChainHead([64], 3, contexts=["aspp", nn.Conv2d(64, 64, 1)])
    >>> head([torch.randn(2, 64, 5, 7)]).logits.shape
    torch.Size([2, 3, 5, 7])
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        *,
        contexts: Sequence[str | nn.Module] = ("aspp", "dual_attention"),
        width: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if isinstance(contexts, str) or not contexts:
            raise UserError("contexts is a list of at least one name or module; write ['aspp']")
        self.width = width or head_width(channels[-1])
        inputs = [channels[-1], *[self.width] * (len(contexts) - 1)]  # channels before each
        self.contexts = nn.ModuleList(
            _link(context, count, self.width)
            for context, count in zip(contexts, inputs, strict=True)
        )
        self.classify = classifier(self.width, classes, dropout)

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        """Feature maps -> logits at the size of the last one."""
        x = features[-1]
        for context in self.contexts:
            x = context(x)  # (B, width, h, w)
            if x.shape[1] != self.width:
                raise UserError(
                    f"context {type(context).__name__} returns {x.shape[1]} channels in a chain of "
                    f"width {self.width}; build it for {self.width}, or set the width"
                )
        return HeadOutput(self.classify(x), {}, {})


def _link(context: object, inputs: int, width: int) -> nn.Module:
    """The context, after a convolution where the number of channels changes."""
    if isinstance(context, str) and context in _REDUCING:
        return _REDUCING[context](inputs, width)
    if isinstance(context, nn.Module):
        block = context
    elif isinstance(context, str) and context in BLOCKS:
        block = BLOCKS[context](width)
    elif isinstance(context, dict) and "class_path" in context:
        raise UserError(
            f"context '{context['class_path']}' cannot be built; check that it is a torch "
            "module, that Python can import it (PYTHONPATH), and that its init_args are valid"
        )
    else:
        raise UserError(
            f"unknown context {context!r}; choose from {', '.join(list_contexts())}, or give a "
            "module"
        )
    return block if inputs == width else nn.Sequential(conv_norm(inputs, width, 3), block)
