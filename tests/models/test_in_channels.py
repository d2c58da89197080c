"""Networks of any number of channels: first layer, preprocessing, files, cost, exports."""

import json
from pathlib import Path

import pytest
import torch

from scenewise.errors import UserError
from scenewise.exports import export_model
from scenewise.exports.runtime import load_exported
from scenewise.models import Segmenter, create_model, load_model
from scenewise.models.backbone import create_backbone
from scenewise.models.cost import estimate
from scenewise.models.optimize.fuse import for_inference
from scenewise.models.preprocessing import Preprocessing

SENSOR = Preprocessing(
    mean=(0.2, 0.3, 0.4, 0.5, 0.6),
    std=(0.1, 0.2, 0.3, 0.4, 0.5),
    channel_order="data",
    input_range=(100.0, 4100.0),
    channels=(0, 1, 2, 4, 7),
    pages=True,
    shown=(4, 1, 0),
)


def five_channels() -> Segmenter:
    torch.manual_seed(0)
    model = create_model("fcn", num_classes=3, backbone="tiny", in_channels=5).eval()
    model.preprocessing = SENSOR
    return model


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_weights_of_rgb_are_spread_over_the_channels(tmp_path: Path, channels: int) -> None:
    rgb = create_backbone("resnet18")
    torch.save(rgb.net.state_dict(), tmp_path / "rgb.pth")
    other = create_backbone("resnet18", in_channels=channels, weights=tmp_path / "rgb.pth")
    first, adapted = rgb.net.conv1.weight, other.net.conv1.weight
    assert adapted.shape[1] == channels
    grey = torch.rand(1, 1, 32, 32)  # equal channels give what equal red, green and blue gave
    expected = torch.conv2d(grey.expand(-1, 3, -1, -1), first)
    if channels in (1, 6):
        torch.testing.assert_close(
            torch.conv2d(grey.expand(-1, channels, -1, -1), adapted), expected
        )
    for name, weight in other.net.state_dict().items():
        if name != "conv1.weight":
            assert torch.equal(weight, rgb.net.state_dict()[name])


def test_files_bring_the_channels_and_the_values_back(tmp_path: Path) -> None:
    model = five_channels()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model"]["in_channels"] == 5
    again = load_model(tmp_path)
    assert again.preprocessing == SENSOR
    images = torch.rand(1, 5, 24, 32) * 5000
    expected = model(model.normalize(images)).logits
    assert torch.equal(again(again.normalize(images)).logits, expected)
    fast = for_inference(model)
    torch.testing.assert_close(fast(fast.normalize(images)).logits, expected, rtol=0, atol=1e-4)


def test_rgb_has_the_keys_that_it_always_had() -> None:
    config = create_model("fcn", num_classes=3, backbone="tiny").config()
    assert list(config["preprocessing"]) == ["mean", "std", "channel_order", "value_range"]
    assert "in_channels" not in config["model"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (
            {"mean": [0.5], "std": [1.0], "channels": None, "shown": None},
            "normalises 1 channels for a network of 5",
        ),
        ({"channel_order": "RGB"}, "three for RGB"),
        ({"input_range": [3, 3]}, "ascending order"),
        ({"channels": [0, 1, 2, 3]}, "must be 5 indices"),
        ({"shown": [0, 1, 5]}, "must be 3 indices from 0 to 4"),
    ],
)
def test_damaged_entries_are_refused(tmp_path: Path, change: dict[str, object], error: str) -> None:
    five_channels().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["preprocessing"] |= change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=error):
        load_model(tmp_path)


def test_other_channels_are_refused() -> None:
    with pytest.raises(UserError, match=r"shape \(B, 5, H, W\), not \(1, 3, 8, 8\)"):
        five_channels()(torch.rand(1, 3, 8, 8))
    with pytest.raises(UserError, match="in_channels is 0"):
        create_model("fcn", num_classes=3, backbone="tiny", in_channels=0)


def test_grey_is_repeated_in_a_network_of_rgb() -> None:
    grey = torch.randint(0, 256, (2, 1, 5, 7), dtype=torch.uint8)
    images = Preprocessing(channel_order="BGR")
    assert torch.equal(images(grey), images(grey.expand(-1, 3, -1, -1)))


def test_the_cost_counts_the_channels() -> None:
    flops = {
        n: estimate(
            create_model("fcn", num_classes=2, backbone="tiny", in_channels=n), (16, 16)
        ).flops
        for n in (3, 4)
    }
    assert flops[4] - flops[3] == 2 * 32 * 9 * 8 * 8  # one more channel of the first convolution


@pytest.mark.parametrize("suffix", ["onnx", "xml"])
def test_exports_take_the_channels(tmp_path: Path, suffix: str) -> None:
    model, file = five_channels(), tmp_path / f"five.{suffix}"
    export = export_model(model, file)
    assert export.metadata["input"] == "images: float32 (batch, 5, height, width), normalised"
    again = load_exported(file)
    assert again.preprocessing == SENSOR
    images = torch.rand(1, 5, 24, 40) * 5000
    expected = model(model.normalize(images)).logits
    torch.testing.assert_close(again(again.normalize(images)).logits, expected, rtol=0, atol=1e-4)


def test_an_export_with_labels_takes_values_of_the_sensor(tmp_path: Path) -> None:
    export = export_model(five_channels(), tmp_path / "five.pt2", "labels")
    expected = "images: float32 (batch, height, width, 5), as in the files, values of the sensor"
    assert export.metadata["input"] == expected
    assert export.differences[0].agreement == 1
