"""Each protocol against a plain NumPy rewrite of the published evaluation, in float64."""

import inspect
import math
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch

from scenewise import Predictor
from scenewise.inference.protocols import (
    PROTOCOLS,
    _mean_of_mirrored,
    danet_long_side,
    mmseg_fitted,
    mmseg_scaled,
    paper_ccnet,
    paper_ocnet,
    plain,
    semseg,
)
from scenewise.models.heads import HeadOutput
from tests.inference.test_sliding_window import slow_resize
from tests.toy_model import toy_model

SIZES = [(23, 41), (37, 19), (13, 13)]


class Slow:
    """The evaluations in NumPy: window by window, with full-size sums."""

    def __init__(self, model, image):
        self.model = model
        self.image = image
        mean, std = model.preprocessing.mean, model.preprocessing.std
        self.mean, self.std = (np.array(v).reshape(3, 1, 1) for v in (mean, std))
        self.normalised = (image.numpy() - self.mean) / self.std
        self.black = -self.mean / self.std
        self.size = image.shape[1:]

    def net(self, view):
        with torch.no_grad():
            return self.model(torch.from_numpy(np.ascontiguousarray(view))[None]).logits[0].numpy()

    def probabilities(self, view):
        return softmax(self.net(view))

    def danet(self, base, scales, crop, stride, resize_align=True):
        total = 0
        for scale in scales:
            long = math.ceil(base * scale)
            height, width = self.size
            if height > width:
                height, width = long, int(width * long / height + 0.5)
            else:
                height, width = int(height * long / width + 0.5), long
            scores = self._danet_scale(height, width, crop, stride)
            total = total + slow_resize(scores, self.size, align_corners=True)
        return total / total.sum(0)

    def _danet_scale(self, height, width, crop, stride):
        view = slow_resize(self.normalised, (height, width), align_corners=True)
        if max(height, width) <= crop:
            return self._danet_window(view, crop)
        padded = self._fill(view, max(height, crop), max(width, crop))
        _, high, wide = padded.shape
        total, count = 0, np.zeros((high, wide))
        for i in range(math.ceil((high - crop) / stride) + 1):
            for j in range(math.ceil((wide - crop) / stride) + 1):
                rows = slice(i * stride, min(i * stride + crop, high))
                columns = slice(j * stride, min(j * stride + crop, wide))
                whole = np.zeros((len(self.model.classes), high, wide))
                whole[:, rows, columns] = self._danet_window(padded[:, rows, columns], crop)
                count[rows, columns] += 1
                total = total + whole
        return (total / count)[:, :height, :width]

    def _danet_window(self, view, crop):
        _, height, width = view.shape
        window = self._fill(view, crop, crop)
        scores = np.exp(self.net(window) + self.net(window[:, :, ::-1])[:, :, ::-1])
        return scores[:, :height, :width]

    def _fill(self, view, height, width, colour=None):
        filled = np.empty((3, height, width))
        filled[:] = self.black if colour is None else colour
        filled[:, : view.shape[1], : view.shape[2]] = view
        return filled

    def shifted_back(self, view, crop, stride, score, fill=False):
        """The mean over windows whose last one is shifted back to the border."""
        _, high, wide = view.shape
        total, count = 0, np.zeros((high, wide))
        for i in range(max(0, math.ceil((high - crop[0]) / stride[0])) + 1):
            for j in range(max(0, math.ceil((wide - crop[1]) / stride[1])) + 1):
                bottom = min(i * stride[0] + crop[0], high)
                right = min(j * stride[1] + crop[1], wide)
                rows = slice(max(0, bottom - crop[0]), bottom)
                columns = slice(max(0, right - crop[1]), right)
                window = view[:, rows, columns]
                padded = self._fill(window, *crop, colour=0) if fill else window
                whole = np.zeros((len(self.model.classes), high, wide))
                whole[:, rows, columns] = score(padded)[:, : window.shape[1], : window.shape[2]]
                total, count[rows, columns] = total + whole, count[rows, columns] + 1
        return total / count

    def mmseg(self, sizes, crop=None, stride=None, flip=False):
        align, views = self.model.align_corners, []
        for size in sizes:
            for mirror in (False, True)[: 1 + flip]:
                view = slow_resize(self.normalised, size, align_corners=False)
                view = view[:, :, ::-1] if mirror else view
                window = crop or size
                scores = self.shifted_back(view, window, stride or window, self.net)
                scores = slow_resize(scores, self.size, align_corners=align)
                views.append(softmax(scores[:, :, ::-1] if mirror else scores))
        return np.mean(views, axis=0)

    def semseg(self, base, scales, crop):
        views, stride = [], math.ceil(crop * 2 / 3)
        for scale in scales:
            long = round(base * scale)
            height, width = self.size
            if height > width:
                height, width = long, round(long / height * width)
            else:
                height, width = round(long / width * height), long
            view = slow_resize(self.normalised, (height, width), align_corners=False)
            top, left = max(0, crop - height) // 2, max(0, crop - width) // 2
            padded = np.zeros((3, max(height, crop), max(width, crop)))
            padded[:, top : top + height, left : left + width] = view
            scores = self.shifted_back(padded, (crop, crop), (stride, stride), self._both)
            scores = scores[:, top : top + height, left : left + width]
            views.append(slow_resize(scores, self.size, align_corners=False))
        return np.mean(views, axis=0)

    def _both(self, window):
        mirrored = self.probabilities(window[:, :, ::-1])[:, :, ::-1]
        return (self.probabilities(window) + mirrored) / 2

    def ccnet(self, crop, stride):
        scores = self.shifted_back(self.normalised, (crop,) * 2, (stride,) * 2, self.net, fill=True)
        return softmax(scores)

    def ocnet(self, scales, tile, flip):
        views = []
        for scale in scales:
            for mirror in (False, True)[: 1 + flip]:
                view = self.normalised[:, :, ::-1] if mirror else self.normalised
                size = tuple(round(side * scale) for side in self.size)
                view = slow_resize(view, size, align_corners=True)
                if scale <= 1:
                    scores = self.net(view)
                else:
                    scores = self.shifted_back(view, tile, tile, self.net, fill=True)
                scores = slow_resize(scores, self.size, align_corners=True)
                views.append(scores[:, :, ::-1] if mirror else scores)
        return softmax(np.mean(views, axis=0))


