"""``scenewise bench predict`` on small images, without the processes of the start-up."""

import pytest

from scenewise.apps.bench import predict


def test_each_variant_labels_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def seconds(words: list[str]) -> float:
        started.append(words)
        return 2.0 * len(started)

    monkeypatch.setattr(predict, "_SIZE", (40, 56))
    monkeypatch.setattr(predict, "_IMAGES", 2)
    monkeypatch.setattr(predict, "_processor_seconds", seconds)
    table = predict.rows(repeats=1)
    alone, plain, overlapping, torch, tiny, resnet = table
    assert alone.variant == "network alone"
    assert [row.images_per_second for row in table[3:]] == [None] * 3
    for row in (alone, plain, overlapping):
        assert row.images_per_second == pytest.approx(2 / row.seconds)
        assert row.time_ratio == pytest.approx(row.seconds / alone.seconds)
    assert [torch.time_ratio, tiny.time_ratio, resnet.time_ratio] == [1, 2, 3]
    assert started[0] == ["-c", "import torch"]
    assert all("predict" in words for words in started[1:])
