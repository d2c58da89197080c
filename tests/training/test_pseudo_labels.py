"""The teacher's labels, CutMix, and the student's loss, against slow references."""

import math

import torch
from torch import Tensor

from scenewise.classes import Classes
from scenewise.models import create_model
from scenewise.training.losses import cross_entropy
from scenewise.training.pseudo_labels import cut_mix, pseudo_labels, ramp, taught_labels
from scenewise.training.task import SegmentationTask

B, K, H, W = 3, 5, 7, 11


def by_loops(student: Tensor, teacher: Tensor, known: Tensor, threshold: float) -> float:
    """The mean over confident, known pixels of -log of the student's probability."""
    losses = []
    for b in range(len(student)):
        for y in range(student.shape[2]):
            for x in range(student.shape[3]):
                p = [math.exp(v) for v in teacher[b, :, y, x].tolist()]
                best = p.index(max(p))
                if known[b, y, x] and p[best] / sum(p) >= threshold:
                    s = student[b, :, y, x].tolist()
                    losses.append(math.log(sum(map(math.exp, s))) - s[best])
    return sum(losses) / len(losses)


def test_the_loss_is_that_of_plain_loops() -> None:
    torch.manual_seed(0)
    student = torch.randn(B, K, H, W, requires_grad=True)
    teacher = (3 * torch.randn(B, K, H, W)).requires_grad_()
    known = torch.rand(B, H, W) < 0.7
    labels = pseudo_labels(teacher, known, threshold=0.8)
    counted = labels != 255
    assert 0 < int(counted.sum()) < int(known.sum())
    loss = cross_entropy(student, labels)
    assert math.isclose(
        loss.item(), by_loops(student.detach(), teacher.detach(), known, 0.8), rel_tol=1e-5
    )
    loss.backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert ((student.grad != 0).any(1) == counted).all()  # ignored pixels have no gradient


def test_by_hand() -> None:
    nine_to_one = torch.tensor([math.log(9.0), 0.0]).view(1, 2, 1, 1)  # 0.9 and 0.1
    known = torch.ones(1, 1, 1, dtype=torch.bool)
    assert pseudo_labels(nine_to_one, known, threshold=0.89).item() == 0
    assert pseudo_labels(nine_to_one, known, threshold=0.91).item() == 255
    assert pseudo_labels(nine_to_one, ~known, threshold=0.5, ignore_index=7).item() == 7


def test_no_confident_pixel_is_no_loss() -> None:
    labels = pseudo_labels(torch.zeros(1, K, H, W), torch.ones(1, H, W, dtype=torch.bool))
    student = torch.randn(1, K, H, W, requires_grad=True)
    loss = cross_entropy(student, labels)
    loss.backward()
    assert loss == 0
    assert student.grad is not None
    assert (student.grad == 0).all()


def test_cut_mix_takes_boxes_of_the_next_image() -> None:
    values = torch.arange(B * 2 * H * W).view(B, 2, H, W)
    boxes = torch.tensor([[1, 2, 3, 4], [0, 0, 0, 0], [0, 0, H, W]])
    expected = values.clone()
    expected[0, :, 1:4, 2:6] = values[1, :, 1:4, 2:6]
    expected[2] = values[0]
    assert torch.equal(cut_mix(values, boxes), expected)
    assert torch.equal(cut_mix(values[:, 0], boxes), expected[:, 0])


def test_the_weight_rises_over_the_first_steps() -> None:
    assert [ramp(step, 2) for step in range(3)] == [0.5, 1.0, 1.0]
    assert ramp(0, 0) == 1.0


def test_taught_labels_are_those_of_the_whole_prediction() -> None:
    torch.manual_seed(0)
    teacher = create_model("fcn", num_classes=K, backbone="tiny").eval()
    images, known = 9 * torch.randn(2, 3, 24, 40), torch.ones(2, 24, 40, dtype=torch.bool)
    known[:, :, 30:] = False
    with torch.no_grad():
        logits = teacher(images).logits
    threshold = float(logits.softmax(1).amax(1).median())
    expected = pseudo_labels(logits, known, threshold=threshold)
    assert 0 < int((expected != 255).sum()) < int(known.sum())
    assert torch.equal(taught_labels(teacher, images, known, threshold=threshold), expected)


def test_losses_of_a_task_are_those_of_each_part() -> None:
    """One forward pass of both; batch norm in evaluation, so that the parts do not meet."""
    torch.manual_seed(0)
    task = SegmentationTask(Classes.numbered(K), network="danet", backbone="tiny").eval()
    images = torch.randint(0, 256, (2, 3, 24, 40), dtype=torch.uint8)
    strong = torch.randint(0, 256, (2, 3, 24, 40), dtype=torch.uint8)
    masks, labels = torch.randint(K, (2, 2, 24, 40)).unbind(0)
    labels[:, :9] = 255
    both, alone = task.losses(images, masks, strong, labels), task.losses(images, masks)
    assert torch.allclose(both.total, alone.total)
    assert both.parts.keys() == alone.parts.keys() | {"unlabelled"}
    logits = task.model(task.model.normalize(strong)).logits
    assert torch.allclose(both.parts["unlabelled"], cross_entropy(logits, labels), atol=1e-5)
