"""What the qualities of predict, validate and test gain and cost, into docs/evaluation.md.

    python -m bench.quality RUN_FOLDER DIR

Every image of the validation split is predicted with each quality in turn, in one process. The
cost is in processor time, so that other programs disturb it little.
"""

import argparse
import time
from pathlib import Path

import torch

from bench.marked import replace_marked
from scenewise import load_model
from scenewise.data import FolderDataset
from scenewise.inference.quality import QUALITIES, quality_predictor
from scenewise.training.metrics.confusion import confusion_matrix, iou, mean_iou

DOCUMENT = Path(__file__).parents[1] / "docs" / "evaluation.md"
SHOWN = ("pole", "sign symbol", "pedestrian", "bicyclist")  # the rare classes of CamVid


def main() -> None:
    """Predict, count, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("root", type=Path)
    parser.add_argument("--every", type=int, default=1, help="predict every n-th image alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(args.model)
    data = FolderDataset(args.root, "val")
    count = len(data.classes)
    predictors = {name: quality_predictor(model, name) for name in QUALITIES}
    matrices = {name: torch.zeros(count, count, dtype=torch.int64) for name in QUALITIES}
    seconds = dict.fromkeys(QUALITIES, 0.0)
    chosen = range(0, len(data), args.every)
    for index in chosen:
        image, mask = data.read(index)
        for name, predictor in predictors.items():
            start = time.process_time()
            labels = predictor(image).labels
            seconds[name] += time.process_time() - start
            matrices[name] += confusion_matrix(
                labels, mask.long(), count, data.classes.ignore_index
            )
    print(seconds)
    replace_marked(DOCUMENT, "quality", table(matrices, seconds, data.classes.names, len(chosen)))


def table(
    matrices: dict[str, torch.Tensor],
    seconds: dict[str, float],
    names: tuple[str, ...],
    images: int,
) -> str:
    """Markdown: mIoU, rare classes and processor time of each quality."""
    shown = [name for name in SHOWN if name in names]
    rows = [
        f"{images} images:",
        "",
        f"| quality | mIoU % | {' | '.join(f'{name} %' for name in shown)} | time |",
        "|---" * (len(shown) + 3) + "|",
    ]
    for quality, matrix in matrices.items():
        values = iou(matrix)
        cells = [f"{100 * float(values[names.index(name)]):.1f}" for name in shown]
        ratio = seconds[quality] / seconds["fast"]
        rows.append(
            f"| `{quality}` | {100 * mean_iou(matrix):.1f} | {' | '.join(cells)} | {ratio:.1f} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
