"""Overlays, attention maps, statistics and figures; the network is unchanged afterwards."""

import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.testing import assert_close

from scenewise import Predictor, create_model
from scenewise.attention import (
    ASPOC,
    CBAM,
    BaseOC,
    ChannelAttention,
    CrissCrossAttention,
    InteractionAware,
    NonLocal,
    PositionAttention,
    PyramidOC,
    SAGANAttention,
    SqueezeExcite,
)
from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.visualize import (
    ablate,
    attention_maps,
    attention_sums,
    channel_contrast,
    class_attention,
    colorize,
    explain_figure,
    overlay,
    save_image,
    save_labels,
    shares,
    spread,
    statistics,
    switched_off,
)
from scenewise.visualize.attention_maps import cell
from tests.attention.contract import peak_bytes, randomise
from tests.models.networks import ON_TINY
from tests.toy_model import random_danet

STREET = Classes(("road", "sky", "car"), ((10, 20, 30), (40, 50, 60), (250, 0, 5)))


def recorded(block, *size, channels=16, batch=2):
    """One block, recorded on one random input, in float64."""
    block = randomise(block.double()).eval()
    x = torch.randn(batch, channels, *size, dtype=torch.float64)
    with attention_maps(block) as maps:
        block(x)
    return maps.blocks()[""], x


# Labels as images


def test_labels_are_written_as_indices_with_their_palette(tmp_path):
    labels = torch.tensor([[0, 1, 2], [2, 255, 0]])
    save_labels(tmp_path / "a.png", labels, STREET)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), labels.numpy())
        colors = np.asarray(image.convert("RGB"))
    assert colors[0].tolist() == [[10, 20, 30], [40, 50, 60], [250, 0, 5]]
    assert colors[1, 1].tolist() == [0, 0, 0]


def test_an_overlay_blends_image_and_colour():
    image = torch.full((3, 2, 3), 200, dtype=torch.uint8)
    labels = np.array([[0, 1, 2], [2, 255, 3]])
    mixed = np.asarray(overlay(image, labels, STREET, opacity=0.2))
    assert mixed[0, 0].tolist() == [162, 164, 166]  # 0.8 * 200 + 0.2 * (10, 20, 30)
    assert mixed[1, 0].tolist() == [210, 160, 161]
    assert mixed[1, 1].tolist() == mixed[1, 2].tolist() == [200, 200, 200]
    assert np.asarray(overlay(image, labels, STREET, opacity=0)).min() == 200
    full = np.asarray(overlay(image, labels, STREET, opacity=1))
    assert np.array_equal(full[0], np.asarray(colorize(labels, STREET).convert("RGB"))[0])


def test_shares_count_pixels():
    labels = torch.tensor([[2, 2, 0, 255, 2]])
    assert shares(labels, STREET) == [("car", (250, 0, 5), 0.6), ("road", (10, 20, 30), 0.2)]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda f: overlay(torch.zeros(3, 5, 7), torch.zeros(7, 5), STREET), "5 x 7"),
        (lambda f: overlay(torch.zeros(3, 1, 1), torch.zeros(1, 1), STREET, 1.5), "opacity"),
        (lambda f: colorize(torch.zeros(1, 5, 7), STREET), r"\(H, W\)"),
        (lambda f: colorize(torch.full((5, 7), 256), STREET), "0 to 255"),
        (lambda f: colorize(torch.full((5, 7), -1), STREET), "0 to 255"),
        (lambda f: save_labels(f / "a.jpg", torch.zeros(5, 7), STREET), ".png"),
        (lambda f: save_image(f / "a.what", Image.new("RGB", (5, 7))), ".png"),
        (lambda f: save_image(f / "a.png" / "b.png", Image.new("RGB", (5, 7))), "cannot write"),
    ],
)
def test_bad_images_are_reported(act, message, tmp_path):
    (tmp_path / "a.png").write_text("a file, not a folder")
    with pytest.raises(UserError, match=message):
        act(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


# Attention maps

BLOCKS = [
    PositionAttention(16, reduction=4),
    CrissCrossAttention(16),
    NonLocal(16),
    NonLocal(16, kind="dot_product", subsample=True),
    SAGANAttention(16),
    BaseOC(16),
    PyramidOC(16, sizes=(1, 2)),
    ASPOC(16),
]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: type(b).__name__)
def test_rows_are_the_weights_of_the_block(block):
    places = [(0, 0), (4, 6), (2, 5)]
    maps, x = recorded(block, 5, 7)
    rows = maps.rows(places)
    assert rows.shape[:2] == (2, 3)
    for index, place in enumerate(places):
        assert_close(rows[:, index], maps.module.weights(x, at=place).detach())


