"""The training task on a few generated scenes and the tiny backbone."""

import copy
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from scenewise.classes import Classes
from scenewise.data import SegmentationData
from scenewise.data.value_range import ImageFormat
from scenewise.errors import UserError
from scenewise.models import SegmenterOutput, create_model, load_model
from scenewise.training import defaults
from scenewise.training.defaults import default_recipe, trained_network
from scenewise.training.losses import cross_entropy, ohem_cross_entropy, segmentation_loss
from scenewise.training.optim import poly
from scenewise.training.task import SegmentationTask

pytestmark = [
    # Lightning advises more workers; these sets are tiny.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    # Inside Lightning, with torch 2.9 and newer.
]

SIZE = (32, 64)


def scenes(**options: Any) -> SegmentationData:
    plain = {"scenes_train": 8, "scenes_val": 3, "scenes_size": SIZE, "batch_size": 4}
    return SegmentationData("scenes", num_workers=0, flip=False, **{**plain, **options})


def tiny(data: SegmentationData, network: str = "danet", **options: Any) -> SegmentationTask:
    return SegmentationTask(data.classes, network=network, backbone="tiny", **options)


def trainer(folder: Path, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"enable_checkpointing": False, "num_sanity_val_steps": 0, "accelerator": "cpu"}
    return Trainer(default_root_dir=folder, **{**quiet, **options})


class Linear(nn.Module):
    """A network without batch norm, whose gradient is a mean over images."""

    loss_weights: dict[str, float] = {}  # noqa: RUF012

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 1)
        self.head = nn.Conv2d(4, classes, 1)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        return images.float() / 255

    def forward(self, images: torch.Tensor) -> SegmenterOutput:
        return SegmenterOutput(self.head(self.backbone(images)), {}, {})

    def parameter_groups(self, lr: float, head_multiplier: float) -> list[dict[str, Any]]:
        return [
            {"params": self.backbone.parameters(), "lr": lr, "name": "backbone"},
            {"params": self.head.parameters(), "lr": lr * head_multiplier, "name": "head"},
        ]

    def low_res(self, images: Tensor) -> tuple[SegmenterOutput, tuple[int, int]]:
        return self(images), (images.shape[2], images.shape[3])

    def upsample(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        return scores


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(n == m and torch.equal(a, b) for (n, a), (m, b) in pairs)


class Recorder(Callback):
    """What the task logged after each batch, and its weights."""

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, task: Any, *_: Any) -> None:
        self.logged.append({k: float(v) for k, v in trainer.callback_metrics.items()})
        self.weights.append({k: v.clone() for k, v in task.state_dict().items()})


def test_the_loss_falls(tmp_path: Path) -> None:
    data = scenes()
    task = tiny(data, optimizer="adamw", lr=3e-3, head_multiplier=1)
    seen = Recorder()
    trainer(tmp_path, max_steps=16, callbacks=[seen], limit_val_batches=0).fit(task, data)
    losses = [logged["train/loss_main"] for logged in seen.logged]
    assert np.mean(losses[-2:]) < 0.6 * np.mean(losses[:2])


def test_the_logged_loss_is_the_sum_of_its_parts_and_gamma_is_logged(tmp_path: Path) -> None:
    data = scenes()
    seen = Recorder()
    run = trainer(tmp_path, max_steps=2, callbacks=[seen], limit_val_batches=0)
    task = tiny(data, auxiliary=True)
    run.fit(task, data)
    logged = seen.logged[-1]
    parts = {name: logged[f"train/loss_{name}"] for name in ("main", "position", "channel")}
    expected = sum(parts.values()) + 0.4 * logged["train/loss_auxiliary"]
    assert logged["train/loss"] == pytest.approx(expected, rel=1e-5)
    gammas = {name: value for name, value in logged.items() if name.startswith("gamma/")}
    assert set(gammas) == {"gamma/head.position.1", "gamma/head.channel.1"}
    assert all(seen.logged[0][name] == 0 for name in gammas)  # before the first step
    assert all(value != 0 for value in gammas.values())


def test_vectors_called_gamma_are_not_logged() -> None:
    task = SegmentationTask(
        Classes.numbered(2), network="fcn", backbone="convnext_atto", pretrained=False
    )
    task.optimizers = lambda: task._optimizer()  # type: ignore[method-assign,assignment]
    assert set(task._state()) == {"lr/backbone", "lr/head"}
    assert task.optimizer_name == "adamw"


