"""Label images and overlays; attention maps, statistics and figures."""

from scenewise.visualize.attention_maps import (
    AttentionMaps,
    BlockMaps,
    ChannelMaps,
    GateMaps,
    PositionMaps,
    attention_maps,
)
from scenewise.visualize.clip import explain_clip, frame_rows
from scenewise.visualize.figure import explain_figure
from scenewise.visualize.overlay import colorize, overlay, save_image, save_labels, shares
from scenewise.visualize.statistics import (
    Ablation,
    Spread,
    ablate,
    channel_contrast,
    class_attention,
    spread,
    switched_off,
)

__all__ = [
    "Ablation",
    "AttentionMaps",
    "BlockMaps",
    "ChannelMaps",
    "GateMaps",
    "PositionMaps",
    "Spread",
    "ablate",
    "attention_maps",
    "channel_contrast",
    "class_attention",
    "colorize",
    "explain_clip",
    "explain_figure",
    "frame_rows",
    "overlay",
    "save_image",
    "save_labels",
    "shares",
    "spread",
    "switched_off",
]
