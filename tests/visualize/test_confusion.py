"""The figure of a confusion matrix."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise.classes import Classes
from scenewise.visualize.confusion import confusion_figure
from scenewise.visualize.panels import save_figure


def test_cells_are_percentages_of_the_true_class() -> None:
    matrix = torch.tensor([[30, 10, 0], [0, 0, 0], [1, 999, 0]])
    axes = confusion_figure(matrix, Classes.numbered(3)).axes[0]
    drawn = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(drawn[[0, 2]], [[75, 25, 0], [0.1, 99.9, 0]])
    assert np.ma.getmaskarray(axes.images[0].get_array())[1].all() or np.isnan(drawn[1]).all()
    written = {tuple(map(round, t.get_position())): t.get_text() for t in axes.texts}
    assert written == {(0, 0): "75", (1, 0): "25", (1, 2): "100"}  # (column, row)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(Classes.numbered(3).names)


@pytest.mark.parametrize("count", [1, 19, 171])
def test_any_number_of_classes_can_be_drawn(count: int, tmp_path: Path) -> None:
    matrix = torch.arange(count * count).reshape(count, count)
    save_figure(confusion_figure(matrix, Classes.numbered(count)), tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as image:
        assert min(image.size) > 300
        assert np.asarray(image.convert("L")).std() > 5
