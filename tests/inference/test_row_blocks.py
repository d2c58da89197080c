"""Blocks of rows give the same as the whole upsampled logits, without holding them."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scenewise.inference.row_blocks import ViewLogits, add_view_, label_from_logits
from scenewise.inference.sliding_window import Size, resize, softmax_
from tests.attention.contract import peak_bytes


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(
    ("low_res", "size", "crop"),
    [
        ((5, 7), (37, 53), (37, 53)),
        ((5, 7), (40, 56), (33, 50)),
        ((1, 3), (1, 8), (1, 8)),
        ((5, 7), (2, 2), (2, 2)),
    ],
)
def test_labels_by_blocks_are_those_of_the_upsampled_logits(
    align_corners: bool, low_res: Size, size: Size, crop: Size
) -> None:
    torch.manual_seed(0)
    logits = 4 * torch.randn(6, *low_res, dtype=torch.float64)
    full = F.interpolate(logits[None], size, mode="bilinear", align_corners=align_corners)[0]
    expected, labels = full[:, : crop[0], : crop[1]].softmax(0).max(0)
    for rows in (1, 7, 64):
        result = label_from_logits(logits, size, crop, align_corners=align_corners, rows=rows)
        assert torch.equal(result[0], labels)
        torch.testing.assert_close(result[1], expected)


def test_labels_by_blocks_never_hold_the_upsampled_logits() -> None:
    logits = torch.randn(19, 64, 128)
    held = peak_bytes(
        lambda: label_from_logits(logits, (512, 1024), (512, 1024), align_corners=True)
    )
    full = 4 * 19 * 512 * 1024
    assert held < 0.6 * full  # of these 0.3 are the labels and the confidences
    labels = label_from_logits(logits, (512, 1024), (512, 1024), align_corners=True)[0]
    upsampled = F.interpolate(logits[None], (512, 1024), mode="bilinear", align_corners=True)[0]
    first, second = upsampled.topk(2, dim=0).values
    assert torch.equal(labels[first - second > 1e-5], upsampled.argmax(0)[first - second > 1e-5])


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize(
    ("low_res", "size", "crop", "image"),
    [
        ((5, 7), (23, 41), (23, 41), (23, 41)),
        ((5, 7), (24, 48), (23, 41), (37, 19)),
        ((29, 31), (29, 31), (29, 31), (11, 13)),
        ((1, 1), (1, 1), (1, 1), (3, 5)),
        ((3, 2), (17, 13), (17, 13), (1, 1)),
    ],
)
def test_a_view_by_blocks_adds_what_the_whole_view_adds(
    align_corners: bool, mirrored: bool, low_res: Size, size: Size, crop: Size, image: Size
) -> None:
    torch.manual_seed(0)
    logits, before = 4 * torch.randn(6, *low_res).double(), torch.rand(6, *image).double()
    big = F.interpolate(logits[None], size, mode="bilinear", align_corners=align_corners)[0]
    big = big[:, : crop[0], : crop[1]]

    def onto(scores: Tensor) -> Tensor:
        return resize(scores, image, align_corners=align_corners)

    cases: list[tuple[dict[str, Callable[[Tensor], Tensor]], Tensor]] = [
        ({}, onto(big)),
        ({"at_view": softmax_}, onto(big.softmax(0))),
        ({"at_image": softmax_}, onto(big).softmax(0)),
    ]
    for functions, part in cases:
        expected = before + (part.flip(-1) if mirrored else part)
        for rows in (None, 1, 7):
            total = add_view_(
                before.clone(),
                ViewLogits(logits, size, crop, mirrored),
                align_corners=align_corners,
                rows=rows,
                **functions,
            )
            torch.testing.assert_close(total, expected)


def test_a_view_by_blocks_is_never_held_at_its_size() -> None:
    view = ViewLogits(torch.randn(19, 64, 128), (1024, 2048), (1024, 2048), mirrored=True)
    total = torch.zeros(19, 512, 1024)
    held = peak_bytes(lambda: add_view_(total, view, align_corners=True, at_view=softmax_))
    assert held < 0.25 * 4 * 19 * 1024 * 2048  # 160 MB
