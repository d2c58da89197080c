"""Parameter counts: with each block, a whole network has exactly the published number.

The networks are mmsegmentation's with a ResNet-50 (V1c) of stride 8 and 19 classes, with the
auxiliary head; all but the block is counted here by hand.
"""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from scenewise.attention import (
    AsymmetricFusion,
    AsymmetricPyramid,
    ContextEncoding,
    CrissCrossAttention,
    DisentangledNonLocal,
    ExpectationMaximisation,
    GlobalContext,
    InterlacedSparse,
    NonLocal,
    ObjectContextual,
)


def conv(inputs: int, outputs: int, kernel: int = 3) -> int:
    """A convolution without bias and its batch norm."""
    return inputs * outputs * kernel**2 + 2 * outputs


def classifier(width: int) -> int:
    return (width + 1) * 19


AUXILIARY = conv(1024, 256) + classifier(256)
FCN_HEAD = conv(2048, 512) + conv(512, 512) + conv(2560, 512) + classifier(512)
BACKBONE = 49_497_734 - FCN_HEAD - AUXILIARY  # of the published FCN
REDUCED = BACKBONE + AUXILIARY + conv(2048, 512) + classifier(512)

CASES: dict[str, tuple[int, int, Callable[[], list[nn.Module]]]] = {
    "ccnet": (49_826_055, BACKBONE + AUXILIARY + FCN_HEAD, lambda: [CrissCrossAttention(512)]),
    "nonlocal": (
        50_023_814,
        BACKBONE + AUXILIARY + FCN_HEAD,
        lambda: [NonLocal(512, variant="mmcv")],
    ),
    "dnl": (
        50_024_327,
        BACKBONE + AUXILIARY + FCN_HEAD,
        lambda: [DisentangledNonLocal(512, variant="mmseg")],
    ),
    "gcnet": (49_630_215, BACKBONE + AUXILIARY + FCN_HEAD, lambda: [GlobalContext(512)]),
    "isanet": (37_707_398, REDUCED, lambda: [InterlacedSparse(512, variant="mmseg")]),
    "ann": (
        46_228_614,
        REDUCED,
        lambda: [
            AsymmetricFusion(2048, 1024, variant="mmseg"),
            AsymmetricPyramid(512, variant="mmseg"),
        ],
    ),
    "ocrnet": (36_524_166, REDUCED, lambda: [ObjectContextual(512, variant="mmseg")]),
    "emanet": (
        42_349_958,
        BACKBONE + AUXILIARY + conv(2048, 512) + conv(512, 256) + conv(2304, 256) + classifier(256),
        lambda: [ExpectationMaximisation(512)],
    ),
    "encnet": (35_891_961, REDUCED, lambda: [ContextEncoding(512, classes=19)]),
}


@pytest.mark.parametrize("name", CASES)
def test_block_has_the_parameters_that_the_rest_lacks(name: str) -> None:
    published, rest, build = CASES[name]
    with torch.device("meta"):
        block = sum(p.numel() for module in build() for p in module.parameters())
    assert rest + block == published
