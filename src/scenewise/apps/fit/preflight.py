"""What ``fit`` checks and estimates before it trains: labels, memory, time."""

import torch

from scenewise.data.doctor import quick_check
from scenewise.data.module import SegmentationData
from scenewise.memory import free_bytes
from scenewise.models.cost import estimate, product_rate
from scenewise.models.segmenter import Segmenter


def check_labels(data: SegmentationData, sample: int = 32) -> list[str]:
    """Read a sample of the training and validation images.

    Returns:
        Findings that do not stop the training, one sentence each.

    Raises:
        UserError: the training would fail or learn nonsense.
    """
    if data.format == "scenes":
        return []
    return [
        f"{split}: {finding.message}"
        for split in ("train", "val")
        for finding in quick_check(data.dataset(split), sample)
    ]


def forecast(
    model: Segmenter, data: SegmentationData, device: torch.device, steps: int, mixed: bool
) -> str:
    """Estimated memory and time of a training, in one sentence; a warning if memory is short.

    Args:
        model: on the CPU, as it will be trained.
        data: after ``setup("fit")``.
        device: where it will be trained.
        steps: of one device in the whole training.
        mixed: whether in 16-bit mixed precision.
    """
    assert data.crop_size is not None
    assert data.batch_size is not None
    cost = estimate(model, data.crop_size, data.batch_size, training=True, mixed=mixed)
    seconds = steps * cost.flops / product_rate(device)  # a lower bound: products alone
    text = (
        f"about {cost.bytes / 2**30:.1f} GiB of memory, at least {_minutes(seconds)} of arithmetic"
    )
    free = free_bytes(device)
    if free is not None and cost.bytes > free:
        text += (
            f"; WARNING: only {free / 2**30:.1f} GiB are free: take a smaller --data.crop_size or "
            "--data.batch_size (with --trainer.accumulate_grad_batches), --model.output_stride 16, "
            "--model.checkpoint_activations true, or --trainer.precision bf16-mixed"
        )
    return text


def _minutes(seconds: float) -> str:
    """A duration in words.

    >>> _minutes(20), _minutes(300), _minutes(20000)
    ('1 minute', '5 minutes', '5.6 hours')
    """
    if seconds < 5400:  # an hour and a half
        count = max(1, round(seconds / 60))
        return f"{count} minute{'s' if count > 1 else ''}"
    return f"{seconds / 3600:.1f} hours"
