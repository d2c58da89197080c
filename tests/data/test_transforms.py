"""Joint transforms keep image and mask aligned and draw random numbers from PyTorch only."""

import math
import pickle

import pytest
import torch
from torchvision import tv_tensors

from scenewise.data.photometric import PhotometricDistortion
from scenewise.data.transforms import (
    RandomScaleCrop,
    eval_transform,
    train_transform,
)
from scenewise.data.value_range import ImageFormat

MEAN_COLOR = ImageFormat().padding


def gradient(height: int, width: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """An image whose channels are row, column and 0, with the row as its mask."""
    rows = torch.arange(height, dtype=torch.uint8)[:, None].expand(height, width)
    columns = torch.arange(width, dtype=torch.uint8).expand(height, width)
    image = torch.stack([rows, columns, torch.zeros_like(rows)])
    return tv_tensors.Image(image), tv_tensors.Mask(rows.clone())


def test_a_crop_at_scale_one_is_a_part_of_the_image() -> None:
    image, mask = gradient(31, 41)
    corners = set()
    for _ in range(200):
        patch, ids = RandomScaleCrop((7, 11), (1.0, 1.0))(image, mask)
        top, left = int(patch[0, 0, 0]), int(patch[1, 0, 0])
        corners.add((top, left))
        assert torch.equal(patch, image[:, top : top + 7, left : left + 11])
        assert torch.equal(ids, mask[top : top + 7, left : left + 11])
    tops, lefts = zip(*corners, strict=True)
    assert (min(tops), max(tops), min(lefts), max(lefts)) == (0, 24, 0, 30)


@pytest.mark.parametrize("factor", [0.5, 0.7, 1.3, 2.0])
def test_image_and_mask_stay_aligned_when_scaled(factor: float) -> None:
    image, mask = gradient(101, 131)
    for _ in range(20):
        patch, ids = RandomScaleCrop((23, 31), (factor, factor))(image, mask)
        inner = slice(2, -2)
        assert (patch[0, inner].float() - ids[inner].float()).abs().max() <= 1
        slope = (patch[0, -3].float() - patch[0, 2].float()).mean() / (23 - 5)
        assert slope.item() == pytest.approx(1 / factor, rel=0.1)
        slope = (patch[1, :, -3].float() - patch[1, :, 2].float()).mean() / (31 - 5)
        assert slope.item() == pytest.approx(1 / factor, rel=0.1)


def test_the_mask_is_not_shifted_against_the_image() -> None:
    image, mask = gradient(101, 131)
    shifts = []
    for _ in range(50):
        patch, ids = RandomScaleCrop((23, 31), (0.7, 0.7))(image, mask)
        shifts.append((patch[0, 2:-2].double() - ids[2:-2].double()).mean())
    assert abs(torch.stack(shifts).mean()) < 0.2


def test_all_scales_of_the_range_are_drawn() -> None:
    image, mask = gradient(200, 200)
    crop = RandomScaleCrop((20, 20), (0.5, 2.0))
    factors = [
        20 / float(crop(image, mask)[0][0].float().diff(dim=0).sum(0).mean()) for _ in "x" * 200
    ]
    assert 0.45 < min(factors) < 0.6
    assert 1.8 < max(factors) < 2.3


@pytest.mark.parametrize(
    ("base", "factor"), [((60, math.inf), 60 / 101), ((1000, 262), 2.0), ((60, 131), 60 / 101)]
)
def test_factor_one_fills_the_base_size(base: tuple[float, float], factor: float) -> None:
    image, mask = gradient(101, 131)
    crop = RandomScaleCrop((33, 41), (1.0, 1.0), base=base)
    for _ in range(10):
        patch, _ = crop(image, mask)
        slope = (patch[0, -3].float() - patch[0, 2].float()).mean() / (33 - 5)
        assert slope.item() == pytest.approx(1 / factor, rel=0.12)


def test_factors_in_steps_are_all_drawn_and_no_others() -> None:
    crop = RandomScaleCrop((4, 4), (0.7, 2.1), step=0.1)
    drawn = {round(crop._factor(torch.zeros(8, 8)), 6) for _ in range(400)}
    assert drawn == {round(0.7 + 0.1 * k, 6) for k in range(15)}


def test_crops_of_one_class_are_drawn_again() -> None:
    """Class 1 fills the right fifth; a window without it is of one class."""
    image, mask = gradient(20, 100)
    mask = tv_tensors.Mask((torch.arange(100) >= 80).to(torch.uint8).expand(20, 100).clone())
    mask[:4] = 255

    def accepted(share: float) -> int:
        crop = RandomScaleCrop((20, 40), (1.0, 1.0), max_share=share)
        ones = [
            float((ids[4:] == 1).float().mean())
            for _, ids in (crop(image, mask) for _ in "x" * 200)
        ]
        return sum(0.25 < part < 0.75 for part in ones)

    assert accepted(1.0) < 80  # 9 or 10 of 61 places are
    assert accepted(0.75) > 120  # in one of ten tries: 80 %


def test_an_image_of_one_class_is_accepted_after_ten_crops() -> None:
    image, _ = gradient(20, 30)
    mask = tv_tensors.Mask(torch.zeros(20, 30, dtype=torch.uint8))
    patch, ids = RandomScaleCrop((8, 8), (1.0, 1.0), max_share=0.5)(image, mask)
    assert patch.shape == (3, 8, 8)
    assert ids.unique().tolist() == [0]


def test_small_images_are_padded_with_the_mean_colour_and_ignored() -> None:
    image, mask = gradient(5, 7)
    patch, ids = RandomScaleCrop((13, 11), (1.0, 1.0), ignore_index=99)(image, mask)
    assert torch.equal(patch[:, :5, :7], image)
    assert torch.equal(ids[:5, :7], mask)
    outside = torch.ones(13, 11, dtype=torch.bool)
    outside[:5, :7] = False
    assert ids[outside].unique().tolist() == [99]
    assert patch[:, outside].float().mean(dim=1).tolist() == list(MEAN_COLOR)


@pytest.mark.parametrize("size", [(5, 7), (1, 200), (61, 43)])
def test_the_result_always_has_the_requested_size(size: tuple[int, int]) -> None:
    image, mask = gradient(*size)
    for _ in range(50):
        patch, ids = train_transform((24, 37))(image, mask)
        assert patch.shape == (3, 24, 37)
        assert ids.shape == (24, 37)
        assert patch.dtype == ids.dtype == torch.uint8
        assert isinstance(ids, tv_tensors.Mask)


def test_no_new_ids_appear_in_masks() -> None:
    ids = torch.tensor([0, 7, 255], dtype=torch.uint8)[torch.randint(3, (50, 60))]
    image = tv_tensors.Image(torch.zeros(3, 50, 60, dtype=torch.uint8))
    for _ in range(20):
        _, result = train_transform((33, 29))(image, tv_tensors.Mask(ids))
        assert set(result.unique().tolist()) <= {0, 7, 255}


def test_flip_mirrors_half_of_the_images_with_their_masks() -> None:
    image, _ = gradient(9, 12)
    mask = tv_tensors.Mask(image[1].clone())
    transform = train_transform((9, 12), (1.0, 1.0), photometric=False)
    mirrored = 0
    for _ in range(200):
        patch, ids = transform(image, mask)
        assert torch.equal(patch[1], ids)
        mirrored += int(ids[0, 0] == 11)
    assert 70 < mirrored < 130
    still = train_transform((9, 12), (1.0, 1.0), flip=False, photometric=False)
    assert all(torch.equal(still(image, mask)[0], image) for _ in range(20))


def test_photometric_distortion_changes_colours_and_never_the_mask() -> None:
    image = tv_tensors.Image(torch.randint(60, 190, (3, 8, 9), dtype=torch.uint8))
    mask = tv_tensors.Mask(torch.randint(0, 5, (8, 9), dtype=torch.uint8))
    results = [PhotometricDistortion()(image, mask) for _ in range(60)]
    assert all(torch.equal(ids, mask) for _, ids in results)
    unchanged = sum(torch.equal(patch, image) for patch, _ in results)
    assert 0 < unchanged < 15  # all four are skipped once in 16 times
    means = torch.stack([patch.float().mean() for patch, _ in results])
    assert means.max() > 1.15 * image.float().mean() > 1.3 * means.min()


def test_random_numbers_come_from_pytorch() -> None:
    image, mask = gradient(60, 70)
    transform = pickle.loads(pickle.dumps(train_transform((32, 40))))
    torch.manual_seed(5)
    first = transform(image, mask)
    second = transform(image, mask)
    torch.manual_seed(5)
    again = transform(image, mask)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], second[0])


