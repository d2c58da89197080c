"""Two views of a window: the same pixels, padding known, and repeatable random numbers."""

import torch

from scenewise.data.layout import Layout
from scenewise.data.two_views import TwoViews, _brightness_and_contrast
from scenewise.data.value_range import ImageFormat

SIZE = (11, 13)


def views(make: TwoViews, image: torch.Tensor, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return dict(make(image))


def test_both_views_have_the_same_pixels_where_colours_stay() -> None:
    image = torch.randint(0, 256, (3, 17, 19), dtype=torch.uint8)
    make = TwoViews(SIZE, (1.0, 1.0))
    shares = torch.tensor([0.8, 0.2, 0.5])  # of windows with other colours, grey, blurred
    seed = next(s for s in range(99) if (torch.manual_seed(s), torch.rand(3) >= shares)[1].all())
    torch.manual_seed(seed)
    assert torch.equal(make.strong(image), image)
    both = views(make, image)
    assert both["known"].all()
    assert not torch.equal(both["weak"], both["strong"])


def test_padding_is_not_known() -> None:
    made = views(TwoViews(SIZE, (1.0, 1.0), flip=False), torch.zeros(3, 5, 7, dtype=torch.uint8))
    expected = torch.zeros(SIZE, dtype=torch.bool)
    expected[:5, :7] = True
    assert torch.equal(made["known"], expected)


def test_views_depend_on_the_seed_alone() -> None:
    image = torch.randint(0, 256, (3, 17, 19), dtype=torch.uint8)
    make = TwoViews(SIZE)
    one, again, other = views(make, image, 1), views(make, image, 1), views(make, image, 2)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["strong"], other["strong"])


def test_channels_without_colours_keep_their_range() -> None:
    layout = Layout(5, rgb=False, wide=True)
    images = ImageFormat(layout, (100.0, 4000.0), (0.5,) * 5, (0.2,) * 5)
    make = TwoViews(SIZE, images=images)
    for seed in range(6):
        strong = views(make, 100 + 3900 * torch.rand(5, 17, 19), seed)["strong"]
        assert (strong.shape, strong.dtype) == ((5, *SIZE), torch.float32)
        assert 99 < strong.min() < strong.max() < 4001


def test_brightness_and_contrast_by_hand() -> None:
    torch.manual_seed(0)
    brightness, contrast = (0.5 + torch.rand(2)).tolist()
    torch.manual_seed(0)
    changed = _brightness_and_contrast(torch.tensor([0.2, 0.4]))
    mean = 0.3 * brightness
    expected = [mean - 0.1 * brightness * contrast, mean + 0.1 * brightness * contrast]
    assert torch.allclose(changed, torch.tensor(expected))


def test_boxes_are_inside_and_half_of_the_windows_have_one() -> None:
    torch.manual_seed(0)
    make = TwoViews(SIZE)
    boxes = torch.stack([make.box() for _ in range(400)])
    top, left, height, width = boxes.unbind(1)
    assert (boxes >= 0).all()
    assert (top + height <= SIZE[0]).all()
    assert (left + width <= SIZE[1]).all()
    mixed = height > 0
    assert 160 < int(mixed.sum()) < 240
    assert torch.equal(mixed, width > 0)
