"""Weights of whole timm networks for the part of them that returns feature maps."""

from typing import Any

from torch import Tensor, nn


def fitted(tensors: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """``tensors`` under the names of ``network``, position embeddings resampled for its size.

    timm returns feature maps from a wrapper, which calls ``blocks.0.norm1.weight`` of a vision
    transformer ``model.blocks.0.norm1.weight``, and ``stages.0`` of a ConvNeXt ``stages_0``. A
    position embedding of another input size is resampled (bicubic), as timm does.

    >>> import timm, torch
    >>> net = timm.create_model("test_vit", features_only=True)  # (1, 1 + 10 x 10, 64)
    >>> found = fitted({"pos_embed": torch.ones(1, 1 + 4 * 4, 64)}, net)
    >>> [(name, tuple(tensor.shape)) for name, tensor in found.items()]
    [('model.pos_embed', (1, 101, 64))]
    """
    names = {_plain(name): name for name in network.state_dict()}
    found = {names.get(_plain(name), name): tensor for name, tensor in tensors.items()}
    inner: Any = getattr(network, "model", None)
    own: Any = getattr(inner, "pos_embed", None)
    given = found.get("model.pos_embed")
    if own is None or given is None or given.shape == own.shape or given.ndim != 3:
        return found
    prefix = 0 if inner.no_embed_class else inner.num_prefix_tokens
    side = round((given.shape[1] - prefix) ** 0.5)
    if given.shape[2] == own.shape[2] and side**2 + prefix == given.shape[1]:
        grid = list(inner.patch_embed.grid_size)
        from timm.layers.pos_embed import resample_abs_pos_embed  # timm takes long to import

        found["model.pos_embed"] = resample_abs_pos_embed(given, grid, num_prefix_tokens=prefix)
    return found


def _plain(name: str) -> str:
    return name.removeprefix("model.").replace(".", "_")
