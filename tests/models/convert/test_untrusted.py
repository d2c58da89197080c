"""Untrusted files: refused in one sentence, nothing executed."""

import pickle
import zipfile
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from scenewise import create_model, load_model
from scenewise.errors import UserError
from scenewise.models.convert import Options, convert, make_plan
from scenewise.models.resnet_keys import resnet_mapping, resnet_name
from tests.models.convert import external_mmseg
from tests.models.convert.compare import random_image
from tests.models.convert.external import Weights, resnet
from tests.models.convert.external_danet import fcn

Tensors = dict[str, torch.Tensor]


class RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("executed"),))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    weights = Weights()
    with torch.no_grad():
        fcn(weights, random_image((33, 41)), 3)
    return weights.tensors


def refused(file: Path, content: object, message: str, options: Options | None = None) -> None:
    torch.save(content, file)
    with pytest.raises(UserError, match=message) as error:
        make_plan(file, options)
    assert "\n" not in str(error.value)


def test_what_does_not_fit_is_named(tmp_path: Path, tensors: Tensors) -> None:
    file = tmp_path / "x.pth"
    part = {k: v for k, v in tensors.items() if "layer4.2" not in k}
    refused(file, part, r"18|missing \(for backbone.net.layer4.2.conv1.weight, .*, \.\.\.\)")
    more = {**tensors, "head.what.weight": torch.ones(1), "nonsense": torch.ones(1)}
    refused(file, more, r"2 unknown \(head.what.weight, nonsense\).*nothing was converted")
    wrong = {**tensors, "head.conv5.0.weight": torch.ones(512, 2048, 1, 1)}
    refused(file, wrong, r"1 of another shape \(head.conv5.0.weight\)")
    whole = {**tensors, "head.conv5.0.weight": tensors["head.conv5.0.weight"].short()}
    refused(file, whole, r"1 not numbers \(head.conv5.0.weight\)")
    huge = {**tensors, "head.conv5.0.weight": torch.ones(1).expand(10**6, 10**6, 3, 3)}
    refused(file, huge, r"of another shape")
    one = {k: v for k, v in tensors.items() if k != "head.conv5.4.weight"}
    refused(file, one, "of an unknown family")


def test_a_layer_stored_twice_must_be_the_same(tmp_path: Path) -> None:
    weights = Weights()
    with torch.no_grad():
        external_mmseg.network(weights, random_image((33, 41)), external_mmseg.ann, 3)
    name = "decode_head.context.stages.0.key_project.conv.weight"
    weights.tensors[name] = weights.tensors[name] + 1
    refused(tmp_path / "x.pth", weights.tensors, r"1 unknown \(decode_head.context.stages.0.")


def test_unknown_backbones_heads_and_families(tmp_path: Path, tensors: Tensors) -> None:
    file = tmp_path / "x.pth"
    refused(file, {"a": torch.ones(1)}, r"of an unknown family .*\(its first tensors are a\)")
    refused(file, {"backbone.net.conv1.weight": torch.ones(1)}, "give the folder")
    refused(file, {"decode_head.linear_pred.weight": torch.ones(1)}, "head that is not supported")
    shallow = {k: v for k, v in tensors.items() if "layer3.5" not in k}
    refused(file, shallow, "no ResNet-50, 101 or 152 with a known stem under 'pretrained.'")
    refused(file, tensors, "unknown family 'x'; choose one of danet", Options(family="x"))
    refused(file, tensors, "has no tensor 'head.conv8.1.weight'", Options(family="danet"))
    refused(file, tensors, "'fcn' has no recurrence", Options(recurrence=2))
    refused(file, tensors, "must hold positive dilations", Options(multi_grid=(0,)))
    refused(file, {}, "no named tensors")
    refused(file, [1], "no dictionary")


def test_no_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensors: Tensors) -> None:
    monkeypatch.chdir(tmp_path)
    refused(tmp_path / "a.pth", {"state_dict": tensors, "meta": RunsCode()}, "could run code")
    (tmp_path / "b.pth").write_bytes(pickle.dumps({"state_dict": RunsCode()}))
    with pytest.raises(UserError):
        load_model(tmp_path / "b.pth")
    assert not (tmp_path / "executed").exists()


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    file = tmp_path / "bomb.pth"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10**7)
    with pytest.raises(UserError, match="would unpack to 10,000,000 bytes from"):
        load_model(file)


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("old", [False, True])
def test_truncated_files(tmp_path: Path, keep: float, old: bool) -> None:
    file = tmp_path / "x.pth"
    torch.save(
        {"a": torch.ones(1000), "b": torch.ones(1000)}, file, _use_new_zipfile_serialization=not old
    )
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(UserError, match="damaged"):
        load_model(file)


def test_damaged_bytes(tmp_path: Path) -> None:
    """Any byte may be wrong: the file is refused."""
    file = tmp_path / "x.pth"
    torch.save({"a": torch.ones(3)}, file)
    whole = bytearray(file.read_bytes())
    for position in torch.randint(len(whole), (200,)).tolist():
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 0x5A]) + whole[position + 1 :])
        with pytest.raises(UserError):
            load_model(file)


def test_a_safetensors_file(tmp_path: Path, tensors: Tensors) -> None:
    save_file(tensors, tmp_path / "x.safetensors")
    model = convert(tmp_path / "x.safetensors")
    assert torch.equal(
        model.head.reduce[0].weight,  # type: ignore[union-attr, index]
        tensors["head.conv5.0.weight"],
    )
    into = create_model(
        "fcn", num_classes=3, backbone="resnet50", pretrained=False, auxiliary=False
    )
    assert load_model(tmp_path / "x.safetensors", into=into) is into
    assert torch.equal(into.head.reduce[0].weight, tensors["head.conv5.0.weight"])  # type: ignore[union-attr, index]


def test_halves_become_floats(tmp_path: Path, tensors: Tensors) -> None:
    halves = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    torch.save(halves, tmp_path / "x.pth")
    assert {p.dtype for p in convert(tmp_path / "x.pth").parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("stem", "prefix", "name"),
    [
        ("plain", "", "resnet50"),
        ("mmseg", "", "resnet50c"),
        ("mmseg", "backbone.", "resnet50c"),
        ("encoding", "", "resnet50s"),
        ("mit", "", "resnet50s"),
        ("semseg", "", "resnet50s"),
        ("openseg", "", "resnet50s"),
    ],
)
def test_backbones_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, stem: str, prefix: str, name: str
) -> None:
    """Any layout loads into timm's network, and no tensor is missing."""
    weights = Weights()
    images = random_image((33, 41))
    with torch.no_grad():
        expected = resnet(weights, prefix, images, stem=stem)
    mapping = resnet_mapping(weights.tensors, prefix)
    assert resnet_name(weights.tensors, mapping) == name
    fc = {f"{prefix}fc.weight": torch.ones(1000, 2048)}
    torch.save({"state_dict": weights.tensors | fc}, tmp_path / "w.pth")
    build = partial(create_model, "fcn", num_classes=2, backbone=name)
    model = build(backbone_weights=tmp_path / "w.pth").eval()
    with torch.no_grad():
        features = model.backbone(images)
    assert (features[-1] - expected[-1]).abs().max() < 1e-4 * expected[-1].abs().max()
    assert caplog.text == ""
