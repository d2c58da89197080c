"""The fingerprint of a network's weights, which its scores carry."""

import hashlib

import torch
from torch import nn


def model_fingerprint(model: nn.Module) -> str:
    """SHA-256 of names, types, shapes and values of all parameters and buffers, sorted by name.

    >>> with torch.no_grad():
    ...     layer = nn.Linear(2, 1)
    ...     before = model_fingerprint(layer)
    ...     _ = layer.bias.add_(1)
    >>> before == model_fingerprint(layer)
    False
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)  # view() below needs one axis
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()
