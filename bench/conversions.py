"""Convert random checkpoints of every family, and put the table into docs/results.md.

    python -m bench.conversions        # about two minutes

Each row is a network of another project, rewritten from the description of its files (see
tests/models/convert), with random weights and batch-norm statistics, written in that project's
layout, converted, and compared on the same image.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bench.marked import replace_marked
from scenewise.models.convert import make_plan
from scenewise.models.convert.key_mapping import fill
from tests.models.convert import external_danet, external_mmseg, external_others
from tests.models.convert.compare import random_image
from tests.models.convert.external import Weights

DOCUMENT = Path(__file__).parents[1] / "docs" / "results.md"
CLASSES = 19
Network = Callable[..., Tensor]


def cases() -> list[tuple[str, Network, bool]]:
    """Family, network and whether its norms are InPlaceABN's."""
    danet, others = external_danet, external_others
    plain: list[tuple[str, Network]] = [
        ("DANet (authors), plain stem, R101", partial(danet.danet, depth=101)),
        ("DANet (authors), deep stem, R50", partial(danet.danet, stem="encoding")),
        ("DANet (authors), R50", danet.dranet),
        ("DANet (authors), R50", danet.fcn),
        *[
            (
                "mmsegmentation, d8, R50",
                partial(external_mmseg.network, head=head, auxiliary=name != "ocr"),
            )
            for name, head in external_mmseg.HEADS.items()
        ],
        (
            "mmsegmentation, d8, R101",
            partial(external_mmseg.network, head=external_mmseg.danet, depth=101),
        ),
        ("torchvision, R50", others.torchvision),
        ("torchvision, R50", partial(others.torchvision, deeplab=True)),
        ("torchvision, R101", partial(others.torchvision, deeplab=True, depth=101)),
        ("semseg, R50", others.semseg),
    ]
    abn: list[tuple[str, Network]] = [
        ("CCNet (authors), R50", others.ccnet),
        *[("openseg, R50", partial(others.openseg, head=head)) for head in others.OPENSEG.values()],
    ]
    return [(*case, False) for case in plain] + [(*case, True) for case in abn]


@torch.no_grad()
def row(family: str, network: Network, abn: bool) -> str:
    """One network in that project's code and converted."""
    weights, images = Weights(abn=abn), random_image((65, 97))
    expected = network(weights, images, classes=CLASSES)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.pth"
        torch.save({"state_dict": weights.tensors}, file)
        plan = make_plan(file)
    logits = fill(plan)(images).logits
    difference = ((logits - expected).abs().max() / expected.abs().max()).item()
    converted = "yes" if difference < 1e-4 else "**no**"
    loaded = f"{plan.placed} of {len(plan.key_mapping)}"
    return f"| {family} | {plan.design.network} | {converted} | {loaded} | {difference:.1e} |"


def main() -> None:
    """Every case, then the table."""
    torch.set_num_threads(1)
    lines = [
        "| family | network | converted | tensors placed | largest difference of logits |",
        "|---|---|---|---|---|",
    ]
    for case in cases():
        lines.append(row(*case))
        print(lines[-1], flush=True)
    replace_marked(DOCUMENT, "conversions", "\n".join(lines))


if __name__ == "__main__":
    main()
