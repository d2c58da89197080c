"""Label images and overlays; attention maps, statistics and figures; gradients."""

from scenewise.visualize.attention_maps import (
    AttentionMaps,
    BlockMaps,
    ChannelMaps,
    GateMaps,
    PositionMaps,
    attention_maps,
)
from scenewise.visualize.change import change_figure
from scenewise.visualize.clip import explain_clip, frame_rows
from scenewise.visualize.effect import BlockEffect, Effect, Explained, effect, explained
from scenewise.visualize.figure import explain_figure
from scenewise.visualize.gradient import gradient_map
from scenewise.visualize.gradient_figure import Gradients, PixelGradient, gradient_figure
from scenewise.visualize.overlay import colorize, overlay, save_image, save_labels, shares
from scenewise.visualize.statistics import (
    Ablation,
    AttentionSums,
    Spread,
    ablate,
    attended_shares,
    attention_sums,
    channel_contrast,
    class_attention,
    spread,
    switched_off,
)

__all__ = [
    "Ablation",
    "AttentionMaps",
    "AttentionSums",
    "BlockEffect",
    "BlockMaps",
    "ChannelMaps",
    "Effect",
    "Explained",
    "GateMaps",
    "Gradients",
    "PixelGradient",
    "PositionMaps",
    "Spread",
    "ablate",
    "attended_shares",
    "attention_maps",
    "attention_sums",
    "change_figure",
    "channel_contrast",
    "class_attention",
    "colorize",
    "effect",
    "explain_clip",
    "explain_figure",
    "explained",
    "frame_rows",
    "gradient_figure",
    "gradient_map",
    "overlay",
    "save_image",
    "save_labels",
    "shares",
    "spread",
    "switched_off",
]