def test_rates_follow_the_schedule_and_accumulation_counts_as_one_step(tmp_path: Path) -> None:
    data = scenes(batch_size=2)
    task = tiny(data, "fcn", lr=0.02, floor=0.1, warmup=2)
    seen = Recorder()
    run = trainer(
        tmp_path, max_epochs=3, accumulate_grad_batches=2, callbacks=[seen], limit_val_batches=0
    )
    run.fit(task, data)
    assert run.global_step == 6  # 3 epochs of 4 batches, 2 of them a step
    rates = [poly(batch // 2, 6, floor=0.1, warmup=2) for batch in range(12)]
    assert [x["lr/backbone"] for x in seen.logged] == pytest.approx([0.02 * r for r in rates])
    assert [x["lr/head"] for x in seen.logged] == pytest.approx([0.2 * r for r in rates])


def test_accumulated_batches_are_one_large_batch(tmp_path: Path) -> None:
    steps = []
    for batch_size, accumulate in ((4, 1), (2, 2)):
        data = scenes(batch_size=batch_size)
        torch.manual_seed(3)
        task = tiny(data, "fcn", lr=0.1)
        task.model = Linear(len(data.classes))  # type: ignore[assignment]
        trainer(tmp_path, max_steps=2, accumulate_grad_batches=accumulate, limit_val_batches=0).fit(
            task, data
        )
        steps.append(task.model.state_dict())
    for name, value in steps[0].items():
        torch.testing.assert_close(value, steps[1][name])


def plain_scores(task: SegmentationTask, data: SegmentationData, split: str) -> dict[str, float]:
    """mIoU, pixel accuracy and context IoU from NumPy counts over the whole set."""
    task.model.eval()
    truth, given = [], []
    for sample in data.dataset(split):
        with torch.no_grad():
            logits = task.model(task.model.normalize(sample["image"][None])).logits
        truth.append(sample["mask"].numpy().ravel())
        given.append(logits.argmax(1).numpy().ravel())
    truth_, given_ = np.concatenate(truth), np.concatenate(given)
    keep = truth_ != data.classes.ignore_index
    truth_, given_ = truth_[keep], given_[keep]
    scores = {}
    for k in range(len(data.classes)):
        union = ((truth_ == k) | (given_ == k)).sum()
        if union:
            scores[k] = ((truth_ == k) & (given_ == k)).sum() / union
    context = [scores[k] for k in data.context_classes if k in scores]
    return {
        "miou": float(np.mean(list(scores.values()))),
        "pixel_accuracy": float((truth_ == given_).mean()),
        "context_iou": float(np.mean(context)),
    }


@pytest.mark.parametrize(("command", "split"), [("validate", "val"), ("test", "test")])
@pytest.mark.parametrize("eval_batch_size", [1, 2])
def test_scores_are_of_the_whole_set(
    command: str, split: str, eval_batch_size: int, tmp_path: Path
) -> None:
    data = scenes(eval_batch_size=eval_batch_size)
    task = tiny(data)
    expected = plain_scores(task, data, split)
    [logged] = getattr(trainer(tmp_path), command)(task, data, verbose=False)
    for name, value in expected.items():
        assert logged[f"{split}/{name}"] == pytest.approx(value)
    road = logged.get(f"{split}/iou/road")
    assert road is None or 0 <= road <= 1


def test_defaults_follow_the_network() -> None:
    fcn = SegmentationTask(Classes.numbered(3), network="fcn", backbone="tiny")
    danet = SegmentationTask(Classes.numbered(3), network="danet", backbone="tiny")
    assert (fcn.optimizer_name, fcn.lr) == ("sgd", 0.01)
    assert danet.lr == pytest.approx(0.01 / 3)
    optimizer = danet._optimizer()
    body, head = optimizer.param_groups
    assert head["lr"] == pytest.approx(10 * body["lr"]) == pytest.approx(0.1 / 3)
    assert (head["momentum"], head["weight_decay"]) == (0.9, 1e-4)
    counted = sum(p.numel() for group in (body, head) for p in group["params"])
    assert counted == sum(p.numel() for p in danet.model.parameters())
    adamw = SegmentationTask(Classes.numbered(3), network="fcn", backbone="tiny", optimizer="adamw")
    assert isinstance(adamw._optimizer(), torch.optim.AdamW)
    assert adamw._optimizer().param_groups[0]["weight_decay"] == 0.01
    vit = create_model("fcn", num_classes=2, backbone="vit_tiny_patch16_224", pretrained=False)
    recipe = default_recipe(vit, "nothing", None)
    assert (recipe.optimizer, recipe.lr, recipe.head_multiplier) == ("adamw", 1e-4, 10)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the default without a GPU")
def test_the_default_backbone_without_a_gpu() -> None:
    recipe = SegmentationTask(Classes.numbered(2), pretrained=False).model.recipe
    assert recipe is not None
    assert (recipe["name"], recipe["backbone"]) == ("danet_plus", "tf_efficientnet_lite0")
    assert recipe["output_stride"] == 16


def one_step(task: SegmentationTask, data: SegmentationData, folder: Path) -> dict[str, float]:
    seen = Recorder()
    trainer(folder, max_steps=1, callbacks=[seen], limit_val_batches=0).fit(task, data)
    return seen.logged[0]


@pytest.mark.parametrize("ohem", [False, True])
def test_class_weights_and_hard_pixels_reach_the_loss(ohem: bool, tmp_path: Path) -> None:
    data = scenes(scenes_train=4)
    factors = [0.5 + 0.1 * k for k in range(len(data.classes))]
    options = {"ohem": True, "ohem_threshold": 0.05, "ohem_min_kept": 7} if ohem else {}
    task = tiny(data, "fcn", class_weights=factors, head={"dropout": 0.0}, **options)
    model = copy.deepcopy(task.model)
    data.setup("fit")
    [batch] = data.train_dataloader()
    logits = model(model.normalize(batch["image"])).logits
    weights = torch.tensor(factors)
    expected = (
        ohem_cross_entropy(logits, batch["mask"], threshold=0.05, min_kept=7, class_weights=weights)
        if ohem
        else cross_entropy(logits, batch["mask"], class_weights=weights)
    )
    logged = one_step(task, data, tmp_path)
    assert logged["train/loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_bfloat16_trains_with_a_float32_loss(tmp_path: Path) -> None:
    data = scenes()
    task = tiny(data)
    run = trainer(tmp_path, max_steps=2, precision="bf16-mixed", limit_val_batches=1)
    run.fit(task, data)
    loss = run.callback_metrics["train/loss"]
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


def uninterrupted(folder: Path, **options: Any) -> tuple[Trainer, SegmentationTask]:
    """Four epochs without any chance in them."""
    data = scenes()
    torch.manual_seed(1)
    task = tiny(data, head={"dropout": 0.0}, optimizer="adamw", lr=1e-3)
    saver = ModelCheckpoint(
        folder, "best", monitor="val/miou", mode="max", save_last=True, save_top_k=1
    )
    callbacks = [saver, *options.pop("callbacks", [])]
    run = trainer(folder, max_epochs=4, callbacks=callbacks, enable_checkpointing=True)
    run.fit(task, data, **options)
    return run, task


class StopAfter(Callback):
    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.current_epoch + 1 == self.epochs


@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # it has
def test_a_resumed_training_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    _, whole = uninterrupted(tmp_path / "whole")
    half, halved = uninterrupted(tmp_path / "half", callbacks=[StopAfter(2)])
    assert half.global_step == 4
    assert not same_weights(whole, halved)
    resumed, task = uninterrupted(tmp_path / "rest", ckpt_path=tmp_path / "half" / "last.ckpt")
    assert resumed.global_step == 8
    assert same_weights(whole, task)


def test_load_model_reads_a_checkpoint(tmp_path: Path) -> None:
    _, task = uninterrupted(tmp_path)
    loaded = load_model(tmp_path / "last.ckpt")
    assert same_weights(loaded, task.model)
    assert loaded.classes == task.classes


def test_the_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    uninterrupted(tmp_path)
    data = scenes()
    with pytest.raises(UserError, match=r"holds danet .* this is fcn with backbone tiny and 17"):
        trainer(tmp_path).test(tiny(data, "fcn"), data, ckpt_path=tmp_path / "last.ckpt")


def test_weights_start_a_task_from_a_trained_model(tmp_path: Path) -> None:
    model = create_model("fcn", num_classes=17, backbone="tiny")
    model.save_pretrained(tmp_path)
    data = scenes()
    task = SegmentationTask(data.classes, network="danet", weights=str(tmp_path))
    assert same_weights(task.model, model)
    assert task.model.training  # Lightning keeps the mode it finds
    with pytest.raises(UserError, match="17 classes but the data has 2"):
        SegmentationTask(Classes.numbered(2), weights=str(tmp_path))


def test_without_the_hub_training_starts_from_random_weights(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def offline(*args: Any, pretrained: bool, **options: Any) -> Any:
        if pretrained:
            raise UserError("the hub is far away")
        return create_model(*args, pretrained=False, **options)

    monkeypatch.setattr(defaults, "create_model", offline)
    with caplog.at_level(logging.WARNING):
        SegmentationTask(Classes.numbered(2), network="fcn", backbone="tiny")
    assert caplog.messages == ["the hub is far away; the backbone starts from random weights"]
    with pytest.raises(UserError, match="far away"):
        SegmentationTask(Classes.numbered(2), network="fcn", backbone="tiny", pretrained=True)
    with pytest.raises(UserError, match="unknown network 'fnc'"):
        SegmentationTask(Classes.numbered(2), network="fnc", backbone="tiny")


def test_a_batch_of_one_behind_global_pooling_is_reported(tmp_path: Path) -> None:
    data = scenes(batch_size=1)
    task = tiny(data, "pspnet")
    with pytest.raises(UserError, match=r"batch of one .*--data\.batch_size to 2"):
        trainer(tmp_path, max_steps=1).fit(task, data)


def test_a_training_without_end_is_reported(tmp_path: Path) -> None:
    data = scenes()
    with pytest.raises(UserError, match=r"max_epochs or --trainer\.max_steps"):
        trainer(tmp_path, max_epochs=-1).fit(tiny(data), data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weights": [1.0, 2.0]}, "2 numbers for 3 classes"),
        ({"class_weights": [0.0, 0.0, 0.0]}, "0 or more, not all of them 0"),
        ({"class_weights": [1.0, -1.0, 1.0]}, "0 or more, not all of them 0"),
        ({"class_weights": [1.0, math.nan, 1.0]}, "0 or more, not all of them 0"),
        ({"class_weights": [1.0, math.inf, 1.0]}, "0 or more, not all of them 0"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": math.inf}, "lr is inf"),
        ({"lr": math.nan}, "lr is nan"),
        ({"power": math.inf}, "power is inf"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"weight_decay": math.nan}, "weight_decay is nan"),
        ({"warmup": -1}, "warmup is -1"),
        ({"head_multiplier": -1.0}, "head_multiplier is -1.0"),
        ({"floor": 2.0}, "floor is 2.0"),
        ({"head": {"sharpness": 3}}, "no option 'sharpness'"),
    ],
)
def test_wrong_numbers_are_reported(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SegmentationTask(Classes.numbered(3), network="fcn", backbone="tiny", **options)


def test_other_names_of_the_classes_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    create_model("fcn", num_classes=3, backbone="tiny").save_pretrained(tmp_path)
    trained_network(str(tmp_path), Classes.numbered(3), ImageFormat())
    assert caplog.text == ""
    swapped = Classes(("class_0", "class_2", "class_1"), Classes.numbered(3).colors)
    trained_network(str(tmp_path), swapped, ImageFormat())
    assert "calls class 1 'class_1', the data 'class_2' (2 classes differ)" in caplog.text


def test_training_losses_are_those_of_the_full_scores() -> None:
    """Scores are upsampled inside the loss; the network's own output has them at full size."""
    data = scenes()
    task = tiny(data, "danet").double().eval()
    task.model.train()
    for module in task.model.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0.0
    images = torch.randint(256, (2, 3, 33, 61), dtype=torch.uint8)
    masks = torch.randint(len(data.classes), (2, 33, 61))
    output = task.model(task.model.normalize(images).double())
    expected = segmentation_loss(output, masks, task.model.loss_weights)
    actual = task.losses(images, masks)
    torch.testing.assert_close(actual.total, expected.total)
    names = [name for name, _ in task.model.named_parameters()]
    gradients = torch.autograd.grad(actual.total, list(task.model.parameters()))
    expected_gradients = torch.autograd.grad(expected.total, list(task.model.parameters()))
    for name, a, b in zip(names, gradients, expected_gradients, strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_the_step_compiles_as_one_graph() -> None:
    data = scenes()
    task = tiny(data, "danet").train()
    images = torch.randint(256, (2, 3, 32, 48), dtype=torch.uint8)
    masks = torch.randint(len(data.classes), (2, 32, 48))
    compiled = torch.compile(task.losses, fullgraph=True, backend="aot_eager")
    torch.manual_seed(1)
    expected = task.losses(images, masks)
    torch.manual_seed(1)
    actual = compiled(images, masks)
    torch.testing.assert_close(actual.total, expected.total)
    actual.total.backward()


def test_compile_and_checkpoint_exclude_each_other() -> None:
    with pytest.raises(UserError, match="leave one out"):
        tiny(scenes(), "fcn", compile=True, checkpoint_activations=True)