def softmax(logits):
    exponentials = np.exp(logits - logits.max(0))
    return exponentials / exponentials.sum(0)


def compare(protocol, slow, model, image):
    model.eval()
    with torch.no_grad():
        scores = protocol(model, image)
    np.testing.assert_allclose(scores.numpy(), slow(Slow(model, image)), rtol=1e-9, atol=1e-12)


@pytest.fixture(params=SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def image(request):
    return torch.rand(3, *request.param, dtype=torch.float64)


@pytest.mark.parametrize(
    ("base", "scales", "window", "stride"),
    [
        (48, (1.0,), 18, 12),  # tiles in both directions, cut at the border
        (31, (0.5, 1.0, 2.2), 24, 12),  # the smallest is padded once, the others tiled
        (20, (1.1,), 40, 30),
    ],
)
def test_danet(image, base, scales, window, stride):
    compare(
        partial(danet_long_side, base=base, scales=scales, window=window, stride=stride),
        lambda slow: slow.danet(base, scales, window, stride),
        toy_model(),
        image,
    )


@pytest.mark.parametrize("align_corners", [True, False])
def test_mmseg_slide_and_whole(image, align_corners):
    model = toy_model(align_corners=align_corners)
    short, long = sorted(image.shape[1:])
    factor = min(53 / long, 29 / short)
    size = tuple(int(side * factor + 0.5) for side in image.shape[1:])
    compare(
        partial(mmseg_fitted, fit=(29, 53), window=(17, 17), stride=(11, 11)),
        lambda slow: slow.mmseg([size], (17, 17), (11, 11)),
        model,
        image,
    )
    compare(partial(mmseg_fitted, fit=(29, 53)), lambda slow: slow.mmseg([size]), model, image)


def test_mmseg_scales_and_mirror(image):
    scales = (0.5, 1.0, 1.75)
    sizes = [tuple(int(side * s + 0.5) for side in image.shape[1:]) for s in scales]
    compare(
        partial(mmseg_scaled, scales=scales),
        lambda slow: slow.mmseg(sizes, flip=True),
        toy_model(align_corners=False),
        image,
    )


def test_semseg(image):
    scales = (0.5, 1.0, 1.75)
    compare(
        partial(semseg, base=43, scales=scales, window=25),
        lambda slow: slow.semseg(43, scales, 25),
        toy_model(),
        image,
    )


def test_semseg_rounds_a_half_to_the_even_number():
    image = torch.rand(3, 13, 26, dtype=torch.float64)
    compare(
        partial(semseg, base=25, scales=(1.0,), window=9),  # 12.5 rows are 12
        lambda slow: slow.semseg(25, (1.0,), 9),
        toy_model(),
        image,
    )


def test_ccnet(image):
    compare(
        partial(paper_ccnet, window=17, stride=12),
        lambda slow: slow.ccnet(17, 12),
        toy_model(),
        image,
    )


@pytest.mark.parametrize("flip", [False, True])
def test_ocnet(image, flip):
    scales = (0.75, 1.0, 1.25)
    compare(
        partial(paper_ocnet, scales=scales, flip=flip, tile=(19, 23)),
        lambda slow: slow.ocnet(scales, (19, 23), flip),
        toy_model(),
        image,
    )


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("merge", ["softmax", "logits"])
def test_plain_windows_scales_and_mirror(image, merge, align_corners):
    scales, window, stride = (0.8, 1.5), (15, 17), (10, 7)

    def slow_plain(slow):
        views = []
        for scale in scales:
            size = tuple(int(side * scale + 0.5) for side in slow.size)
            for mirror in (False, True):
                view = slow_resize(slow.normalised, size, align_corners=False)
                view = view[:, :, ::-1] if mirror else view
                score = slow.net if merge == "logits" else slow.probabilities
                scores = slow.shifted_back(view, window, stride, score)
                scores = slow_resize(scores, slow.size, align_corners=align_corners)
                views.append(scores[:, :, ::-1] if mirror else scores)
        mean = np.mean(views, axis=0)
        return softmax(mean) if merge == "logits" else mean

    compare(
        partial(plain, scales=scales, flip=True, window=window, stride=stride, merge=merge),
        slow_plain,
        toy_model(align_corners=align_corners),
        image,
    )


def test_plain_danet_merge_is_the_released_one_at_its_size(image):
    base = max(image.shape[1:])
    compare(
        partial(plain, flip=True, window=(18, 18), stride=(12, 12), merge="danet"),
        lambda slow: slow.danet(base, (1.0,), 18, 12),
        toy_model(),
        image,
    )


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("flip", [True, False])
def test_plain_danet_merge_resizes_as_the_network_does(image, align_corners, flip):
    def slow_plain(slow):
        size = tuple(int(side * 0.8 + 0.5) for side in slow.size)
        view = slow_resize(slow.normalised, size, align_corners=align_corners)
        total = slow.net(view)
        if flip:
            total = total + slow.net(view[:, :, ::-1])[:, :, ::-1]
        scores = slow_resize(np.exp(total), slow.size, align_corners=align_corners)
        return scores / scores.sum(0)

    model = toy_model(align_corners=align_corners)
    compare(partial(plain, scales=(0.8,), flip=flip, merge="danet"), slow_plain, model, image)


# Inputs of the network for an image of 64 x 128: counted by hand from the published sizes.
INPUTS = {
    "danet_ss": {(768, 768): 2 * 8},
    "danet_ms": {(1024, 1024): 2 * (1 + 2 + 3 + 8 + 10 + 18 + 21 + 32)},
    "mmseg_slide": {(769, 769): 8},
    "mmseg_whole": {(1024, 2048): 1},
    "mmseg_ms": {(16 * k, 32 * k): 2 for k in (2, 3, 4, 5, 6, 7)},
    "semseg": {(713, 713): 2 * (2 + 6 + 8 + 15 + 18 + 32)},
    "semseg_ss": {(713, 713): 2 * 8},
    "paper_ccnet": {(769, 769): 1},
    "paper_ocnet": {(64, 128): 1},
    "paper_ocnet_ms": {(48, 96): 2, (64, 128): 2, (1024, 2048): 2},
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_named_protocols_use_the_published_sizes(name):
    model = toy_model(2, pointwise=True).float()
    inputs = Counter()

    def watch(module, args, output):
        inputs[tuple(args[0][-1].shape[2:])] += 1
        return HeadOutput(torch.zeros(1, 2, 1, 1), {}, {})

    model.head.register_forward_hook(watch)
    labels, confidence = Predictor.from_protocol(model, name)(torch.rand(3, 64, 128))
    assert dict(inputs) == INPUTS[name]
    assert labels.shape == (64, 128)
    assert torch.allclose(confidence, torch.full((64, 128), 0.5))


# Settings of the published evaluations, as in their sources.
PUBLISHED = {
    "danet_ss": {"base": 2048, "scales": (1.0,), "window": 768, "stride": int(768 * 2 / 3)},
    "danet_ms": {
        "base": 2048,
        "scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.2),
        "window": 1024,
        "stride": int(1024 / 2),
    },
    "mmseg_slide": {"fit": (1025, 2049), "window": (769, 769), "stride": (513, 513)},
    "mmseg_whole": {"fit": (1024, 2048), "window": None, "stride": None},
    "mmseg_ms": {"scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)},
    "semseg": {"base": 2048, "scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), "window": 713},
    "semseg_ss": {"base": 2048, "scales": (1.0,), "window": 713},
    "paper_ccnet": {"window": 769, "stride": math.ceil(769 * (1 - 1 / 3))},
    "paper_ocnet": {"scales": (1.0,), "flip": False, "tile": (1024, 2048)},
    "paper_ocnet_ms": {"scales": (0.75, 1.0, 1.25), "flip": True, "tile": (1024, 2048)},
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_named_protocols_have_the_published_settings(name):
    options = inspect.signature(PROTOCOLS[name]).parameters.values()
    defaults = {p.name: p.default for p in options if p.name not in ("model", "image")}
    assert defaults == PUBLISHED[name]


def test_the_mean_with_the_mirror_image_is_a_distribution() -> None:
    model, window = toy_model(), torch.randn(1, 3, 9, 12, dtype=torch.float64)
    mean = _mean_of_mirrored(model, window)
    parts = [softmax(model(x).logits[0].detach().numpy()) for x in (window, window.flip(-1))]
    np.testing.assert_allclose(mean.detach(), (parts[0] + parts[1][:, :, ::-1]) / 2)
