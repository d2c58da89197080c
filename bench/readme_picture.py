"""Draw docs/images/demo.png from the models of ``scenewise demo``.

python -m bench.readme_picture --demo scenewise-demo
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scenewise import Predictor, load_model
from scenewise.apps.demo import decided_pixel
from scenewise.apps.demo.experiment import scenes_data
from scenewise.data import Scenes
from scenewise.files import atomic_write
from scenewise.visualize import attention_maps, overlay

DOCUMENT = Path(__file__).parents[1] / "docs" / "images" / "demo.png"
SCENES = (0, 1, 2)


def main() -> None:
    """One row for each scene: image, truth, FCN, DANet, attention of the marked pixel."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("scenewise-demo"))
    demo = parser.parse_args().demo
    fcn, danet = load_model(demo / "fcn"), load_model(demo / "danet")
    scenes = scenes_data(1, (64, 192), 0).dataset("val")
    assert isinstance(scenes, Scenes)
    figure = Figure(figsize=(13, 3.1), layout="constrained")
    grid = figure.subplots(len(SCENES), 5, squeeze=False)
    for axes, title in zip(grid[0], ("image", "truth", "FCN", "DANet", ""), strict=True):
        axes.set_title(title, fontsize=9)
    grid[0, 4].set_title("what the marked pixel attends to", fontsize=9)
    for row, index in zip(grid, SCENES, strict=True):
        image, mask = scenes.read(index)
        at = decided_pixel(mask.numpy())
        with attention_maps(danet) as maps:
            labels = Predictor(danet)(image).labels
        shown = [
            image.permute(1, 2, 0).numpy(),
            *(
                overlay(image, ids, scenes.classes, opacity=0.85)
                for ids in (mask, Predictor(fcn)(image).labels, labels)
            ),
            heat(image, maps.positions["head.position.1"].rows([(at[0] // 8, at[1] // 8)])[0, 0]),
        ]
        for axes, panel in zip(row, shown, strict=True):
            axes.imshow(panel)
            axes.set(xticks=[], yticks=[])
        for axes in (row[0], row[4]):
            axes.plot(at[1], at[0], "o", mfc="none", mec="red", ms=6, mew=1.5)
    with atomic_write(DOCUMENT) as temporary:
        figure.savefig(temporary, dpi=110)


def heat(image: torch.Tensor, weights: torch.Tensor) -> NDArray[np.float64]:
    """The image, dimmed where the weights (h, w) are low."""
    size = (image.shape[1], image.shape[2])
    light = torch.nn.functional.interpolate((weights / weights.max())[None, None], size)[0, 0]
    grey = (image.float().mean(0) / 255).double()  # (H, W)
    warm = torch.stack([light, light * 0.6, light * 0.1], dim=-1).double()
    return np.clip(0.35 * grey[..., None].numpy() + 0.8 * warm.numpy(), 0, 1)


if __name__ == "__main__":
    main()
