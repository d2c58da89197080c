import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from scenewise import Segmenter, create_model, load_model
from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.models.preprocessing import Preprocessing
from tests.shared_data import shared


class RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("executed"),))


def small(name: str = "danet", **options: object) -> Segmenter:
    classes = Classes(("road", "sky"), ((1, 2, 3), (4, 5, 6)), ignore_index=9)
    return create_model(name, classes=classes, backbone="tiny", **options)  # type: ignore[arg-type]


def test_a_saved_model_is_restored(tmp_path: Path) -> None:
    model = small(auxiliary=True, similarity="direct", align_corners=False)
    model.preprocessing = Preprocessing((1, 2, 3), (4, 5, 6), "BGR", 255.0)
    for parameter in model.parameters():
        parameter.data.normal_()
    model.save_pretrained(tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    assert {p.name for p in (tmp_path / "m").iterdir()} == {"config.json", "model.safetensors"}
    assert loaded.classes == model.classes
    assert loaded.preprocessing == model.preprocessing
    assert loaded.align_corners is False
    assert loaded.loss_weights == model.loss_weights
    assert not loaded.training
    images = model.normalize(torch.rand(1, 3, 30, 44))
    assert torch.equal(loaded(images).logits, model.eval()(images).logits)


def test_saved_weights_say_that_they_are_pytorchs(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_custom_parts_load_into_themselves(tmp_path: Path) -> None:
    source, target = small(), small()
    source.recipe = None
    source.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"custom parts; build it and call load_model\(path, into="):
        load_model(tmp_path)
    loaded = load_model(tmp_path, into=target)
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.parameters(), source.parameters(), strict=True)
    )


def test_a_training_checkpoint_is_detected_by_its_suffix(tmp_path: Path) -> None:
    source = small("fcn")
    state = {f"model.{name}": value for name, value in source.state_dict().items()}
    other = {"loss.weight": torch.ones(1)}
    content = {"scenewise": source.config(), "state_dict": state | other}
    torch.save(content, tmp_path / "last.ckpt")
    loaded = load_model(tmp_path / "last.ckpt")
    assert loaded.classes == source.classes
    assert not loaded.training
    for name, value in source.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    into = small("fcn").train()
    assert load_model(tmp_path / "last.ckpt", into=into) is into
    assert not into.training


def test_a_checkpoint_of_another_project_is_reported(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="hold no named tensors"):
        load_model(tmp_path / "last.ckpt")
    tensors = {"model.encoder.a": torch.ones(1), "model.segmentation_head.0.weight": torch.ones(1)}
    torch.save({"state_dict": tensors | {"model.decoder.p5.a": torch.ones(1)}}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="segmentation_models_pytorch's FPN"):
        load_model(tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    "content", [{"scenewise": [], "state_dict": {}}, {"scenewise": {}, "state_dict": []}]
)
def test_a_damaged_checkpoint_of_a_training_is_reported(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"last\.ckpt' is damaged; fetch it again"):
        load_model(tmp_path / "last.ckpt")


def test_another_network_is_refused_with_what_does_not_fit(tmp_path: Path) -> None:
    small("fcn").save_pretrained(tmp_path / "fcn")
    small("danet").save_pretrained(tmp_path / "danet")
    (tmp_path / "fcn" / "model.safetensors").replace(tmp_path / "danet" / "model.safetensors")
    with pytest.raises(UserError, match=r"\d+ missing \(head.position.*\d+ unknown \(head.reduce"):
        load_model(tmp_path / "danet")


@pytest.mark.parametrize(("count", "dots"), [(1, ""), (3, ""), (4, ", ...")])
def test_at_most_three_keys_are_listed(tmp_path: Path, count: int, dots: str) -> None:
    model = small("fcn")
    names = list(model.state_dict())[:count]
    state = {f"model.{k}": v for k, v in model.state_dict().items() if k not in names}
    torch.save({"scenewise": model.config(), "state_dict": state}, tmp_path / "a.ckpt")
    for into in (None, model):
        with pytest.raises(UserError) as error:
            load_model(tmp_path / "a.ckpt", into=into)
        assert f"{count} missing ({', '.join(names[:3])}{dots});" in str(error.value)
        assert str(error.value).startswith(f"'{tmp_path / 'a.ckpt'}' holds another network's")


def test_the_source_is_saved_with_the_model(tmp_path: Path) -> None:
    model = small("fcn")
    assert "source" not in model.config()
    model.save_pretrained(tmp_path / "a")
    assert load_model(tmp_path / "a").source is None
    model.source = "a release of another project"
    model.save_pretrained(tmp_path / "b")
    assert load_model(tmp_path / "b").source == model.source