def test_evaluation_changes_nothing() -> None:
    image, mask = gradient(6, 7)
    same = eval_transform()(image, mask)
    assert torch.equal(same[0], image)
    assert torch.equal(same[1], mask)


def test_image_and_mask_are_rotated_alike_and_the_corners_ignored() -> None:
    """A grey disc round the middle on black: its ids stay on it, the corners become 99."""
    rows, columns = torch.meshgrid(torch.arange(61) - 30, torch.arange(81) - 40, indexing="ij")
    disc = ((rows - 12) ** 2 + columns**2 < 100).to(torch.uint8)
    image, mask = tv_tensors.Image((200 * disc).repeat(3, 1, 1)), tv_tensors.Mask(disc)
    transform = train_transform((61, 81), (1.0, 1.0), False, False, 99, rotate=30)
    rotated = 0
    for _ in range(60):
        patch, ids = transform(image, mask)
        assert ids.shape == (61, 81)
        assert set(ids.unique().tolist()) <= {0, 1, 99}
        inside = ids != 99
        assert ((patch[0] > 100) == (ids == 1))[inside].float().mean() > 0.98
        rotated += int((ids == 99).any())
    assert 15 < rotated < 45


def test_blur_keeps_the_mean_of_half_of_the_images_and_their_masks() -> None:
    image = tv_tensors.Image(torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8))
    mask = tv_tensors.Mask(torch.randint(0, 5, (40, 50), dtype=torch.uint8))
    transform = train_transform((40, 50), (1.0, 1.0), False, False, blur=True)
    spreads = []
    for _ in range(60):
        patch, ids = transform(image, mask)
        assert torch.equal(ids, mask)
        assert patch.float().mean() == pytest.approx(float(image.float().mean()), abs=2)
        spreads.append(float(patch.float().std() / image.float().std()))
    assert 15 < sum(spread < 0.5 for spread in spreads) < 45
    assert all(spread < 0.5 or spread == 1 for spread in spreads)
