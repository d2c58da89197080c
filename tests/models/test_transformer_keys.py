"""Files of whole networks load into the backbone that returns feature maps."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from scenewise.models.backbone import create_backbone
from scenewise.models.transformer_keys import fitted


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_a_whole_network_gives_its_feature_maps(name: str, tmp_path: Path) -> None:
    whole = timm.create_model(name, num_classes=3).eval()
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    backbone = create_backbone(name, output_stride=32, weights=tmp_path / "w.safetensors")
    backbone.eval()
    images = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        expected = whole.forward_intermediates(images, intermediates_only=True)[-1]
        torch.testing.assert_close(backbone(images)[-1], expected)


def test_position_embeddings_of_another_size_are_resampled(tmp_path: Path) -> None:
    """A plane is a plane after bicubic resampling, but for the rows near the border."""
    large = timm.create_model("test_vit", img_size=320, num_classes=0)
    column = torch.linspace(0, 1, 20).expand(20, 20).reshape(1, 400, 1)
    state = large.state_dict() | {"pos_embed": torch.cat([torch.zeros(1, 1, 1), column], 1)}
    state["pos_embed"] = state["pos_embed"].repeat(1, 1, 64)
    save_file(state, tmp_path / "w.safetensors")
    backbone = create_backbone("test_vit", weights=tmp_path / "w.safetensors")
    position = backbone.state_dict()["net.model.pos_embed"]
    grid = position[0, 1:, 0].reshape(10, 10)
    expected = (torch.arange(10.0) + 0.5) * 2 / 19 - 0.5 / 19
    torch.testing.assert_close(grid[:, 2:8], expected[2:8].expand(10, 6), atol=1e-3, rtol=0)
    assert not position[0, 0].any()


def test_an_embedding_of_another_width_keeps_its_shape() -> None:
    net = timm.create_model("test_vit", features_only=True)
    assert fitted({"pos_embed": torch.ones(1, 17, 8)}, net)["model.pos_embed"].shape == (1, 17, 8)
