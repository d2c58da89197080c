"""Segmentation heads: the feature maps of a backbone in, logits out.

A head is called with the list of feature maps and returns a :class:`HeadOutput` at their
resolution. Auxiliary logits are computed in training only.
"""

from scenewise.models.heads.base import Head, HeadOutput
from scenewise.models.heads.chain import ChainHead, list_contexts
from scenewise.models.heads.danet import DANetHead, DualAttention
from scenewise.models.heads.fcn import FCNHead

__all__ = [
    "ChainHead",
    "DANetHead",
    "DualAttention",
    "FCNHead",
    "Head",
    "HeadOutput",
    "list_contexts",
]
