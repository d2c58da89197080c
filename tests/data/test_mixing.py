"""Windows of rare classes, pasted classes and mosaics: every pixel keeps its label."""

import pickle
from functools import partial

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from scenewise.classes import Classes
from scenewise.data.datasets import SegmentationDataset
from scenewise.data.mixing import Mix, Windows, mosaic, pasted, rare_class, rare_pixel
from scenewise.data.transforms import RandomScaleCrop, train_transform
from scenewise.data.value_range import ImageFormat

SIZE = (40, 60)


class Coded(SegmentationDataset):
    """Images of 40 x 60 whose channels are 50 * own class and their own index; 255 is ignored.

    Class 0 fills an image but for a column of class 1 + index, and a last row that is ignored.
    """

    def __init__(self, count: int = 3, dtype: torch.dtype = torch.uint8) -> None:
        super().__init__([f"p{i}" for i in range(count)], Classes.numbered(count + 1))
        self.dtype = dtype

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        mask = torch.zeros(SIZE, dtype=torch.uint8)
        mask[:, 10 + index : 13 + index] = 1 + index
        mask[-1] = 255
        values = torch.where(mask == 255, 255, 50 * mask)
        return torch.stack([values, torch.full_like(mask, index)]).to(self.dtype), mask


def mixed(dataset: Coded, size: tuple[int, int] = (16, 24), **shares: float) -> Mix:
    """Unscaled windows, so that pixels keep their values."""
    make = partial(
        train_transform, scale=(1, 1), photometric=False, images=ImageFormat(mean=(1.0, 1.0))
    )
    return Mix(Windows(make), size, dataset, **shares)


def sample(mix: Mix, index: int = 0) -> tuple[Tensor, Tensor]:
    image, mask = mix.dataset.read(index)
    done = mix(tv_tensors.Image(image), tv_tensors.Mask(mask))
    return done[0].as_subclass(Tensor), done[1].as_subclass(Tensor)


def test_classes_are_drawn_by_the_inverse_of_their_pixels() -> None:
    torch.manual_seed(0)
    mask = torch.tensor([0] * 60 + [1] * 20 + [2] * 5 + [255], dtype=torch.uint8)[None]
    drawn = torch.tensor([rare_class(mask) for _ in range(4000)])
    shares = torch.bincount(drawn, minlength=3) / 4000
    inverse = torch.tensor([1 / 60, 1 / 20, 1 / 5])
    assert shares.tolist() == pytest.approx((inverse / inverse.sum()).tolist(), abs=0.025)


def test_every_pixel_of_a_class_is_drawn() -> None:
    torch.manual_seed(0)
    mask = torch.full((5, 7), 255, dtype=torch.uint8)
    mask[1, 2] = mask[4, 0] = mask[0, 6] = 3
    assert {rare_pixel(mask) for _ in range(100)} == {(1, 2), (4, 0), (0, 6)}


@pytest.mark.parametrize("place", [(0, 0), (17, 23), (39, 59)])
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_rare_windows_contain_the_one_pixel_of_a_class(
    place: tuple[int, int], scale: float
) -> None:
    """Class 1 has one pixel of 2,400; its window is any that contains it, not one around it."""
    torch.manual_seed(0)
    mask = torch.zeros(SIZE, dtype=torch.uint8)
    mask[place] = 1
    image = mask[None].expand(3, -1, -1).clone()
    crop = RandomScaleCrop((10, 12), (scale, scale), rare=1.0)
    rows, columns = zip(*(crop._choose(mask, scale) for _ in range(100)), strict=True)
    inside = [
        top <= place[0] < top + height and left <= place[1] < left + width
        for (top, height, _), (left, width, _) in zip(rows, columns, strict=True)
    ]
    assert sum(inside) > 95  # class 0 is drawn once in 2,400 times
    if place == (17, 23):
        assert len({top for top, _, _ in rows}) > 3
    patch, ids = crop(tv_tensors.Image(image), tv_tensors.Mask(mask))
    assert patch.shape == (3, 10, 12)
    assert ids.shape == (10, 12)


