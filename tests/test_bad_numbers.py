"""Extreme numbers, sizes and class counts: results are defined and finite."""

import json
import math
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from scenewise import Predictor, Segmenter, create_model, load_model
from scenewise.apps.cli import main
from scenewise.classes import Classes
from scenewise.training import trainer as trainer_module
from scenewise.training.losses import OHEM, cross_entropy, ohem_cross_entropy, segmentation_loss
from scenewise.training.metrics.boundary import BoundaryIoU
from scenewise.training.metrics.calibration import Reliability, calibration_error
from scenewise.training.metrics.confusion import (
    ConfusionMatrix,
    confusion_matrix,
    iou,
    mean_iou,
    scores,
)
from tests.data.trees import write_tree
from tests.models.networks import ON_TINY
from tests.training.callbacks.test_nan_guard import Before

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def gradients(model: Segmenter, images: torch.Tensor, target: torch.Tensor) -> float:
    """The loss of one training step, which must be finite, as must all gradients."""
    model.train().zero_grad()
    loss = segmentation_loss(model(model.normalize(images)), target, model.loss_weights).total
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    return loss.item()


@pytest.mark.parametrize("name", ON_TINY)
class TestEveryNetwork:
    """On the tiny backbone, whose feature map is an eighth of the image, rounded up."""

    def test_odd_sizes(self, name: str) -> None:
        """A pixel, a row, a column, and a size that is not a multiple of 8."""
        model = create_model(name, num_classes=3, backbone="tiny")
        for size in ((1, 1), (1, 37), (13, 1), (23, 41)):
            image = torch.rand(3, *size)
            labels, confidence = Predictor(model)(image)
            assert labels.shape == confidence.shape == size
            assert ((confidence > 1 / 3 - 1e-6) & (confidence <= 1 + 1e-6)).all()
            scores = Predictor(model, scales=(0.5, 1.0), flip=True).scores(image)
            assert torch.allclose(scores.sum(0), torch.ones(size), atol=1e-5)
            gradients(model, image.expand(2, -1, -1, -1), torch.zeros(2, *size).long())

    def test_constant_images(self, name: str) -> None:
        """Their variance is 0, which norms and penalties divide by."""
        model = create_model(name, num_classes=3, backbone="tiny")
        target = torch.zeros(2, 24, 40).long()
        for value in (0.0, 1.0):
            images = torch.full((2, 3, 24, 40), value)
            gradients(model, images, target)
            assert Predictor(model).scores(images[0]).isfinite().all()

    def test_a_crop_without_a_label_has_no_gradient(self, name: str) -> None:
        """The loss of its pixels is 0 and so are their gradients; penalties and presence remain."""
        model = create_model(name, num_classes=3, backbone="tiny")
        images, target = torch.rand(2, 3, 24, 40), torch.full((2, 24, 40), 255)
        gradients(model, images, target)
        output = model.train()(model.normalize(images))
        for logits in (output.logits, *output.auxiliary.values()):
            if logits.ndim == 4:
                loss = cross_entropy(logits, target)
                (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
                assert loss == 0
                assert (gradient == 0).all()


def test_hard_pixels_of_a_crop_without_a_label() -> None:
    logits = torch.randn(2, 3, 5, 7, requires_grad=True)
    loss = ohem_cross_entropy(logits, torch.full((2, 5, 7), 255), min_kept=10)
    loss.backward()
    assert loss == 0
    assert (logits.grad == 0).all()  # type: ignore[union-attr]
    weights = torch.tensor([0.0, 1.0, 1.0])  # a class of weight 0 counts as ignored
    assert cross_entropy(logits, torch.zeros(2, 5, 7).long(), class_weights=weights) == 0


def test_scores_of_a_split_without_a_label() -> None:
    """The score is missing or NaN, never a number that looks like one."""
    ignored = torch.full((1, 5, 7), 255)
    labels = torch.zeros(1, 5, 7).long()
    matrix, edges, bins = ConfusionMatrix(3), BoundaryIoU(3), Reliability()
    matrix.update(labels, ignored)
    edges.update(labels, ignored)
    bins.update(torch.ones(1, 5, 7), labels, ignored)
    assert (matrix.compute() == 0).all()
    result = scores(matrix.compute(), Classes.numbered(3))
    assert not any(name.startswith("iou/") for name in result)
    assert math.isnan(result["miou"])
    assert math.isnan(edges.compute().item())
    assert math.isnan(calibration_error(bins.compute()))


def test_classes_absent_from_a_split() -> None:
    """In neither target nor labels: excluded. Only in the labels: 0, as all of them are wrong."""
    target = torch.tensor([0, 0, 1, 1])
    assert mean_iou(confusion_matrix(target, target, 5)) == 1.0
    matrix = confusion_matrix(torch.tensor([0, 0, 1, 3]), target, 5)
    assert iou(matrix).tolist()[:2] == [1.0, 0.5]
    assert iou(matrix)[3] == 0
    assert iou(matrix)[[2, 4]].isnan().all()
    assert mean_iou(matrix) == pytest.approx(0.5)
    assert "iou/class_2" not in scores(matrix, Classes.numbered(5))


@pytest.mark.parametrize("count", [1, 256])
def test_one_class_and_256(count: int) -> None:
    """Labels are bytes: of 256 classes, the ignored id is predicted but never counted."""
    ids = torch.arange(256).view(1, 16, 16) % count
    matrix = ConfusionMatrix(count)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        matrix.update(ids, ids)
    expected = torch.eye(count, dtype=torch.int64) * (256 // count)
    if count == 256:
        expected[255, 255] = 0
    assert torch.equal(matrix.compute().view(count, count), expected)
    logits = torch.zeros(1, count, 16, 16)
    assert cross_entropy(logits, ids).item() == pytest.approx(math.log(count))
    labels, confidence = Predictor(create_model("danet", num_classes=count, backbone="tiny"))(
        torch.rand(3, 9, 17)
    )
    assert labels.max() < count
    assert (confidence >= 1 / count - 1e-6).all()


def words(root: Path, out: Path, *more: str) -> list[str]:
    fixed = f"""fit --data.format folder --data.root {root} --data.batch_size 2
        --data.num_workers 0 --data.crop_size 24 --model.network fcn --model.backbone tiny
        --trainer.accelerator cpu --trainer.max_steps 2 --name run
        --trainer.default_root_dir {out}"""
    return [*shlex.split(fixed), *more]


@pytest.mark.parametrize("count", [1, 256])
def test_one_class_and_256_from_check_to_png(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    root = tmp_path / "data"
    write_tree(root, train=2, val=1, size=(24, 32))
    names = [f"c{k}" for k in range(count)]
    (root / "classes.json").write_text(json.dumps({"names": names}))
    for number, path in enumerate(sorted(root.glob("masks/*/*.png"))):
        ids = (np.arange(24 * 32).reshape(24, 32) + number) % count
        Image.fromarray(ids.astype(np.uint8)).save(path)
    assert main(["check", str(root), "--format", "folder"]) == 0
    output = capsys.readouterr().out
    assert ("class 'c255' has the ignored id" in output) == (count == 256)
    assert main(words(root, tmp_path)) == 0
    run = tmp_path / "run" / "version_0"
    rows = (run / "confusion.csv").read_text().splitlines()
    assert len(rows) == count + 1
    counted = sum(int(value) for row in rows[1:] for value in row.split(",")[1:])
    assert counted == 24 * 32 - (3 if count == 256 else 0)  # three pixels have id 255
    image = next((root / "images" / "val").iterdir())
    out = tmp_path / "out"
    assert main(["predict", str(image), "--model", str(run), "--out", str(out)]) == 0
    with Image.open(out / "labels" / f"{image.stem}.png") as saved:
        assert saved.mode == "P"
        expected = Predictor(load_model(run))(image).labels
        assert np.array_equal(np.asarray(saved), expected.numpy())


class _Kept:
    """The weights before and after a training."""

    before: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]


def fit(
    root: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *more: str, act: Any = None
) -> tuple[int, _Kept]:
    """Exit code and weights; ``act`` is called before the second batch."""
    kept = _Kept()

    class Keep(Before):
        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            kept.before = {k: v.clone() for k, v in pl_module.state_dict().items()}

        def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
            kept.after = {k: v.clone() for k, v in pl_module.state_dict().items()}

        on_exception = lambda self, trainer, pl_module, _: self.on_train_end(trainer, pl_module)  # noqa: E731

    own = trainer_module._run_callbacks
    with monkeypatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        keep = Keep(1, act or (lambda *_: None))
        patch.setattr(trainer_module, "_run_callbacks", lambda stage: [*own(stage), keep])
        try:
            return main(words(root, out, *more)), kept
        finally:
            torch.use_deterministic_algorithms(False)


def largest_change(kept: _Kept) -> float:
    moved = (kept.after[k] - kept.before[k] for k in kept.before if k.endswith("weight"))
    return max(change.abs().max().item() for change in moved)


def test_gradients_that_are_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loss is finite, its gradients are not: the weights stay, step and images are reported."""
    root = write_tree(tmp_path / "data", train=4, size=(24, 32))

    def poison(trainer: Trainer, module: Any) -> None:
        next(module.parameters()).register_hook(lambda gradient: gradient * torch.inf)

    code, kept = fit(root, tmp_path, monkeypatch, act=poison)
    message = capsys.readouterr().err
    assert code == 2
    assert "the gradients became" in message
    assert "in step 1 with the images p" in message
    assert "--trainer.gradient_clip_val" in message
    assert all(value.isfinite().all() for value in kept.after.values())


def test_gradients_that_explode_are_clipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SGD without momentum moves a weight by at most rate x limit, however steep the loss is."""
    root = write_tree(tmp_path / "data", train=4, size=(24, 32))
    more = shlex.split("--model.lr 1 --model.momentum 0 --model.weight_decay 0 --model.power 0")
    limit = 1e-3
    _, free = fit(root, tmp_path, monkeypatch, *more)
    clip = f"--trainer.gradient_clip_val {limit}".split()
    code, clipped = fit(root, tmp_path, monkeypatch, *more, *clip)
    assert code == 0
    steps, factor = 2, 10  # of the head's rate
    assert largest_change(clipped) <= 1.001 * limit * steps * factor
    assert largest_change(free) > 10 * limit * steps * factor


def test_the_same_seed_gives_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice with deterministic mode; on a CPU without it, too."""
    root = write_tree(tmp_path / "data", train=4, size=(24, 32))
    network = ("--model.network", "danet", "--model.auxiliary", "true")
    runs = [
        fit(root, tmp_path, monkeypatch, *network, "--seed_everything", seed, *more)
        for seed, *more in (
            ("1", "--trainer.deterministic", "true"),
            ("1", "--trainer.deterministic", "true"),
            ("1",),
            ("2",),
        )
    ]
    assert all(code == 0 for code, _ in runs)
    first, second, plain, other = (kept.after for _, kept in runs)
    assert largest_change(runs[0][1]) > 0
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert all(torch.equal(first[k], plain[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_a_batch_of_one_learns_and_scores_do_not_depend_on_the_batch() -> None:
    """In evaluation mode; OHEM accepts a batch of one."""
    model = create_model("danet", num_classes=3, backbone="tiny").double()
    images, target = torch.rand(2, 3, 24, 40).double(), torch.randint(3, (1, 24, 40))
    assert gradients(model, images[:1], target) > 0
    output = model(model.normalize(images[:1]))
    assert segmentation_loss(output, target, model.loss_weights, ohem=OHEM()).total.isfinite()
    model.eval()
    with torch.no_grad():
        alone = model(model.normalize(images[:1])).logits
        together = model(model.normalize(images)).logits
    assert torch.allclose(alone, together[:1], atol=1e-12)
