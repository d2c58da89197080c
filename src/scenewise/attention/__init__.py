"""Attention blocks as PyTorch modules: (B, C, H, W) in, the same shape out; torch alone is needed.

Shapes: B samples, C channels, H rows and W columns, N = H W pixels in row-major order, D (or d)
channels of query and key, K classes, codewords or bases, S bins or centres.

>>> import torch
>>> from scenewise.attention import PositionAttention
>>> PositionAttention(64)(torch.randn(1, 64, 12, 20)).shape
torch.Size([1, 64, 12, 20])
"""

from scenewise.attention.asymmetric import AsymmetricFusion, AsymmetricPyramid, pyramid_average
from scenewise.attention.cbam import CBAM
from scenewise.attention.channel import ChannelAttention, channel_attention
from scenewise.attention.compact import CompactChannel, CompactPosition, CrossLevelGate
from scenewise.attention.context_encoding import ContextEncoding, encode
from scenewise.attention.criss_cross import CrissCrossAttention, criss_cross_attention
from scenewise.attention.disentangled import DisentangledNonLocal
from scenewise.attention.expectation_maximisation import (
    ExpectationMaximisation,
    expectation_maximisation,
)
from scenewise.attention.global_context import GlobalContext
from scenewise.attention.interaction import InteractionAware, diversity_loss, pca_loss
from scenewise.attention.interlaced import GroupAttention, InterlacedSparse
from scenewise.attention.non_local import NonLocal, dot_product_mix, rectified_sum_mix
from scenewise.attention.ocnet import ASPOC, BaseOC, ObjectAttention, PyramidOC
from scenewise.attention.ocr import ObjectContextual, region_features
from scenewise.attention.pointwise import PointwiseSpatial, offset_energies
from scenewise.attention.position import PositionAttention, position_attention
from scenewise.attention.sagan import SAGANAttention
from scenewise.attention.squeeze_excite import SqueezeExcite

__all__ = [
    "ASPOC",
    "CBAM",
    "AsymmetricFusion",
    "AsymmetricPyramid",
    "BaseOC",
    "ChannelAttention",
    "CompactChannel",
    "CompactPosition",
    "ContextEncoding",
    "CrissCrossAttention",
    "CrossLevelGate",
    "DisentangledNonLocal",
    "ExpectationMaximisation",
    "GlobalContext",
    "GroupAttention",
    "InteractionAware",
    "InterlacedSparse",
    "NonLocal",
    "ObjectAttention",
    "ObjectContextual",
    "PointwiseSpatial",
    "PositionAttention",
    "PyramidOC",
    "SAGANAttention",
    "SqueezeExcite",
    "channel_attention",
    "criss_cross_attention",
    "diversity_loss",
    "dot_product_mix",
    "encode",
    "expectation_maximisation",
    "offset_energies",
    "pca_loss",
    "position_attention",
    "pyramid_average",
    "rectified_sum_mix",
    "region_features",
]
