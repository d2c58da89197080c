"""What ``fit`` checks before it trains: a sample of the labels, and the memory."""

from scenewise.apps.fit.forecast import Forecast
from scenewise.data.doctor import quick_check
from scenewise.data.module import SegmentationData


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


def memory_warning(forecast: Forecast, free: int | None) -> str | None:
    """What to change where less memory is free than the forecast says; None where it suffices."""
    if free is None or forecast.new_bytes <= free:
        return None
    return (
        f"WARNING: only {free / 2**30:.1f} GiB are free: take a smaller --data.crop_size or "
        "--data.batch_size (with --trainer.accumulate_grad_batches), --model.output_stride 16, "
        "--model.checkpoint_activations true, or --trainer.precision bf16-mixed"
    )
