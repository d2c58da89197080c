from functools import partial
from pathlib import Path

import pytest
import torch

from scenewise import create_model, load_model
from scenewise.errors import UserError
from scenewise.models.convert import convert
from scenewise.models.convert.to_external import _external_state_dict, save_external
from tests.models.convert import external_danet, external_mmseg
from tests.models.convert.compare import random_image
from tests.models.convert.external import Weights

SIZE = (33, 41)


@torch.no_grad()
def tensors_of(network: object) -> dict[str, torch.Tensor]:
    weights = Weights()
    network(weights, random_image(SIZE))  # type: ignore[operator]
    return weights.tensors


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[k].shape == b[k].shape and a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a
    )


@pytest.mark.parametrize("name", ["danet", "ann", "emanet", "ocr", "encnet"])
def test_mmsegmentation_round_trip(tmp_path: Path, name: str) -> None:
    network = partial(
        external_mmseg.network, head=external_mmseg.HEADS[name], classes=3, auxiliary=name != "ocr"
    )
    tensors = tensors_of(network)
    torch.save({"state_dict": tensors}, tmp_path / "a.pth")
    model = convert(tmp_path / "a.pth")
    save_external(model, "mmseg", tmp_path / "b.pth")
    written = torch.load(tmp_path / "b.pth", weights_only=True)
    assert same(written["state_dict"], tensors)
    assert written["meta"]["CLASSES"] == model.classes.names
    assert load_model(tmp_path / "b.pth").classes == model.classes


@pytest.mark.parametrize("name", ["plain", "deep", "dranet", "fcn"])
def test_danet_round_trip(tmp_path: Path, name: str) -> None:
    network = {
        "plain": partial(external_danet.danet, classes=3),
        "deep": partial(external_danet.danet, classes=3, stem="encoding"),
        "dranet": partial(external_danet.dranet, classes=3),
        "fcn": partial(external_danet.fcn, classes=3),
    }[name]
    tensors = tensors_of(network)
    torch.save(tensors, tmp_path / "a.pth")
    assert same(_external_state_dict(convert(tmp_path / "a.pth"), "danet"), tensors)


def test_every_head_of_mmsegmentation_is_written_back(tmp_path: Path) -> None:
    """Names and shapes only, on the meta device."""
    for name in external_mmseg.HEADS:
        with torch.device("meta"):
            model = create_model(
                name, variant="mmseg" if name not in ("gcnet", "nonlocal") else None,
                num_classes=3, backbone="resnet50c", pretrained=False,
            )  # fmt: skip
        model = model.to_empty(device="cpu")
        tensors = _external_state_dict(model, "mmseg")
        assert len(set(tensors)) >= len(model.state_dict())
        assert all(k.startswith(("backbone.", "decode_head.", "auxiliary_")) for k in tensors)


def test_from_one_project_to_another(tmp_path: Path) -> None:
    """DANet's own weights as mmsegmentation's; the head is the same but for names."""
    torch.save(tensors_of(partial(external_danet.danet, classes=3)), tmp_path / "a.pth")
    first = convert(tmp_path / "a.pth")
    save_external(first, "mmseg", tmp_path / "b.pth")
    second = convert(tmp_path / "b.pth")
    assert same(first.state_dict(), second.state_dict())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "options", "layout"),
    [
        ("sagan", {}, "mmseg"),
        ("ccnet", {}, "mmseg"),
        ("pspnet", {"variant": "mmseg"}, "danet"),
        ("danet", {"auxiliary": True}, "danet"),
        ("danet", {"backbone": "tiny"}, "danet"),
    ],
)
def test_unsupported_layouts_are_refused(
    name: str, options: dict[str, object], layout: str
) -> None:
    with torch.device("meta"):
        model = create_model(
            name,
            **{"num_classes": 2, "backbone": "resnet50", "pretrained": False, **options},  # type: ignore[arg-type]
        )
    with pytest.raises(UserError, match=f"the layout of {layout} does not support"):
        _external_state_dict(model, layout)  # type: ignore[arg-type]
