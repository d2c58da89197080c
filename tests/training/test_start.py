"""A training that starts from a trained model, and frozen parts of its network."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

import scenewise
from scenewise import Segmenter, create_model, load_model
from scenewise.apps.cli import main
from scenewise.classes import Classes
from scenewise.data import SegmentationData
from scenewise.errors import UserError
from scenewise.models.classifiers import classifiers
from scenewise.models.convert.to_external import save_external
from scenewise.training.task import SegmentationTask
from tests.models.hub_server import serving
from tests.models.networks import ON_TINY

SMALL: dict[str, Any] = {
    "accelerator": "cpu",
    "max_steps": 2,
    "check_val_every_n_epoch": None,
    "val_check_interval": 2,
}


@pytest.fixture(autouse=True, scope="module")
def _offline() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


def scenes() -> SegmentationData:
    return SegmentationData(
        "scenes", scenes_train=4, scenes_val=1, scenes_size=(32, 64), batch_size=2, num_workers=0
    )


def trained(name: str = "danet", **options: Any) -> Segmenter:
    """Classes of which the generated scenes have two; no value is near 0, and all differ."""
    names = (scenes().classes.names[3], "boat", scenes().classes.names[1])
    classes = Classes(names, ((1, 2, 3), (4, 5, 6), (7, 8, 9)))
    model = create_model(name, classes=classes, backbone="tiny", auxiliary=True, **options)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data.uniform_(0.05, 0.1)
    return model


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("source")
    trained().save_pretrained(folder)
    return folder


def split(model: Segmenter) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """All tensors but the classifiers', and the classifiers'."""
    heads = tuple(f"{name}." for name in classifiers(model))
    state = model.state_dict()
    return (
        {key: value for key, value in state.items() if not key.startswith(heads)},
        {key: value for key, value in state.items() if key.startswith(heads)},
    )


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


def weights_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: t for k, t in tensors.items() if "running" not in k and "num_batches" not in k}


@pytest.mark.parametrize("name", ["danet", "ocr", "encnet", "ann", "deeplabv3"])
def test_with_classes_changes_the_classifiers_alone(name: str) -> None:
    model = trained(name).eval()
    classes = Classes.numbered(2)
    other = model.with_classes(classes)
    assert other.classes == classes
    assert not any(module.training for module in other.modules())
    same(split(model)[0], split(other)[0])
    assert (other.preprocessing, other.recipe) == (model.preprocessing, model.recipe)
    assert other.loss_weights == model.loss_weights
    assert {t.shape[0] for t in split(other)[1].values()} == {2}
    assert {t.shape[0] for t in split(model)[1].values()} == {3}  # the model is not changed
    assert other.train()(torch.randn(2, 3, 48, 64)).logits.shape == (2, 2, 48, 64)


def test_rows_of_classes_of_the_same_name_are_kept() -> None:
    model = trained()
    names = model.classes.names
    new = Classes((names[2], "new", names[0]), ((0, 0, 1), (0, 0, 2), (0, 0, 3)))
    other = model.with_classes(new)
    pairs = zip(split(other)[1].items(), split(model)[1].items(), strict=True)
    rows = [(key, after[:, ...], before) for (key, after), (_, before) in pairs]
    assert len(rows) == 2 * 4  # weight and bias of four classifiers
    for _, after, before in rows:
        assert torch.equal(after[[0, 2]], before[[2, 0]])
        assert not torch.isin(after[1], before).any()
    assert all(parameter.requires_grad for parameter in other.parameters())


def test_custom_parts_cannot_take_other_classes() -> None:
    model = trained()
    model.recipe = None
    with pytest.raises(UserError, match="custom parts cannot take other classes; build it again"):
        model.with_classes(Classes.numbered(2))


def test_every_classifier_of_every_network_is_known() -> None:
    """Those are the classifiers whose shapes depend on the number of classes."""
    from scenewise.models.zoo import NETWORKS

    for name in ON_TINY:
        for variant in NETWORKS[name].variants:
            with torch.device("meta"):
                options: dict[str, Any] = {"variant": variant, "backbone": "tiny"}
                models = [
                    create_model(name, num_classes=k, auxiliary=True, **options) for k in (5, 7)
                ]
            states = [model.state_dict() for model in models]
            differ = {key for key in states[0] if states[0][key].shape != states[1][key].shape}
            assert differ == split(models[0])[1].keys(), (name, variant)


def test_a_training_without_steps_has_the_weights_of_its_start(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = scenewise.fit(scenes(), start=source, lr=1e-12, root=tmp_path, **SMALL)
    before, after = split(load_model(source))[0], split(run.model)[0]
    same(weights_of(before), weights_of(after))
    counts = [t for key, t in after.items() if key.endswith("num_batches_tracked")]
    assert {int(count) for count in counts} == {2}  # batch statistics are not frozen
    report = capsys.readouterr().out
    assert f"started from '{source}': danet with backbone tiny" in report
    assert f"classes kept: {scenes().classes.names[1]}, {scenes().classes.names[3]}" in report
    more = len(scenes().classes) - 2 - 12  # twelve names are listed
    assert report.split("classes new: ")[1].splitlines()[0].endswith(f" and {more} more")
    assert "classes left out: boat" in report
    assert run.folder.parent.name == "danet"
    config = yaml.safe_load((run.folder / "config.yaml").read_text())["model"]
    assert (config["start"], config["network"]) == (str(source), "danet")
    for again in (run.folder, run.folder / "checkpoints" / "best.ckpt"):
        task = SegmentationTask(Classes.numbered(2), start=str(again))
        same(split(task.model)[0], after)
    # The checkpoint of such a run is resumed without its source.
    moved = source.rename(source.with_name("moved"))
    options = {**SMALL, "max_steps": 4}
    try:
        resumed = scenewise.fit(
            scenes(), start=str(source), network="danet", lr=1e-12, root=tmp_path, resume="last",
            **options,
        )  # fmt: skip
    finally:
        moved.rename(source)
    assert resumed.folder == run.folder
    same(weights_of(before), weights_of(split(resumed.model)[0]))
    assert "started from" not in capsys.readouterr().out
    config = yaml.safe_load((run.folder / "config.yaml").read_text())["model"]
    assert config["start"] == str(source)


def test_the_command_line_starts_from_a_model_and_freezes(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At any learning rate a frozen backbone is the source's to the bit, its statistics too."""
    words = ["--start", str(source), "--model.freeze", "backbone", "--model.lr", "0.01"]
    options = ["--data.format=scenes", "--data.scenes_train=4", "--data.scenes_val=1"]
    options += ["--data.scenes_size=[32,64]", "--data.batch_size=2", "--data.num_workers=0"]
    options += [f"--trainer.default_root_dir={tmp_path}", "--trainer.accelerator=cpu"]
    options += ["--trainer.max_steps=2", "--trainer.val_check_interval=2"]
    assert main(["fit", *words, *options, "--trainer.check_val_every_n_epoch=null"]) == 0
    report = capsys.readouterr().out
    assert f"started from '{source}'" in report
    model = load_model(source).with_classes(scenes().classes)
    total, frozen = (
        sum(p.numel() for p in part.parameters()) / 1e6 for part in (model, model.backbone)
    )
    assert f"{total:.1f} million parameters, {frozen:.1f} million of them frozen" in report
    folder = tmp_path / "danet" / "version_0"
    before, after = load_model(source), load_model(folder)
    same(before.backbone.state_dict(), after.backbone.state_dict())
    moved = weights_of(after.head.state_dict())
    assert not torch.equal(moved["position.1.gamma"], before.head.state_dict()["position.1.gamma"])
    config = yaml.safe_load((folder / "config.yaml").read_text())["model"]
    assert (config["start"], config["freeze"]) == (str(source), "backbone")
    assert (config["network"], config["backbone"]) == ("danet", "tiny")
    checkpoint = str(folder / "checkpoints" / "best.ckpt")
    assert main(["validate", "--config", str(folder / "config.yaml"), "--ckpt_path", checkpoint,
                 f"--trainer.default_root_dir={tmp_path}"]) == 0  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "fcn"}, "--model.network is fcn but '{source}' has danet; leave the option"),
        ({"backbone": "resnet18"}, "--model.backbone is resnet18 but '{source}' has tiny"),
        ({"variant": "mmseg"}, "--model.variant is mmseg but '{source}' has official"),
        ({"output_stride": 16}, "--model.output_stride is 16 but '{source}' has 8"),
        ({"multi_grid": [4, 8, 16]}, "--model.multi_grid is [4, 8, 16] but '{source}' has None"),
        ({"auxiliary": False}, "--model.auxiliary is False but '{source}' has True"),
        ({"head": {"width": 9}}, "--model.head.width is 9 but '{source}' has its default"),
        ({"pretrained": True}, "--start and --model.pretrained both give the weights"),
        ({"backbone_weights": "x.pth"}, "--start and --model.backbone_weights both give"),
        ({"weights": "folder"}, "--start and --model.weights both give the weights; leave one out"),
        ({"freeze": 4}, "--model.freeze is 4, but this backbone takes 1 to 3; give that, 'backb"),
    ],
)
def test_options_against_the_source_are_refused_by_name(
    source: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as refused:
        SegmentationTask(Classes.numbered(2), start=str(source), **options)
    assert message.format(source=source) in str(refused.value)


def test_options_that_agree_with_the_source_are_accepted(source: Path) -> None:
    task = SegmentationTask(
        Classes.numbered(2),
        start=str(source),
        network="danet",
        backbone="tiny",
        output_stride=8,
        pretrained=False,
        auxiliary=True,
    )
    assert task.trained == "all"
    assert task.training


def test_other_classes_than_the_model_has_name_the_way_out(source: Path) -> None:
    with pytest.raises(UserError, match=r"has 3 classes but the data has 2; .* fit DIR --start '"):
        SegmentationTask(Classes.numbered(2), weights=str(source))


def graphs(task: SegmentationTask) -> list[bool]:
    """Whether a graph for a backward pass is built through each feature map of the backbone."""
    features = task.model.backbone(torch.randn(2, 3, 32, 48))
    return [feature.grad_fn is not None for feature in features]


@pytest.mark.parametrize(
    ("freeze", "built"),
    [
        (None, [True, True, True]),
        (1, [False, True, True]),
        (2, [False, False, True]),
        ("backbone", [False, False, False]),
        ("all-but-classifier", [False, False, False]),
    ],
)
def test_no_backward_pass_runs_through_frozen_layers(
    source: Path, freeze: Any, built: list[bool]
) -> None:
    task = SegmentationTask(Classes.numbered(2), start=str(source), freeze=freeze).train()
    assert graphs(task) == built
    trained = {name for name, p in task.model.named_parameters() if p.requires_grad}
    if freeze == "all-but-classifier":
        assert trained == split(task.model)[1].keys()
        assert sum(isinstance(m, nn.Dropout2d) and m.training for m in task.modules()) == 3
    else:
        assert {name for name, _ in task.model.head.named_parameters(prefix="head")} <= trained
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    batch = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    task.losses(batch, torch.randint(0, 2, (2, 32, 48))).total.backward()
    assert {n for n, p in task.model.named_parameters() if p.grad is not None} == trained
    optimised = {id(p) for group in task._optimizer().param_groups for p in group["params"]}
    assert optimised == {id(p) for p in task.model.parameters() if p.requires_grad}
    still = {name for name, t in task.model.state_dict().items() if torch.equal(t, before[name])}
    statistics = {name for name in before if "running" in name}
    live = {n for n in statistics if n.replace("running_mean", "weight") in trained
            or n.replace("running_var", "weight") in trained}  # fmt: skip
    assert live.isdisjoint(still)
    assert statistics - live <= still


def test_random_weights_are_not_frozen(tmp_path: Path) -> None:
    options: dict[str, Any] = {"network": "fcn", "backbone": "tiny", "root": tmp_path, **SMALL}
    with pytest.raises(UserError, match=r"--model.freeze 1 would freeze a backbone of random wei"):
        scenewise.fit(scenes(), freeze=1, **options)
    with pytest.raises(
        UserError, match=r"all-but-classifier would freeze a head of random weights"
    ):
        scenewise.fit(scenes(), freeze="all-but-classifier", **options)


def test_a_public_checkpoint_is_a_start(tmp_path: Path) -> None:
    options: dict[str, Any] = {"variant": "mmseg", "backbone": "resnet18c", "pretrained": False}
    public = create_model("fcn", num_classes=3, **options)
    file = tmp_path / "iter_40000.pth"
    save_external(public, "mmseg", file)
    task = SegmentationTask(Classes.numbered(2), start=str(file))
    expected, loaded = load_model(file), task.model
    assert (loaded.recipe or {})["variant"] == "mmseg"
    assert loaded.preprocessing == expected.preprocessing
    assert loaded.source == expected.source
    same(split(expected)[0], split(loaded)[0])
    assert loaded.classes == Classes.numbered(2)


def test_a_frozen_run_is_resumed_without_the_weights_it_began_with(
    source: Path, tmp_path: Path
) -> None:
    options = {"network": "fcn", "backbone": "tiny", "freeze": 1, "root": tmp_path, **SMALL}
    file = str(source / "model.safetensors")
    run = scenewise.fit(scenes(), backbone_weights=file, **options)
    options["max_steps"] = 3
    assert scenewise.fit(scenes(), resume="last", **options).folder == run.folder


def test_a_backbone_starts_from_a_trained_models_files(source: Path, tmp_path: Path) -> None:
    """Of the tiny backbone and of a ResNet: from model.safetensors, and from a checkpoint."""
    residual = create_model("fcn", num_classes=2, backbone="resnet18", pretrained=False)
    residual.save_pretrained(tmp_path)
    state = {f"model.{name}": tensor for name, tensor in residual.state_dict().items()}
    torch.save({"scenewise": residual.config(), "state_dict": state}, tmp_path / "best.ckpt")
    cases = [
        ("tiny", source / "model.safetensors", load_model(source)),
        ("resnet18", tmp_path / "model.safetensors", residual),
        ("resnet18", tmp_path / "best.ckpt", residual),
    ]
    for backbone, file, model in cases:
        options: dict[str, Any] = {"backbone": backbone, "backbone_weights": file}
        started = create_model("pspnet", num_classes=4, **options)
        same(started.backbone.state_dict(), model.backbone.state_dict())


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # inside huggingface_hub
def test_a_training_starts_from_the_hub(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving(monkeypatch, str(tmp_path / "cache")) as hub:
        load_model(source).push_to_hub("me/danet", licence="mit")
        hub.requests.clear()
        task = SegmentationTask(Classes.numbered(2), start="hf-hub:me/danet")
        assert sum(request.startswith("GET /api/models") for request in hub.requests) == 1
        hub.requests.clear()
        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        assert main(["fit", "--data.format=scenes", "--start", "hf-hub:me/nothing"]) == 2
        assert "'hf-hub:me/nothing' is not on the hub, or private" in capsys.readouterr().err
        asked = [request for request in hub.requests if "agent" not in request]  # the client's own
        assert asked == ["GET /api/models/me/nothing"]
    base = {"base_model": "me/danet", "base_revision": hub.repositories["me/danet"].head}
    assert task.model.config()["source"] == base
    same(split(task.model)[0], split(load_model(source))[0])
