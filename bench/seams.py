"""Seams of sliding windows: what windows change against the whole image, even and blended.

python -m bench.seams        trains a small DANet on generated scenes, some minutes; prints a table
"""

import argparse

import torch
from torch import Tensor

from scenewise import Predictor
from scenewise.apps.demo.experiment import train_on_scenes
from scenewise.data.scenes import Scenes
from scenewise.inference.sliding_window import Blend, intervals, two_thirds
from scenewise.models.segmenter import Segmenter

WINDOW = (48, 96)
SIZE = (64, 192)
BLENDS: tuple[Blend, ...] = ("even", "hann")


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--scenes", type=int, default=64)
    args = parser.parse_args()
    model = train_on_scenes("danet", steps=args.steps, size=SIZE).model
    columns = ("blend", "jump at borders", "elsewhere", "false edges at borders", "labels changed")
    print("|", " | ".join(columns), "|")
    print("|" + "---|" * len(columns))
    for blend in BLENDS:
        jump, rest, edges, changed = measure(model, blend, args.scenes)
        print(
            f"| {blend} | {jump:.5f} | {rest:.5f} | {100 * edges:.2f} % | {100 * changed:.2f} % |"
        )


def measure(model: Segmenter, blend: Blend, scenes: int) -> list[float]:
    """Means over scenes, of windows against the whole image.

    Returns:
        the change of the probabilities from one pixel to the next that the whole image does not
        have, across window borders and elsewhere; the share of pixel pairs across borders whose
        labels differ in windows but not in the whole image; the share of other labels.
    """
    data = Scenes(scenes, size=SIZE, seed=12345)
    whole, windows = Predictor(model), Predictor(model, window=WINDOW, blend=blend)
    results = [
        _of_image(*(p.scores(data.read(i)[0]) for p in (whole, windows))) for i in range(scenes)
    ]
    return torch.tensor(results).mean(0).tolist()


def _of_image(whole: Tensor, windows: Tensor) -> tuple[float, float, float, float]:
    jumps, at, edges = [], [], []
    for axis in (1, 2):
        excess = (windows.diff(dim=axis) - whole.diff(dim=axis)).abs().mean(0)  # (H, W) less one
        border = torch.zeros_like(excess, dtype=torch.bool)
        border.index_fill_(axis - 1, _borders(axis), True)
        apart, apart_whole = (x.argmax(0).diff(dim=axis - 1) != 0 for x in (windows, whole))
        jumps.append(excess.flatten())
        at.append(border.flatten())
        edges.append((apart & ~apart_whole).flatten())
    jump, border, edge = torch.cat(jumps), torch.cat(at), torch.cat(edges).float()
    changed = (whole.argmax(0) != windows.argmax(0)).float().mean()
    return (
        float(jump[border].mean()),
        float(jump[~border].mean()),
        float(edge[border].mean()),
        float(changed),
    )


def _borders(axis: int) -> Tensor:
    """Index of the pixel before each window border inside the image, along an axis."""
    length, window = SIZE[axis - 1], WINDOW[axis - 1]
    parts = intervals(length, window, two_thirds(WINDOW)[axis - 1])
    ends = {last - 1 for _, last in parts} | {first - 1 for first, _ in parts}
    return torch.tensor(sorted(i for i in ends if 0 <= i < length - 1))


if __name__ == "__main__":
    main()
