"""Contexts in any order, by name and custom."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scenewise import Segmenter, create_model, load_model
from scenewise.errors import UserError
from scenewise.models.heads import DualAttention, list_contexts
from scenewise.models.pooling import ASPP


class Sharpen(nn.Module):
    """A block from outside the project."""

    def __init__(self, channels: int, strength: float = 1.0) -> None:
        super().__init__()
        self.blur = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.strength = strength

    def forward(self, x: Tensor) -> Tensor:
        return x + self.strength * (x - self.blur(x))


def chain(*contexts: str | nn.Module, **options: Any) -> Segmenter:
    return create_model("chain", num_classes=3, backbone="tiny", contexts=contexts, **options)


def test_aspp_before_dual_attention() -> None:
    head = chain("aspp", "dual_attention", width=96).eval().head
    aspp, dual = head.contexts
    assert isinstance(aspp, ASPP)
    assert isinstance(dual, DualAttention)
    x = torch.randn(2, 64, 5, 7)
    assert torch.equal(head([x]).logits, head.classify(dual(aspp(x))))


def test_dual_attention_before_aspp() -> None:
    head = chain("dual_attention", "aspp", width=96).eval().head
    dual, aspp = head.contexts
    assert isinstance(dual, DualAttention)
    assert isinstance(aspp, ASPP)
    x = torch.randn(2, 64, 5, 7)
    assert torch.equal(head([x]).logits, head.classify(aspp(dual(x))))


@pytest.mark.parametrize("contexts", [("block", "position"), ("position", "block")])
def test_a_custom_block_works_at_any_position(contexts: tuple[str, ...]) -> None:
    block = Sharpen(96)
    model = chain(*(block if c == "block" else c for c in contexts), width=96).train()
    assert any(module is block for module in model.head.modules())
    model(torch.randn(2, 3, 40, 56)).logits.square().sum().backward()
    assert block.blur.weight.grad is not None
    assert block.blur.weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", list_contexts())
def test_every_context_works_first_and_last(name: str) -> None:
    """First it takes the backbone's 64 channels, after another one the chain's 96."""
    model = chain(name, name, width=96).train()
    out = model(torch.randn(2, 3, 64, 88))
    assert out.logits.shape == (2, 3, 64, 88)
    out.logits.square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_a_chain_of_names_is_saved(tmp_path: Path) -> None:
    model = chain("criss_cross", "aspp").eval()
    model.save_pretrained(tmp_path)
    images = torch.randn(1, 3, 40, 56)
    assert torch.equal(load_model(tmp_path)(images).logits, model(images).logits)


def test_a_chain_with_a_custom_block_is_loaded_into_itself(tmp_path: Path) -> None:
    """No file makes the program import code: the user builds such a network."""
    model = chain(Sharpen(64), "channel").eval()
    assert model.recipe is None
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="with custom parts"):
        load_model(tmp_path)
    other = load_model(tmp_path, into=chain(Sharpen(64), "channel"))
    images = torch.randn(1, 3, 40, 56)
    assert torch.equal(other(images).logits, model(images).logits)


@pytest.mark.parametrize(
    ("contexts", "message"),
    [
        (["aps"], "unknown context 'aps'; choose from asp_oc, aspp, .*channel"),
        (
            [{"class_path": "os.system"}],
            "'os.system' cannot be built; check that it is a torch module,",
        ),
        ([3], "unknown context 3; choose"),
        ([], "a list of at least one name"),
        ("aspp", "a list of at least one name"),
    ],
)
def test_wrong_contexts_are_reported(contexts: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_model("chain", num_classes=2, backbone="tiny", contexts=contexts)


def test_block_of_another_width_is_reported() -> None:
    model = chain("position", nn.Conv2d(64, 32, 1))
    with pytest.raises(UserError, match="Conv2d returns 32 channels in a chain of width 64"):
        model(torch.randn(2, 3, 40, 56))