def test_nothing_is_downloaded_for_a_saved_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, asked = small("fcn"), []

    def build(*names: object, **options: object) -> Segmenter:
        asked.append(options["pretrained"])
        return create_model(*names, **options)  # type: ignore[arg-type]

    model.save_pretrained(tmp_path)
    monkeypatch.setattr("scenewise.models.checkpoints.create_model", build)
    load_model(tmp_path)
    assert asked == [False, False]  # once on the meta device, once with memory


@pytest.mark.parametrize("into", [False, True])
def test_a_public_checkpoint_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, into: bool
) -> None:
    converted, target = small("fcn").train(), small("fcn").train() if into else None
    file = tmp_path / "public.pth"
    file.write_bytes(b"")
    convert = {file: converted}.__getitem__
    monkeypatch.setattr("scenewise.models.checkpoints.convert", convert)
    loaded = load_model(file, into=target)
    assert loaded is (target if into else converted)
    assert not loaded.training or not into
    for name, value in converted.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    if into:
        with pytest.raises(UserError, match=r"public\.pth' holds another network's weights"):
            load_model(file, into=small("danet"))


def test_wrong_shapes_are_refused(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["classes"] = Classes.numbered(3).to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="of another shape"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a model configuration"),
        ("{}", "custom parts"),
        ('{"model": {"name": "danet"}}', "damaged"),
        ('{"model": {"name": "os.system"}, "classes": %s, %p}', "unknown network"),
        (
            '{"model": {"name": "fcn", "backbone": "hf-hub:a/b"}, "classes": %s, %p}',
            "unknown backbone",
        ),
    ],
)
def test_damaged_configurations_are_reported(tmp_path: Path, content: str, message: str) -> None:
    small().save_pretrained(tmp_path)
    classes = json.dumps(Classes.numbered(2).to_dict())
    preprocessing = f'"preprocessing": {json.dumps(Preprocessing().to_dict())}'
    (tmp_path / "config.json").write_text(
        content.replace("%s", classes).replace("%p", preprocessing)
    )
    with pytest.raises(UserError, match=message) as error:
        load_model(tmp_path)
    assert "UserError(" not in str(error.value)
    if content == '{"model": {"name": "danet"}}':
        assert "damaged: KeyError('classes');" in str(error.value)


def test_no_model_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model in .*config.json and model.safetensors"):
        load_model(tmp_path / "nowhere")


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
def test_half_a_model_is_reported(tmp_path: Path, lost: str) -> None:
    small().save_pretrained(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(UserError, match=r"no model in .*config.json and model.safetensors"):
        load_model(tmp_path)


def test_truncated_weights_are_reported(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged"):
        load_model(tmp_path)


@pytest.mark.parametrize("suffix", [".ckpt", ".pth"])
def test_a_file_that_wants_to_run_code_runs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    evil = tmp_path / f"evil{suffix}"
    torch.save({"state_dict": RunsCode()}, evil)
    with pytest.raises(UserError, match="could run code"):
        load_model(evil) if suffix == ".ckpt" else small(backbone_weights=evil)
    evil.write_bytes(pickle.dumps(RunsCode()))
    with pytest.raises(UserError):
        load_model(evil) if suffix == ".ckpt" else small(backbone_weights=evil)
    assert not (tmp_path / "executed").exists()


def test_whole_backbone_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = create_model("fcn", num_classes=2, backbone="resnet18", pretrained=False)
    torch.save({"state_dict": source.backbone.net.state_dict(), "epoch": 1}, tmp_path / "w.pth")
    target = create_model(
        "fcn", num_classes=2, backbone="resnet18", backbone_weights=tmp_path / "w.pth"
    )
    assert torch.equal(
        target.backbone.net.layer4[1].conv2.weight, source.backbone.net.layer4[1].conv2.weight
    )
    assert caplog.text == ""


def test_partial_backbone_weights_name_what_is_missing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    weights = shared("weights/resnet18_imagenet_layers1-3.pth")
    create_model("fcn", num_classes=2, backbone="resnet18", backbone_weights=weights)
    assert "layer4.0.conv1" in caplog.text
    assert "layer3" not in caplog.text


def test_backbone_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1, 2, 3)}, tmp_path / "shape.pth")
    torch.save({"other": torch.zeros(1)}, tmp_path / "names.pth")
    for file, message in [("shape", "another shape"), ("names", "no name matches")]:
        with pytest.raises(UserError, match=message):
            create_model(
                "fcn",
                num_classes=2,
                backbone="resnet18",
                backbone_weights=tmp_path / f"{file}.pth",
            )


def test_an_interrupted_save_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small()
    model.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()

    def fails(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scenewise.models.segmenter.save_file", fails)
    with pytest.raises(KeyboardInterrupt):
        model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2