def test_rows_of_frames():
    maps, x = recorded(NonLocal(16, dims=3), 3, 5, 7)
    assert_close(maps.rows([(2, 4, 6)])[:, 0], maps.module.weights(x, at=(2, 4, 6)).detach())


def test_blocks_of_several_inputs_get_all_of_them():
    block = randomise(InteractionAware((8, 16), size=(5, 7)).double())
    layers = [torch.randn(2, c, *s, dtype=torch.float64) for c, s in ((8, (10, 14)), (16, (5, 7)))]
    with attention_maps(block) as maps:
        out = block(layers)
    assert_close(maps.positions[""].rows([(4, 6)])[:, 0], block.weights(layers, at=(4, 6)).detach())
    assert_close(maps.positions[""].before(), layers[1])
    assert_close(maps.positions[""].after(), out.detach())
    with switched_off(block, ""):
        assert torch.equal(block(layers), layers[1])


def test_a_block_that_changes_the_shape_cannot_be_switched_off():
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    with pytest.raises(UserError, match="keeps the shape"), switched_off(model, "0"):
        model(torch.zeros(1, 3, 5, 7))
    assert hooks(model) == 0


@pytest.mark.parametrize("name", ON_TINY)
def test_every_network_has_its_attention_recorded(name):
    model = create_model(name, num_classes=3, backbone="tiny").eval()
    with attention_maps(model) as maps, torch.no_grad():
        model(torch.randn(2, 3, 40, 56))
    for position in maps.positions.values():
        rows = position.rows([(0, 0), (4, 6)])
        assert rows.shape[:2] == (2, 2)
        assert spread(position, step=3).entropy.isfinite().all()
        assert not class_attention(position, torch.zeros(40, 56), 2)[0].isnan().any()
    for channel in maps.channels.values():
        assert_close(channel.weights().sum(2), torch.ones(channel.weights().shape[:2]))
    for block in maps.blocks().values():
        assert block.after().isfinite().all()
    has_attention = name.removesuffix("plus").strip("_") not in (
        "fcn",
        "pspnet",
        "deeplabv3",
        "upernet",
    )
    assert bool(maps.blocks()) == has_attention


def test_criss_cross_reaches_a_cross_after_one_round_and_all_after_two():
    maps, _ = recorded(CrissCrossAttention(16, recurrence=2), 5, 7)
    cross = torch.zeros(5, 7, dtype=torch.bool)
    cross[2], cross[:, 4] = True, True
    assert torch.equal(maps.rows([(2, 4)], rounds=1)[0, 0] > 0, cross)
    assert (maps.rows([(2, 4)])[0, 0] > 0).all()
    assert maps.module.recurrence == 2
    with attention_maps(maps.module) as again:
        for x in torch.randn(2, 1, 16, 5, 7, dtype=torch.float64):
            maps.module(x)
            row = again.positions[""].rows([(2, 4)])  # nothing is kept from another input
            assert_close(row[:, 0], maps.module.weights(x, at=(2, 4)).detach())
    with pytest.raises(UserError, match="2 rounds, not 3"):
        maps.rows([(2, 4)], rounds=3)
    with pytest.raises(UserError, match="no rounds"):
        recorded(PositionAttention(16), 5, 7)[0].rows([(0, 0)], rounds=1)


