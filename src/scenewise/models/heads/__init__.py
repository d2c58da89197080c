"""Heads: the feature maps of a backbone in, class scores out.

A head is called with the list of feature maps and gives a :class:`HeadOutput` at their size. Side
scores are computed in training only.
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
