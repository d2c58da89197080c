"""Laws of Predictor that hold for any network."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.testing import assert_close

from scenewise import create_model
from scenewise.data.images import as_floats
from scenewise.errors import UserError
from scenewise.inference.predictor import Predictor
from scenewise.inference.protocols import plain
from scenewise.inference.sliding_window import long_side, softmax_
from scenewise.models.segmenter import evaluating
from tests.toy_model import toy_model

SIZE = (23, 41)


@pytest.fixture
def image():
    return torch.rand(3, *SIZE, dtype=torch.float64)


@pytest.mark.parametrize("merge", ["softmax", "logits", "danet"])
def test_a_window_as_large_as_the_image_is_the_whole_image(image, merge):
    model = toy_model()
    whole = Predictor(model, flip=True, merge=merge).scores(image)
    assert torch.equal(Predictor(model, flip=True, merge=merge, window=SIZE).scores(image), whole)


@pytest.mark.parametrize("merge", ["softmax", "logits"])
def test_a_window_larger_than_the_image_is_the_whole_image(image, merge):
    model = toy_model()
    whole = Predictor(model, merge=merge).scores(image)
    assert torch.equal(Predictor(model, merge=merge, window=64).scores(image), whole)


@pytest.mark.parametrize("merge", ["softmax", "logits", "danet"])
@pytest.mark.parametrize(("window", "stride"), [(7, None), ((5, 19), (4, 2)), (22, 22)])
def test_windows_change_nothing_for_a_network_without_context(image, merge, window, stride):
    model = toy_model(pointwise=True)
    whole = Predictor(model, merge=merge).scores(image)
    assert_close(Predictor(model, window=window, stride=stride, merge=merge).scores(image), whole)


@pytest.mark.parametrize(("window", "stride"), [(None, None), (22, 22), (22, 2)])
def test_smaller_windows_have_a_stride_of_their_own(image, window, stride):
    model = toy_model()
    predictor = Predictor(model, window=window, stride=stride).in_windows(9)
    assert predictor.window == (9, 9)
    expected = Predictor(model, window=9, stride=6, blend="hann").scores(image)
    assert torch.equal(predictor.scores(image), expected)


@pytest.mark.parametrize("merge", ["softmax", "logits", "danet"])
def test_blending_is_of_each_merge_and_changes_nothing_without_context(image, merge):
    windows = partial(Predictor, window=(11, 13), merge=merge)
    hann = windows(toy_model(), blend="hann").scores(image)
    assert_close(hann.sum(0), torch.ones(SIZE, dtype=torch.float64))
    assert not torch.allclose(windows(toy_model()).scores(image), hann)
    alone = toy_model(pointwise=True)
    whole = Predictor(alone, merge=merge).scores(image)
    assert_close(windows(alone, blend="hann").scores(image), whole)


def test_an_unknown_blend_names_the_known_ones():
    with pytest.raises(UserError, match=r"unknown blend .hamm.; .*hann"):
        Predictor(toy_model(), window=9, blend="hamm")


@pytest.mark.parametrize("merge", ["softmax", "logits"])
def test_a_mirrored_image_gives_exactly_the_mirrored_scores(image, merge):
    predictor = Predictor(toy_model(), scales=(0.7, 1.3), flip=True, window=(9, 12), merge=merge)
    assert_close(
        predictor.scores(image.flip(-1)), predictor.scores(image).flip(-1), rtol=1e-12, atol=0
    )
    plain = Predictor(toy_model())
    assert not torch.allclose(plain.scores(image.flip(-1)), plain.scores(image).flip(-1))


def test_permuted_classes_give_permuted_scores(image):
    model = toy_model()
    scores = Predictor(model, scales=(0.5, 1.5), flip=True, window=11).scores(image)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.copy_(parameter[order])
    permuted = Predictor(model, scales=(0.5, 1.5), flip=True, window=11).scores(image)
    assert_close(permuted, scores[order], rtol=1e-12, atol=0)


@pytest.mark.parametrize("merge", ["softmax", "logits", "danet"])
def test_scores_are_a_distribution_and_confidence_is_their_maximum(image, merge):
    predictor = Predictor(toy_model(), scales=(0.6, 1.0, 1.9), flip=True, window=17, merge=merge)
    scores = predictor.scores(image)
    assert scores.shape == (4, *SIZE)
    assert scores.min() > 0
    assert_close(scores.sum(0), torch.ones(SIZE, dtype=torch.float64))
    labels, confidence = predictor(image)
    assert torch.equal(labels, scores.argmax(0))
    assert torch.equal(confidence, scores.amax(0))


def test_one_scale_without_windows_is_the_softmax_of_the_network(image):
    model = toy_model()
    expected = torch.softmax(model(model.normalize(image[None])).logits[0], 0)
    assert_close(Predictor(model).scores(image), expected)
    assert_close(Predictor(model, scales=[1.0, 1.0], merge="logits").scores(image), expected)


def test_every_type_of_input_is_the_same_image(tmp_path):
    bytes_ = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8)
    array = bytes_.permute(1, 2, 0).numpy()
    image = Image.fromarray(array)
    image.save(tmp_path / "a.png")
    inputs = [
        bytes_,
        bytes_ / 255,
        bytes_.double() / 255,
        array,
        array.astype(np.float32) / np.float32(255),
        np.asfortranarray(array),
        array[:, ::-1][:, ::-1],
        image,
        image.convert("RGBA"),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        (tmp_path / "a.png").read_bytes(),
    ]
    for value in inputs:
        assert_close(as_floats(value), bytes_ / 255, rtol=0, atol=1e-7, check_dtype=False)


COLOURS = np.arange(5 * 7 * 4, dtype=np.uint8).reshape(5, 7, 4)
GREY = torch.zeros(5, 7)


@pytest.mark.parametrize(
    ("value", "message", "advised"),
    [
        (COLOURS[..., 0], r"not \(5, 7\); of grey", lambda x: np.dstack([x] * 3)),
        (COLOURS[..., :1], r"not \(5, 7, 1\); of grey", lambda x: np.dstack([x] * 3)),
        (COLOURS, r"of RGBA image\[\.\.\., :3\]", lambda x: x[..., :3]),
        (COLOURS[..., :3].transpose(2, 0, 1), "of channels first", lambda x: x.transpose(1, 2, 0)),
        (COLOURS[None, ..., :3], r"of a batch list\(image\)", lambda x: list(x).pop()),
        (COLOURS[:3, :, :3], "colours first or last", Image.fromarray),
        (COLOURS[..., :3].astype(np.int64), "uint8 or floats", None),
        (COLOURS[..., :3].astype(">f4"), "uint8 or floats", None),
        (COLOURS[..., :3].astype(object), "uint8 or floats", None),
        (GREY, "of grey", lambda x: x.expand(3, -1, -1)),
        (GREY[None], "of grey", lambda x: x.expand(3, -1, -1)),
        (torch.zeros(4, 5, 7), "of RGBA", lambda x: x[:3]),
        (torch.zeros(5, 7, 3), "of channels last", lambda x: x.permute(2, 0, 1)),
        (torch.zeros(1, 3, 5, 7), "of a batch", lambda x: list(x).pop()),
        (b"raw pixels", "cannot read image 'bytes'", None),
        ([[0.5]], "a PIL image, an array or a tensor, not list", None),
        (None, "not NoneType", None),
    ],
)
def test_an_array_of_another_layout_is_refused_with_advice_that_works(value, message, advised):
    with pytest.raises(UserError, match=message):
        as_floats(value)
    if advised is not None:
        assert as_floats(advised(value)).shape[0] == 3


def test_a_network_that_is_no_segmenter_is_refused():
    with pytest.raises(UserError, match=r"takes a Segmenter, .* not Conv2d; make one of"):
        Predictor(nn.Conv2d(3, 4, 1))


def test_a_list_of_images_gives_the_list_of_their_predictions(image):
    predictor = Predictor(toy_model())
    other = torch.rand(3, 9, 11)
    for prediction, alone in zip(predictor([image, other]), (image, other), strict=True):
        assert torch.equal(prediction.labels, predictor(alone).labels)
    assert predictor([]) == []
    with pytest.raises(UserError, match=r"image 1 of 2, from 0: an image tensor must be"):
        predictor((image, image[:2]))


def test_exif_orientation_is_applied(tmp_path):
    array = np.zeros((5, 7, 3), np.uint8)
    array[0] = 255
    image = Image.fromarray(array)
    exif = image.getexif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    image.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as opened:
        rotated = as_floats(opened)
    assert rotated.shape == (3, 7, 5)
    assert rotated[:, :, -1].min() == 1
    assert torch.equal(rotated, as_floats(tmp_path / "a.png"))


def test_the_input_is_not_modified(image):
    before = image.clone()
    Predictor(toy_model(), scales=(1.0, 2.0), flip=True, merge="danet", window=9)(image)
    assert torch.equal(image, before)


def test_every_module_is_in_its_former_mode_afterwards(image):
    model = toy_model().train()
    model.head.conv.eval()
    modes = [module.training for module in model.modules()]
    seen = []
    model.head.register_forward_hook(lambda module, args, out: seen.append(module.training))
    Predictor(model)(image)
    assert seen == [False]
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(ZeroDivisionError), evaluating(model):
        _ = 1 / 0
    assert [module.training for module in model.modules()] == modes


def test_no_graph_is_kept_and_labels_can_be_modified(image):
    predictor = Predictor(toy_model())
    assert not predictor.scores(image).requires_grad
    labels, _ = predictor(image)
    labels[0] = 255  # inference tensors would refuse
    assert labels.dtype == torch.int64


def test_a_half_precision_network_is_merged_in_float32():
    model = create_model("danet", num_classes=3, backbone="tiny")
    image = torch.rand(3, 33, 47)
    wide = Predictor(model).scores(image)
    narrow = Predictor(model.bfloat16(), flip=False).scores(image)
    assert narrow.dtype == torch.float32
    assert_close(narrow, wide, rtol=0, atol=0.05)


def test_scores_have_the_precision_of_the_network():
    wide, narrow = torch.rand(3, 5, 7, dtype=torch.float64), toy_model().float()
    scores = Predictor(narrow).scores(wide)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, Predictor(narrow).scores(wide.float()))
    assert Predictor(toy_model()).scores(wide.float()).dtype == torch.float64


def test_large_logits_stay_finite_in_the_danet_merge():
    model = toy_model(pointwise=True).float()
    with torch.no_grad():
        model.head.conv.bias.copy_(torch.tensor([900.0, -900.0, 0.0, 1.0]))
    labels, confidence = Predictor(model, flip=True, merge="danet")(torch.rand(3, 5, 7))
    assert torch.equal(labels, torch.zeros_like(labels))
    assert torch.isfinite(confidence).all()


def test_scales_of_a_tiny_image_keep_a_pixel():
    labels, _ = Predictor(toy_model(), scales=(0.1, 1.0))(torch.rand(3, 1, 3))
    assert labels.shape == (1, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scales": ()}, "scales"),
        ({"scales": (1.0, -0.5)}, "scales"),
        ({"scales": (0.0,)}, "scales"),
        ({"scales": (float("nan"),)}, "scales"),
        ({"merge": "max"}, "softmax, logits, danet"),
        ({"stride": 4}, "without window"),
        ({"window": 0}, "at least 1"),
        ({"window": 8, "stride": (8, 9)}, "gaps"),
    ],
)
def test_bad_arguments_are_reported(arguments, message):
    with pytest.raises(UserError, match=message):
        Predictor(toy_model(), **arguments)


@pytest.mark.parametrize("device", ["meta", torch.device("meta")])
def test_the_model_moves_only_to_a_given_device(image, device):
    for predictor in (
        Predictor(toy_model(), device=device),
        Predictor.from_protocol(toy_model(), "danet_ss", device=device),
    ):
        assert predictor.device == torch.device("meta")
        assert not next(predictor.model.parameters()).is_meta
        with pytest.raises(RuntimeError, match="meta"):  # the device without values
            predictor(image)
        assert next(predictor.model.parameters()).is_meta
    unmoved = Predictor(toy_model())
    assert unmoved.device is None
    assert not next(unmoved.model.parameters()).is_meta
    assert unmoved.scores(image).device.type == "cpu"


def test_an_unavailable_device_is_reported_with_the_reason():
    with pytest.raises(UserError, match=r"device 'cuda:99' is not available"):
        Predictor(toy_model(), device="cuda:99")
    with pytest.raises(UserError, match=r"device 'nowhere' is not available \(.*nowhere.*\); cpu"):
        Predictor(toy_model(), device="nowhere")


def test_windows_and_strides_of_one_pixel_are_enough():
    for sides in ({"window": 1}, {"window": (1, 1), "stride": 1}, {"window": 8, "stride": (8, 1)}):
        Predictor(toy_model(), **sides)
    for sides in ({"window": (0, 1)}, {"window": (1, 0)}, {"window": 3, "stride": 0},
                  {"window": 3, "stride": (1, 0)}, {"window": 3, "stride": -1}):  # fmt: skip
        with pytest.raises(UserError, match="at least 1"):
            Predictor(toy_model(), **sides)
    for stride in ((9, 8), (8, 9)):
        with pytest.raises(UserError, match=f"a stride of {stride[0]} x {stride[1]} is larger"):
            Predictor(toy_model(), window=8, stride=stride)


def test_floats_may_leave_0_to_1_by_a_thousandth():
    image = torch.zeros(3, 1, 2, dtype=torch.float64)
    for inside in (-1e-3, 1 + 1e-3):
        assert as_floats(torch.full_like(image, inside)).max() == inside
    for outside in (-1.1e-3, 1.0011):
        with pytest.raises(UserError, match="floats must be in 0"):
            as_floats(torch.full_like(image, outside))
    assert as_floats(image.half()).dtype == torch.float32


@pytest.mark.parametrize("merge", ["softmax", "logits", "danet"])
def test_a_predictor_passes_on_all_its_options(image, merge):
    options = {"scales": (0.7, 1.3), "flip": True, "merge": merge}
    predictor = Predictor(toy_model(), window=9, stride=(5, 4), **options)
    assert predictor.window == (9, 9)
    with torch.no_grad():
        expected = plain(predictor.model.eval(), image, window=(9, 9), stride=(5, 4), **options)
    assert_close(predictor.scores(image), expected, rtol=1e-12, atol=0)


def test_softmax_in_place_subtracts_each_pixels_maximum():
    logits = torch.tensor([[[0.0, -2000.0]], [[1.0, -2001.0]]])
    assert_close(softmax_(logits.clone()), logits.softmax(0))


def test_the_long_side_has_the_given_length():
    assert long_side((1000, 1), 10) == (10, 1)
    assert long_side((7, 7), 21) == (21, 21)


def test_direct_labels_of_a_half_precision_network():
    model = create_model("danet", num_classes=3, backbone="tiny").bfloat16()
    predictor, image = Predictor(model), torch.rand(3, 33, 47)
    assert predictor.at_once
    assert_close(predictor(image).confidence, predictor.scores(image).amax(0), rtol=0, atol=0.05)


def test_an_unknown_backend_is_reported():
    for build in (Predictor, partial(Predictor.from_protocol, name="danet_ss")):
        with pytest.raises(UserError, match="nonsense"):
            build(toy_model(), backend="nonsense")


def test_an_unknown_protocol_is_reported_with_the_known_ones():
    with pytest.raises(UserError, match="danet_ss, danet_ms"):
        Predictor.from_protocol(toy_model(), "danet")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(1, 3, 5, 7), r"\(3, H, W\)"),
        (torch.rand(5, 7, 3), r"\(3, H, W\)"),
        (torch.rand(3, 0, 7), r"\(3, H, W\)"),
        (np.zeros((5, 7)), r"\(H, W, 3\)"),
        (torch.rand(3, 5, 7) * 255, "0..1"),
        (torch.full((3, 5, 7), torch.nan), "0..1"),
        (torch.zeros(3, 5, 7, dtype=torch.int64), "uint8"),
        ("nowhere.png", "nowhere.png.* not found"),
    ],
)
def test_bad_images_are_reported(image, message):
    with pytest.raises(UserError, match=message):
        Predictor(toy_model())(image)


def test_labels_are_direct_if_nothing_is_merged():
    model = toy_model()
    assert Predictor(model).at_once
    assert Predictor(model, scales=[1.0], merge="logits").at_once
    for options in ({"scales": (2.0,)}, {"scales": (1.0, 1.0)}, {"flip": True}, {"window": 9},
                 {"merge": "danet"}):  # fmt: skip
        assert not Predictor(model, **options).at_once
    assert not Predictor.from_protocol(model, "danet_ss").at_once


MEMORY = """
import resource, sys, torch
from scenewise.inference.predictor import Predictor
from tests.toy_model import toy_model
torch.set_num_threads(1)
predictor = Predictor(
    toy_model(19, pointwise=True, stride=8).float(),
    scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.2),
    flip=True,
    window=int(sys.argv[2]) or None,
    merge=sys.argv[1],
)
predictor(torch.rand(3, 64, 64))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
predictor(torch.rand(3, 256, 512))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux")
@pytest.mark.parametrize(("merge", "window"), [("softmax", 0), ("danet", 256)])
def test_eight_scales_and_mirror_images_need_little_memory(merge, window):
    """1/16 of the pixels of 1024 x 2048, so 1/16 of 2 GiB. All scores are 350 MB."""
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, merge, str(window)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(run.stdout) < 2**31 / 16


@pytest.mark.parametrize("backbone", ["tiny", "test_vit"])
def test_direct_labels_are_those_of_the_scores(backbone: str) -> None:
    torch.manual_seed(0)
    model = create_model("danet", num_classes=5, backbone=backbone, pretrained=False).double()
    predictor = Predictor(model)
    image = torch.rand(3, 45, 67)
    labels, confidence = predictor(image)
    largest, expected = predictor.scores(image).max(0)
    assert torch.equal(labels, expected)
    torch.testing.assert_close(confidence, largest)
