import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench import scaling, tiles
from scenewise.apps.bench import attention, criss_cross, measure, predict, train
from scenewise.apps.bench.measure import compare, forward_and_backward, forward_only, peak_bytes
from scenewise.apps.cli import main
from scenewise.attention import PositionAttention
from scenewise.attention.kernels import tiled
from scenewise.classes import Classes
from scenewise.models import create_model
from scenewise.training.task import SegmentationTask


def test_peak_counts_memory_allocated_at_once() -> None:
    kilo = 250 * 4

    def both() -> object:
        a = torch.zeros(250)
        return a + 1

    def in_sequence() -> None:
        for _ in range(5):
            torch.zeros(250)

    assert peak_bytes(both) == pytest.approx(2 * kilo, abs=200)
    assert peak_bytes(in_sequence) == pytest.approx(kilo, abs=200)


def test_ratios_are_over_the_first_variant() -> None:
    fast, slow = compare(
        "sleep", {"1": lambda: time.sleep(0.002), "4": lambda: time.sleep(0.01)}, 3
    )
    assert fast.time_ratio == 1
    assert slow.seconds >= 0.01
    assert slow.time_ratio == pytest.approx(slow.seconds / fast.seconds)


def test_backward_gives_gradients_of_all_inputs() -> None:
    a, b = torch.ones(2), torch.full((2,), 3.0)
    gradients = forward_and_backward(torch.mul, [a, b])()
    assert [g.tolist() for g in gradients] == [[3, 3], [1, 1]]  # type: ignore[attr-defined]
    assert forward_only(torch.mul, [a, b])().tolist() == [3, 3]  # type: ignore[attr-defined]


def test_variants_compute_the_same() -> None:
    q, k, v = torch.randn(3, 2, 7, 4, dtype=torch.float64)
    torch.testing.assert_close(attention.dense(q, k, v), attention.position_attention(q, k, v))
    q, k, v = torch.randn(3, 2, 4, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(
        criss_cross._plain(q, k, v), criss_cross.criss_cross_attention(q, k, v)
    )


def test_the_plain_training_step_has_the_losses_of_the_task() -> None:
    network = create_model("danet", num_classes=4, backbone="tiny", pretrained=False).train()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0.0
    task = SegmentationTask(Classes.numbered(4), network="danet", backbone="tiny")
    task.model = network
    images = torch.randint(256, (2, 3, 32, 48), dtype=torch.uint8)
    masks = torch.randint(4, (2, 32, 48))
    expected = train._plain_loss(network, images, masks)
    torch.testing.assert_close(task.losses(images, masks).total, expected)


def test_json_names_the_machine_and_every_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"_PIXELS": (64,), "_SPREAD_PIXELS": 0, "_FULL": 0}.items():
        monkeypatch.setattr(attention, name, value)
    assert main(["bench", "attention", "--repeats", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["machine"]["torch"] == torch.__version__
    assert [(row["variant"], row["work"][-8:]) for row in report["rows"]] == [
        ("dense", " forward"),
        ("tiles", " forward"),
        ("dense", "backward"),
        ("tiles", "backward"),
    ]


def test_tiles_are_compared_with_the_best_other_size(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PIXELS": (50,), "ROWS": (8, 64), "KEYS": (16, 64)}.items():
        monkeypatch.setattr(tiles, name, value)
    usual = tiled._TILE_ROWS, tiled._TILE_KEYS
    best, default, *_ = tiles.rows(1)
    assert best.variant.startswith("best of 4: ")
    assert (default.variant, default.work) == ("scenewise", "50 queries, N = 50, forward")
    assert usual == (tiled._TILE_ROWS, tiled._TILE_KEYS)


def test_scaling_has_every_block_size_batch_and_process(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"CHANNELS": 16, "SIZES": ((4, 5), (5, 7)), "ONCE_FROM": 35, "IMAGES": 2}
    for name, value in (small | {"BATCH_SIZE": (3, 4), "BATCHES": (1, 2)}).items():
        monkeypatch.setattr(scaling, name, value)
    table = scaling.rows(1)
    works = ["N = 20, forward", "N = 20, + backward", "N = 35, forward"]
    assert [(row.work, row.variant) for row in table[:15]] == [
        (work, variant) for work in works for variant in scaling.BLOCKS
    ]
    assert [row.variant for row in table[15:]] == ["1", "2", "1", "2"]
    assert all(row.seconds > 0 for row in table)


def test_dense_block_of_the_scaling_bench_is_position_attention() -> None:
    dense, x = scaling.Dense(16), torch.randn(2, 16, 5, 7)
    torch.nn.init.ones_(dense.gamma)
    tiled_block = PositionAttention(16)
    tiled_block.load_state_dict(dense.state_dict())
    torch.testing.assert_close(dense(x), tiled_block(x))


def test_a_large_image_is_compared_with_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "_TILE_ROWS", 8)
    monkeypatch.setattr(tiled, "_TILE_KEYS", 8)
    table = attention._against_products(32, 1)
    assert [row.variant for row in table] == 2 * ["square products", "the tiles' products", "tiles"]


def test_the_limit_is_as_many_operations() -> None:
    assert measure.products(3 * 2 * 8**3, size=8)().shape == (8, 8)  # type: ignore[attr-defined]


def test_unknown_subject_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "everything"]) == 2
    assert "SUBJECT is 'everything'; choose one of attention," in capsys.readouterr().err


def test_rounds_of_prediction_start_with_another_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, order = [0.0, 0.0], []
    monkeypatch.setattr(predict, "_now", lambda: tuple(clock))

    def take(name: str, seconds: float) -> None:
        order.append(name)
        load = len(order)  # grows, as on a machine that becomes busy
        clock[0] += seconds * load
        clock[1] += seconds

    variants = {"a": lambda: take("a", 1), "b": lambda: take("b", 2)}
    a, b = predict._compare("work", variants, 2, images=6)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert (a.processor_ratio, b.processor_ratio, a.time_ratio) == (1, 2, 1)
    assert b.time_ratio == pytest.approx((2 * 3 / 4 + 2 * 6 / 5) / 2)
    assert b.images_per_second == pytest.approx(6 / b.seconds)


def test_prediction_is_measured_from_files_to_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(predict, "_SIZE", (32, 48))
    monkeypatch.setattr(predict, "_IMAGES", 2)
    create_model("danet", num_classes=19, backbone="tiny").save_pretrained(tmp_path / "model")
    table = predict._throughput(tmp_path, repeats=1)
    assert len(table) == 4
    assert all(row.seconds > 0 and row.images_per_second for row in table)
    assert sorted(file.name for file in (tmp_path / "out" / "labels").iterdir()) == [
        "0.png",
        "1.png",
    ]
    with (
        Image.open(tmp_path / "out" / "1.png") as plain,
        Image.open(tmp_path / "out" / "labels" / "1.png") as labels,
    ):
        assert (np.asarray(plain) == np.asarray(labels)).mean() > 0.99
