"""Benchmark of training: one step of a whole DANet, against the usual code."""

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor

from scenewise.apps.bench.measure import Row, Run, compare
from scenewise.apps.bench.model import dense_branches
from scenewise.classes import Classes
from scenewise.models.activation_checkpointing import recompute_backbone
from scenewise.models.build import create_model
from scenewise.models.heads.danet import DANetHead
from scenewise.models.segmenter import Segmenter
from scenewise.training.task import SegmentationTask

_CLASSES, _SIZE, _BATCH, _BACKBONE = 19, (512, 512), 2, "resnet50"


def rows(repeats: int = 5) -> list[Row]:
    """DANet at stride 8: forward, three losses, backward, SGD with momentum."""
    torch.manual_seed(0)
    model = create_model("danet", num_classes=_CLASSES, backbone=_BACKBONE, pretrained=False)
    images = torch.randint(256, (_BATCH, 3, *_SIZE), dtype=torch.uint8)
    masks = torch.randint(_CLASSES, (_BATCH, *_SIZE))
    saving = _task(model)
    recompute_backbone(saving.model.backbone)
    variants = {
        "plain": _plain_step(deepcopy(model).train(), images, masks),
        "scenewise": _scenewise_step(_task(model), images, masks),
        "scenewise, checkpoint_activations": _scenewise_step(saving, images, masks),
    }
    work = f"DANet on {_BACKBONE}, {_SIZE[0]} x {_SIZE[1]}, batch {_BATCH}, one training step"
    return compare(work, variants, min(repeats, 3))


def _plain_step(model: Segmenter, images: Tensor, masks: Tensor) -> Run:
    """Dense attention; three logits upsampled to the image size, then their cross-entropies."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)

    def step() -> Tensor:
        loss = _plain_loss(model, images, masks)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    return step


def _plain_loss(model: Segmenter, images: Tensor, masks: Tensor) -> Tensor:
    """The sum of DANet's three losses."""
    head = model.head
    assert isinstance(head, DANetHead)
    position, channel = dense_branches(head, model.backbone(model.normalize(images))[-1])
    low_res = [
        head.classify(position + channel),
        head.classify_position(position),
        head.classify_channel(channel),
    ]
    size = masks.shape[1:]
    full = [F.interpolate(y, size, mode="bilinear", align_corners=True) for y in low_res]
    return torch.stack([F.cross_entropy(y, masks) for y in full]).sum()


def _scenewise_step(task: SegmentationTask, images: Tensor, masks: Tensor) -> Run:
    """What ``scenewise fit`` does in a step, without Lightning."""
    groups = task.model.parameter_groups(1e-3)
    optimizer = torch.optim.SGD(groups, lr=1e-3, momentum=0.9, weight_decay=1e-4, fused=True)

    def step() -> Tensor:
        loss = task.losses(images, masks).total
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    return step


def _task(model: Segmenter) -> SegmentationTask:
    task = SegmentationTask(
        Classes.numbered(_CLASSES), network="danet", backbone=_BACKBONE, pretrained=False
    )
    task.model.load_state_dict(model.state_dict())
    return task.train()
