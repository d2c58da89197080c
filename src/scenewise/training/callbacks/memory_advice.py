"""``MemoryAdvice``: what to change when a training runs out of memory."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from scenewise.memory import ran_out
from scenewise.models.activation_checkpointing import is_recomputed
from scenewise.models.cost import estimate
from scenewise.models.segmenter import Segmenter


class MemoryAdvice(Callback):
    """Add a note to an out-of-memory error: the batch, its estimate, and what takes less.

    The error itself is not changed; ``scenewise.apps.cli`` prints the note instead of its text.
    """

    def __init__(self) -> None:
        self._shape: tuple[int, int, int] | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember the shape of the batch."""
        count, height, width = batch["mask"].shape  # (B, H, W)
        self._shape = (count, height, width)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Add the note."""
        if not ran_out(exception):
            return
        if not trainer.training or self._shape is None:
            exception.add_note(_SCORING)
            return
        mixed = str(trainer.precision).startswith(("16", "bf16"))  # 16-mixed, bf16-mixed, ...
        model: Any = pl_module.model
        text = _advice(model, self._shape, trainer.accumulate_grad_batches, mixed=mixed)
        exception.add_note(f"out of memory in step {trainer.global_step} with {text}")


_SCORING = (
    "out of memory while scoring whole images; use a sliding window with --protocol mmseg_slide, "
    "or give --data.eval_batch_size 1 or smaller images"
)


def _advice(model: Segmenter, shape: tuple[int, int, int], accumulate: int, *, mixed: bool) -> str:
    """What a step with a batch of ``shape`` (B, H, W) takes, and what takes less.

    >>> from scenewise import create_model
    >>> _advice(create_model("fcn", num_classes=2, backbone="tiny"), (4, 64, 64), 1, mixed=False)
    '4 images of 64 x 64, by estimate 0.0... GiB; choose --data.batch_size 2
    --trainer.accumulate_grad_batches 2 (0.0... GiB), or --data.crop_size 32 (0.0... GiB), or ...'
    """
    count, height, width = shape
    needed = _gib(model, shape, mixed)
    sides = (max(1, height // 2), max(1, width // 2))
    crop = sides[0] if sides[0] == sides[1] else f"[{sides[0]},{sides[1]}]"
    half = f"--data.batch_size {count // 2} --trainer.accumulate_grad_batches {2 * accumulate}"
    costs = {f"--data.crop_size {crop}": _gib(model, (count, *sides), mixed)}
    if count > 2:  # batch norm after global pooling needs two
        costs = {half: _gib(model, (count // 2, height, width), mixed)} | costs
    if not mixed:
        costs["--trainer.precision bf16-mixed"] = _gib(model, shape, True)
    changes = [f"{change} ({cost:.2g} GiB)" for change, cost in costs.items() if cost < needed]
    if (model.recipe or {}).get("output_stride", 8) == 8:
        changes.append("--model.output_stride 16")
    if not is_recomputed(model.backbone):
        changes.append("--model.checkpoint_activations true")
    batch = f"{count} images of {height} x {width}, by estimate {needed:.2g} GiB"
    return f"{batch}; choose {', or '.join(changes)}, or a smaller --model.backbone"


def _gib(model: Segmenter, shape: tuple[int, int, int], mixed: bool) -> float:
    """Estimated GiB of a training step; NaN where the estimate fails."""
    try:
        cost = estimate(model, shape[1:], shape[0], training=True, mixed=mixed)
    except Exception:  # a network with custom parts, or no memory for the estimate either
        return float("nan")
    return cost.bytes / 2**30
