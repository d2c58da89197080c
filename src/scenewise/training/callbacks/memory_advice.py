"""What to change when the memory runs out in a training."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from scenewise.memory import ran_out
from scenewise.models.activation_checkpointing import is_recomputed
from scenewise.models.cost import estimate
from scenewise.models.segmenter import Segmenter


class MemoryAdvice(Callback):
    """Add to an error of memory a note: what was at work, its estimate, and what takes less.

    The error goes on as it is; ``scenewise.apps.cli`` tells its note instead of its own text.
    """

    def __init__(self) -> None:
        self._shape: tuple[int, int, int] | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember the shape of the batch."""
        count, _, height, width = batch["image"].shape
        self._shape = (count, height, width)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Add the note."""
        if not ran_out(exception):
            return
        if not trainer.training or self._shape is None:
            exception.add_note(SCORING)
            return
        mixed = str(trainer.precision).startswith(("16", "bf16"))
        model: Any = pl_module.model
        told = advice(model, self._shape, trainer.accumulate_grad_batches, mixed=mixed)
        exception.add_note(f"out of memory in step {trainer.global_step} with {told}")


SCORING = (
    "out of memory while scoring, which takes whole pictures; score in windows with --protocol "
    "mmseg_slide, or give --data.eval_batch_size 1 or smaller pictures"
)


def advice(model: Segmenter, shape: tuple[int, int, int], accumulate: int, *, mixed: bool) -> str:
    """What a step with a batch of ``shape`` (B, H, W) takes, and what takes less.

    >>> from scenewise import create_model
    >>> advice(create_model("fcn", num_classes=2, backbone="tiny"), (4, 64, 64), 1, mixed=False)
    '4 pictures of 64 x 64, by estimate 0.0... GiB; choose --data.batch_size 2
    --trainer.accumulate_grad_batches 2 (0.0... GiB), or --data.crop_size 32 (0.0... GiB), or ...'
    """
    count, height, width = shape
    now = _needed(model, shape, mixed)
    small = (max(1, height // 2), max(1, width // 2))
    crop = small[0] if small[0] == small[1] else f"[{small[0]},{small[1]}]"
    half = f"--data.batch_size {count // 2} --trainer.accumulate_grad_batches {2 * accumulate}"
    costs = {f"--data.crop_size {crop}": _needed(model, (count, *small), mixed)}
    if count > 2:  # batch norm behind global pooling needs two
        costs = {half: _needed(model, (count // 2, height, width), mixed)} | costs
    if not mixed:
        costs["--trainer.precision bf16-mixed"] = _needed(model, shape, True)
    ways = [f"{way} ({cost:.2g} GiB)" for way, cost in costs.items() if cost < now]
    if (model.recipe or {}).get("output_stride", 8) == 8:
        ways.append("--model.output_stride 16")
    if not is_recomputed(model.backbone):
        ways.append("--model.checkpoint_activations true")
    told = f"{count} pictures of {height} x {width}, by estimate {now:.2g} GiB"
    return f"{told}; choose {', or '.join(ways)}, or a smaller --model.backbone"


def _needed(model: Segmenter, shape: tuple[int, int, int], mixed: bool) -> float:
    """GiB; NaN where it cannot be counted."""
    try:
        cost = estimate(model, shape[1:], shape[0], training=True, mixed=mixed)
    except Exception:  # a network of somebody's own parts, or no memory for that either
        return float("nan")
    return cost.bytes / 2**30
