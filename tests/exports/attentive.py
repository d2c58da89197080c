"""A network of one position attention over all pixels."""

from collections.abc import Sequence

from torch import Tensor, nn

from scenewise.attention import PositionAttention
from scenewise.classes import Classes
from scenewise.models import Segmenter
from scenewise.models.heads import HeadOutput
from tests.attention.contract import randomise
from tests.toy_model import Pixels


class AttentiveHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Conv2d(3, 8, 1)
        self.attend = PositionAttention(8)
        self.classify = nn.Conv2d(8, 2, 1)

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        return HeadOutput(self.classify(self.attend(self.lift(features[-1]))), {}, {})


def attentive() -> Segmenter:
    """A model that attends over the pixels of the image."""
    model = Segmenter(Pixels(1), AttentiveHead(), classes=Classes.numbered(2))
    randomise(model)
    return model.eval()
