"""A training step on a whole image of 1024 x 2048, in less than one map of all pairs."""

import torch

from scenewise.classes import Classes
from scenewise.training.task import SegmentationTask
from tests.attention.contract import peak_bytes


def test_a_step_at_full_resolution_stays_below_its_ceiling() -> None:
    """32,768 pixels: the attention matrix would be 4 GiB, and the dense formula holds three."""
    options = {"network": "danet", "backbone": "tiny", "checkpoint_activations": True}
    task = SegmentationTask(Classes.numbered(4), **options).train()  # type: ignore[arg-type]
    images = torch.randint(256, (1, 3, 1024, 2048), dtype=torch.uint8)
    masks = torch.randint(4, (1, 1024, 2048))
    optimizer = task._optimizer()
    before = [p.detach().clone() for p in task.model.parameters()]

    def step() -> None:
        task.losses(images, masks).total.backward()
        optimizer.step()

    assert peak_bytes(step) < 0.5 * 2**30
    for old, new in zip(before, task.model.parameters(), strict=True):
        assert new.isfinite().all()
        assert not torch.equal(old, new) or new.numel() == 1  # gamma starts at 0