def test_channels_and_their_partners():
    maps, x = recorded(ChannelAttention(), 5, 7)
    energy = torch.einsum("bihw,bjhw->bij", x, x)
    expected = torch.softmax(-energy, dim=-1)
    assert_close(maps.weights(), expected)
    channels, weights = maps.partners(3, count=4)
    order = expected[:, 3].argsort(descending=True)[:, :4]
    assert torch.equal(channels, order)
    assert_close(weights, expected[:, 3].gather(1, order))
    with pytest.raises(UserError, match="channels 0 to 15"):
        maps.partners(16)


@pytest.mark.parametrize("block", [SqueezeExcite(16, 4), CBAM(16, 4)], ids=["se", "cbam"])
def test_gates_are_those_of_the_block(block):
    maps, x = recorded(block, 5, 7)
    assert_close(maps.gates(), randomise(block).eval().gates(x))
    assert_close(maps.before(), x)
    assert_close(maps.after(), block(x).detach())


def test_a_network_names_its_blocks_and_factors():
    model = random_danet(Classes.numbered(3))
    with torch.no_grad():
        model.head.position[1].gamma.fill_(0.25)
        model.head.channel[1].gamma.fill_(-2.0)
    with attention_maps(model, keep=None) as maps:
        out = model(torch.rand(2, 3, 40, 56))
        maps.channels["head.channel.1"].after()
    assert (
        len(maps.channels["head.channel.1"].calls) == 1
    )  # computing attention does not add a call
    assert list(maps.positions) == ["head.position.1"]
    assert list(maps.channels) == ["head.channel.1"]
    assert maps.gammas == {"head.position.1": 0.25, "head.channel.1": -2.0}
    position = maps.positions["head.position.1"]
    assert position.before().shape == position.after().shape == (2, 64, 5, 7)
    assert not position.after().requires_grad
    assert out.logits.requires_grad
    assert_close(position.rows([(1, 6)]).sum((2, 3)), torch.ones(2, 1))


def test_blocks_inside_a_block_are_not_listed():
    maps, _ = recorded(ASPOC(16), 5, 7)
    with attention_maps(nn.Sequential(maps.module, SqueezeExcite(16))) as both:
        assert list(both.blocks()) == ["0", "1"]


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_the_model_is_unchanged_afterwards_also_after_an_error():
    model = random_danet(Classes.numbered(3)).train()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with attention_maps(model) as maps:
        Predictor(model)(torch.rand(3, 40, 56))
        assert hooks(model) == 2
    maps.positions["head.position.1"].rows([(0, 0)])
    maps.channels["head.channel.1"].after()
    with pytest.raises(ZeroDivisionError), attention_maps(model):
        _ = 1 / 0
    with pytest.raises(ZeroDivisionError), switched_off(model, "head.channel.1"):
        _ = 1 / 0
    assert hooks(model) == 0
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("how", ["wrapped", "in place", "inside"])
@torch.no_grad()
def test_a_network_that_was_compiled_and_run_is_recorded(how):
    """Compiled code calls no hooks that are added later."""
    block = randomise(PositionAttention(16)).eval()
    net = nn.Sequential(nn.Conv2d(3, 16, 1), block, SqueezeExcite(16)).eval()
    x = torch.randn(1, 3, 5, 7)
    if how == "in place":
        net.compile(backend="eager")
    elif how == "inside":
        net[1] = torch.compile(block, backend="eager")
    compiled = torch.compile(net, backend="eager") if how == "wrapped" else net
    expected = compiled(x)
    with attention_maps(compiled) as maps, attention_maps(net[2]) as other:
        assert_close(compiled(x), expected)
    assert list(maps.blocks()) == ["1", "2"]
    assert list(maps.gammas) == ["1"]
    assert maps.positions["1"].module is block
    assert_close(maps.positions["1"].before(), net[0](x))
    assert_close(maps.positions["1"].rows([(1, 2)])[:, 0], block.weights(net[0](x), at=(1, 2)))
    assert len(other.gates[""].calls) == 1
    with switched_off(compiled, "1"):
        off = compiled(x)
    assert_close(off, net[2](net[0](x)))
    assert torch._dynamo.eval_frame._stance.stance == "default"
    assert_close(compiled(x), expected)
    torch.compiler.reset()


