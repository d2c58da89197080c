"""A training step of ``danet_plus`` against segmentation_models.pytorch's DeepLabV3+.

Both have the same backbone at stride 16, the same windows, channels last and AdamW. The peer's step
is the usual one; ours is that of ``scenewise fit``. Needs the extra ``bench``.
"""

import torch
from torch import Tensor, nn

from bench.camvid import Peer
from scenewise.apps.bench.measure import Row, Run, compare
from scenewise.classes import Classes
from scenewise.training.losses import segmentation_loss
from scenewise.training.task import SegmentationTask

_CLASSES, _BATCH, _SIZE, _BACKBONE = 11, 4, (352, 480), "tf_efficientnet_lite0"
_LAST = torch.channels_last


def rows(repeats: int) -> list[Row]:
    """Float32 and, where the processor has it, bfloat16; the first line is the peer's float32."""
    torch.manual_seed(0)
    images = torch.randint(256, (_BATCH, 3, *_SIZE), dtype=torch.uint8)
    masks = torch.randint(_CLASSES, (_BATCH, *_SIZE))
    precisions = {"float32": torch.float32}
    if torch.cpu._is_avx512_bf16_supported():
        precisions["bfloat16"] = torch.bfloat16
    variants: dict[str, Run] = {}
    for name, dtype in precisions.items():
        peer = Peer("DeepLabV3Plus", _CLASSES).to(memory_format=_LAST).train()
        variants[f"segmentation_models.pytorch DeepLabV3+, {name}"] = _step(
            peer, images, masks, dtype
        )
    for network in ("fcn_plus", "danet_plus"):
        for name, dtype in precisions.items():
            task = SegmentationTask(
                Classes.numbered(_CLASSES), network=network, backbone=_BACKBONE, output_stride=16
            ).train()
            variants[f"{network}, {name}"] = _step(task, images, masks, dtype)
    size = f"{_BATCH} windows of {_SIZE[0]} x {_SIZE[1]}"
    return compare(f"{_BACKBONE}, {size}, one training step", variants, repeats)


def _step(model: nn.Module, images: Tensor, masks: Tensor, dtype: torch.dtype) -> Run:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = _loss(model, images, masks)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    return step


def _loss(model: nn.Module, images: Tensor, masks: Tensor) -> Tensor:
    if isinstance(model, SegmentationTask):
        return model.losses(images, masks).total
    assert isinstance(model, Peer)
    output = model(model.normalize(images).contiguous(memory_format=_LAST))
    return segmentation_loss(output, masks, {}).total
