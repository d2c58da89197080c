"""``scenewise bench predict`` on small images, without the processes of the start-up."""

from collections.abc import Callable
from itertools import count

import pytest

from scenewise.apps.bench import predict


def test_each_variant_labels_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(predict, "_SIZE", (40, 56))
    monkeypatch.setattr(predict, "_IMAGES", 2)
    monkeypatch.setattr(predict, "_process", started.append)
    clock = count(1.0)
    monkeypatch.setattr(predict, "_now", lambda: (next(clock),) * 2)
    table = predict.rows(repeats=1)
    throughput, start_up = table[:4], table[4:]
    assert throughput[0].variant == "network alone"
    for row in throughput:
        assert (row.seconds, row.images_per_second, row.time_ratio) == (1, 2, 1)
    assert [row.images_per_second for row in start_up] == [None] * 3
    torch = ["-c", "import torch"]
    assert started[0] == started[5] == torch  # the order changes from round to round
    assert all("predict" in words for words in started[1:5])


def test_ratios_are_those_within_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0

    def lasting(*seconds: float) -> Callable[[], None]:
        rest = iter(seconds)

        def run() -> None:
            nonlocal clock
            clock += next(rest)

        return run

    monkeypatch.setattr(predict, "_now", lambda: (clock, 10 * clock))
    variants = {"a": lasting(100, 1, 2, 4), "b": lasting(50, 3, 2, 8)}  # the first is a warm-up
    first, second = predict._compare("work", variants, 3, 6)
    assert (first.seconds, first.processor_seconds, first.images_per_second) == (2, 20, 3)
    assert (first.time_ratio, first.processor_ratio) == (1, 1)
    assert (second.seconds, second.images_per_second) == (3, 2)
    assert (second.time_ratio, second.processor_ratio) == (2, 2)  # the median of 3, 1 and 2