def test_every_window_is_a_call_in_reading_order():
    model = random_danet(Classes.numbered(3))
    image = torch.rand(3, 40, 72)
    with attention_maps(model, keep=None) as all_calls, attention_maps(model) as latest:
        Predictor(model, window=(40, 40), stride=(40, 32))(image)
    block = all_calls.positions["head.position.1"]
    assert len(block.calls) == 2
    assert len(latest.positions["head.position.1"].calls) == 1
    for call, first in ((0, 0), (1, 32)):
        with attention_maps(model) as alone:
            model(model.normalize(image[None, :, :, first : first + 40]))
        expected = alone.positions["head.position.1"].rows([(3, 1)])
        assert_close(block.rows([(3, 1)], call=call), expected)
    with pytest.raises(UserError, match="2 recorded calls"):
        block.before(2)


def test_a_place_outside_and_a_block_that_never_ran_are_reported():
    maps, _ = recorded(PositionAttention(16), 5, 7)
    for place in ((5, 0), (0, -1)):
        with pytest.raises(UserError, match="outside the feature map of 5 x 7"):
            maps.rows([place])
    with pytest.raises(UserError, match="block '': too many values"):
        maps.rows([(0, 0, 0)])
    with attention_maps(PositionAttention(16)) as empty:
        pass
    with pytest.raises(UserError, match="0 recorded calls"):
        empty.positions[""].rows([(0, 0)])


@pytest.mark.parametrize("align_corners", [True, False])
def test_pixels_find_their_cells(align_corners):
    size, cells = (41, 59), (6, 8)
    rows = [cell((i, 0), size, cells, align_corners=align_corners)[0] for i in range(41)]
    assert rows == sorted(rows)
    assert set(rows) == set(range(6))
    corner = cell((40, 58), size, cells, align_corners=align_corners)
    assert corner == (5, 7)
    halves = {True: [0, 0, 0, 0, 1], False: [0, 0, 0, 0, 0, 0, 0, 1]}[align_corners]
    assert rows[: len(halves)] == halves


# Statistics


def test_attention_sums_are_the_means_times_the_pixels(monkeypatch):
    monkeypatch.setattr(statistics, "_GROUP", 5 * 35 * 2)  # five rows at a time
    maps, _ = recorded(PositionAttention(16, reduction=4), 5, 7)
    labels = torch.randint(0, 4, (2, 5, 7))
    labels[labels == 1] = 255
    sums = attention_sums(maps, labels, 5)
    own, distance = class_attention(maps, labels, 5).diagonal(), spread(maps).distance
    places = torch.cartesian_prod(torch.arange(5), torch.arange(7)).double()
    even = torch.cdist(places, places).mean(1).view(5, 7).expand(2, -1, -1)
    for k in range(5):
        here = labels == k
        assert sums.pixels[k] == here.sum()
        assert_close(sums.own[k], torch.nan_to_num(own[k]) * here.sum())
        assert_close(sums.own_even[k], (here.sum((1, 2)) ** 2 / 35).sum().double())
        assert_close(sums.distance[k], distance[here].sum())
        assert_close(sums.distance_even[k], even[here].sum())


