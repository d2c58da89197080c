"""The photographs of the docs: their weights, size and attribution."""

import torch
from torch.nn import functional as F

from bench.photographs import OUT, PHOTOGRAPHS, similarity
from scenewise import create_model


def test_weights_are_the_softmax_of_cosines() -> None:
    model = create_model("fcn", num_classes=2, backbone="tiny", pretrained=False).eval()
    image = torch.rand(3, 40, 56)
    weights = similarity(model, image, (39, 0))
    x = model.backbone(model.normalize(image[None]))[-1][0].detach()  # (C, h, w)
    cosines = F.cosine_similarity(x[:, -1, 0, None, None], x, dim=0)
    expected = (10 * cosines).flatten().softmax(0).view(cosines.shape)
    torch.testing.assert_close(weights, expected)


def test_every_photograph_has_its_author_and_the_file_is_small() -> None:
    page = (OUT.parents[1] / "attention" / "README.md").read_text("utf-8")
    assert OUT.name in page
    assert all(f"*{shown.name}*, {shown.author}" in page for shown in PHOTOGRAPHS)
    assert OUT.stat().st_size < 500_000