def test_the_share_of_rare_windows_is_kept_and_none_changes_nothing() -> None:
    torch.manual_seed(0)
    mask = torch.zeros(200, 300, dtype=torch.uint8)
    mask[100, 150] = 1
    image, ids = tv_tensors.Image(mask[None].repeat(3, 1, 1)), tv_tensors.Mask(mask)
    crop = RandomScaleCrop((8, 8), (1, 1), rare=0.5)
    found = sum(int((crop(image, ids)[1] == 1).any()) for _ in range(400))
    assert 160 < found < 240
    torch.manual_seed(1)
    plain = RandomScaleCrop((8, 8))(image, ids)
    torch.manual_seed(1)
    off = RandomScaleCrop((8, 8), rare=0.0)(image, ids)
    assert all(torch.equal(a, b) for a, b in zip(plain, off, strict=True))


def test_a_mask_without_labels_has_no_rare_class() -> None:
    mask = torch.full(SIZE, 9, dtype=torch.uint8)
    assert rare_pixel(mask, ignore_index=9) is None
    crop = RandomScaleCrop((8, 8), ignore_index=9, rare=1.0)
    _, ids = crop(tv_tensors.Image(torch.zeros(3, *SIZE)), tv_tensors.Mask(mask))
    assert ids.unique().tolist() == [9]


def test_pasting_takes_the_chosen_class_alone() -> None:
    image, mask = torch.zeros(2, *SIZE), torch.zeros(SIZE, dtype=torch.uint8)
    donor = (torch.rand(2, *SIZE) + 1, torch.randint(4, SIZE).to(torch.uint8))
    donor[1][:5] = 255
    result, ids = pasted(image, mask, donor, 2)
    here = donor[1] == 2
    assert torch.equal(ids, 2 * here.to(torch.uint8))
    assert torch.equal(result, donor[0] * here)


def test_a_mosaic_holds_its_four_parts() -> None:
    parts = [
        (torch.rand(5, h, w), torch.randint(9, (h, w)).to(torch.uint8))
        for h in (3, 4)
        for w in (2, 6)
    ]
    image, mask = mosaic(parts)
    assert image.shape == (5, 7, 8)
    blocks = [(slice(3), slice(2)), (slice(3), slice(2, 8)), (slice(3, 7), slice(2))]
    for (part, ids), block in zip(parts, [*blocks, (slice(3, 7), slice(2, 8))], strict=True):
        assert torch.equal(image[:, *block], part)
        assert torch.equal(mask[block], ids)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(
    "shares", [{"copy_paste": 1.0}, {"mosaic": 1.0}, {"copy_paste": 1, "mosaic": 1}]
)
def test_every_pixel_has_the_label_of_its_source(
    shares: dict[str, float], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    mix = mixed(Coded(dtype=dtype), **shares)
    several = 0
    for _ in range(40):
        image, mask = sample(mix)
        assert image.shape == (2, 16, 24)
        assert image.dtype == dtype
        expected = torch.where(mask == 255, 255, 50 * mask)
        assert torch.equal(image[0], expected.to(dtype))
        inside = image[1][(mask > 0) & (mask < 255)]
        labels = mask[(mask > 0) & (mask < 255)]
        assert torch.equal(inside.to(torch.uint8), labels - 1)  # class 1 + i is in image i alone
        several += int(len(image[1].unique()) > 1)
    assert several > 20


def test_shares_are_kept() -> None:
    torch.manual_seed(0)
    mix = mixed(Coded(count=4), mosaic=0.3)
    several = sum(int(len(sample(mix)[0][1].unique()) > 1) for _ in range(300))
    assert 60 < several < 115  # a mosaic of one image alone, four times, is rare


def test_windows_of_small_images_are_padded() -> None:
    torch.manual_seed(0)
    image, mask = sample(mixed(Coded(), size=(100, 200), mosaic=1.0))
    assert mask.shape == (100, 200)
    assert torch.equal(image[0], torch.where(mask == 255, 255, 50 * mask))


def test_random_numbers_come_from_pytorch_and_the_transform_is_pickled() -> None:
    dataset = Coded()
    dataset.transform = mixed(dataset, mosaic=0.5, copy_paste=0.5)
    copy = pickle.loads(pickle.dumps(dataset))
    for seed in range(8):
        torch.manual_seed(seed)
        first = dataset[1]
        torch.manual_seed(seed)
        again = copy[1]
        assert torch.equal(first["image"], again["image"])
        assert torch.equal(first["mask"], again["mask"])