def test_spread_and_class_attention_equal_plain_loops(monkeypatch):
    monkeypatch.setattr(statistics, "_GROUP", 5 * 35 * 2)  # five rows at a time
    maps, x = recorded(PositionAttention(16, reduction=4), 5, 7)
    full = maps.module.weights(x).detach()  # (B, N, N)
    labels = torch.randint(0, 4, (2, 5, 7))
    labels[labels == 1] = 255
    wide = spread(maps)
    table = class_attention(maps, labels, 5)
    mass, count = np.zeros((5, 5)), np.zeros(5)
    for b in range(2):
        for i in range(35):
            row, here = full[b, i].numpy(), divmod(i, 7)
            entropy = -sum(w * math.log(w) for w in row)
            distance = sum(w * math.dist(here, divmod(j, 7)) for j, w in enumerate(row))
            assert_close(wide.entropy[b][here].item(), entropy)
            assert_close(wide.distance[b][here].item(), distance)
            own = labels[b][here].item()
            if own < 5:
                count[own] += 1
                for j, w in enumerate(row):
                    if labels[b][divmod(j, 7)] < 5:
                        mass[own, labels[b][divmod(j, 7)]] += w
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(table.numpy(), mass / count[:, None])
    assert table[[1, 4]].isnan().all()


def test_steps_examine_every_other_pixel():
    maps, _ = recorded(PositionAttention(16), 5, 7)
    every, other = spread(maps), spread(maps, step=3)
    assert_close(other.entropy, every.entropy[:, ::3, ::3])
    assert_close(other.distance, every.distance[:, ::3, ::3])
    with pytest.raises(UserError, match="at least 1"):
        spread(maps, step=0)


def test_uniform_attention_has_the_largest_entropy():
    block = PositionAttention(16)
    maps, _ = recorded(block, 5, 7)
    with torch.no_grad():
        block.query.weight.zero_()
        block.query.bias.zero_()
    labels = torch.arange(35).view(5, 7) % 3
    assert_close(spread(maps).entropy, torch.full((2, 5, 7), math.log(35), dtype=torch.float64))
    share = torch.bincount(labels.flatten()) / 35
    assert_close(class_attention(maps, labels, 3), share.double().expand(3, 3))


def test_distances_to_pooled_keys_are_in_cells_of_the_input():
    rows = torch.zeros(1, 1, 2, 3)
    rows[0, 0, 1, 2] = 1.0  # its centre is at (2.5, 4.5) in features of 4 x 6
    distance = statistics._mean_distance(rows, [(1, 1)], (4, 6))
    assert_close(distance.item(), math.hypot(1.5, 3.5))


def test_labels_of_the_size_of_the_image_are_read_at_the_cells():
    maps, _ = recorded(PositionAttention(16), 5, 7)
    labels = torch.randint(0, 3, (2, 5, 7))
    large = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert_close(class_attention(maps, large, 3), class_attention(maps, labels, 3))


def test_attention_of_all_pairs_is_never_held(monkeypatch):
    monkeypatch.setattr(statistics, "_GROUP", 2**17)
    maps, _ = recorded(PositionAttention(16), 41, 59, batch=1)
    labels = torch.zeros(41, 59, dtype=torch.long)
    pairs = 8 * (41 * 59) ** 2
    assert peak_bytes(lambda: spread(maps)) < pairs / 4
    assert peak_bytes(lambda: class_attention(maps, labels, 2)) < pairs / 4


def test_the_contrast_of_a_channel_is_highest_on_its_class():
    features = torch.randn(2, 4, 5, 7, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 5, 7))
    labels[0, 0] = 255
    features[:, 2] += 5.0 * (labels == 1)
    contrast = channel_contrast(features, labels, 4)
    values = features.transpose(0, 1).flatten(1).numpy()
    ids = labels.flatten().numpy()
    expected = [[(v[ids == k].mean() - v.mean()) / v.std() for k in range(3)] for v in values]
    np.testing.assert_allclose(contrast[:, :3].numpy(), expected)
    assert contrast[:, 3].isnan().all()
    assert contrast[2, :3].argmax() == 1


def test_switching_a_block_off_is_setting_its_factor_to_zero():
    model = random_danet(Classes.numbered(3))
    x = torch.randn(1, 3, 40, 56)
    with torch.no_grad(), switched_off(model, "head.position.1"):
        off = model(x).logits
    with torch.no_grad():
        assert not torch.allclose(model(x).logits, off)
        model.head.position[1].gamma.zero_()
        assert_close(model(x).logits, off)
    with (
        pytest.raises(UserError, match=r"unknown block 'head\.nothing'"),
        switched_off(model, "head.nothing"),
    ):
        pass


def test_an_ablation_counts_the_pixels_that_change():
    model = random_danet(Classes.numbered(3))
    predictor, image = Predictor(model), torch.rand(3, 41, 59)
    result = ablate(predictor, image, "head.position.1")
    assert torch.equal(result.labels, predictor(image).labels)
    with torch.no_grad():
        model.head.position[1].gamma.zero_()
    assert torch.equal(result.without, predictor(image).labels)
    assert not torch.equal(result.labels, result.without)
    expected = [int((result.without == k).sum() - (result.labels == k).sum()) for k in range(3)]
    assert result.difference.tolist() == expected


# Figures


def test_a_figure_names_classes_pixels_and_blocks(tmp_path):
    model = random_danet(STREET)
    image = torch.rand(3, 41, 59)
    present = [name for name, _, _ in shares(Predictor(model)(image).labels, STREET)]
    explain_figure(model, image, [(0, 0), (40, 58), (7, 30)], tmp_path / "a.svg", channels=2)
    text = " ".join(re.findall("<text[^>]*>(.*?)</text>", (tmp_path / "a.svg").read_text()))
    for words in [
        *present,
        "(40, 58)",
        "(7, 30)",
        "head.position.1",
        "head.channel.1",
        "times the average",
        "Without head.position.1",
    ]:
        assert words in text
    assert hooks(model) == 0


def test_a_figure_of_a_network_of_ones_own_names_the_alternative(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 16, 1), PositionAttention(16))
    with pytest.raises(UserError, match=r"not Sequential; run a network of your own inside att"):
        explain_figure(net, torch.rand(3, 5, 7), [(0, 0)], tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_figures_in_every_format(tmp_path):
    model = create_model("position", num_classes=3, backbone="tiny")
    starts = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}
    for suffix, start in starts.items():
        explain_figure(model, torch.rand(3, 41, 23), [(3, 5)], tmp_path / f"a{suffix}")
        assert (tmp_path / f"a{suffix}").read_bytes().startswith(start)
    with Image.open(tmp_path / "a.png") as image:
        assert image.width == 1400


@pytest.mark.parametrize(
    ("network", "at", "name", "message"),
    [
        ("fcn", [(0, 0)], "a.png", "no attention block"),
        ("danet", [(41, 0)], "a.png", "outside the image of 41 rows and 59 columns"),
        ("danet", [(0, -1)], "a.png", "outside the image"),
        ("danet", [], "a.png", "no pixel"),
        ("danet", [(0, 0)], "a.tiff", ".svg"),
    ],
)
def test_bad_figures_are_reported(network, at, name, message, tmp_path):
    model = create_model(network, num_classes=3, backbone="tiny")
    with pytest.raises(UserError, match=message):
        explain_figure(model, torch.rand(3, 41, 59), at, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["danet", "ccnet"])
def test_maps_recorded_under_autocast_are_computed_in_the_dtype_of_the_weights(name: str) -> None:
    model = create_model(name, num_classes=5, backbone="tiny").eval()
    with (
        torch.no_grad(),
        attention_maps(model) as maps,
        torch.autocast("cpu", torch.bfloat16),
    ):
        model(torch.randn(1, 3, 40, 56))
    for block in maps.positions.values():
        rows = block.rows([(0, 0), (4, 6)])
        assert rows.dtype == torch.float32
        assert_close(rows.sum((2, 3)), torch.ones(1, 2))
