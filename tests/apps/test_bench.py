import json
import time

import pytest
import torch

from scenewise.apps.benches import attention, criss_cross
from scenewise.apps.benches.measure import compare, forward_and_backward, forward_only, peak_bytes
from scenewise.apps.cli import main


def test_peak_counts_what_is_alive_at_once() -> None:
    kilo = 250 * 4

    def both() -> object:
        a = torch.zeros(250)
        return a + 1

    def one_after_the_other() -> None:
        for _ in range(5):
            torch.zeros(250)

    assert peak_bytes(both) == pytest.approx(2 * kilo, abs=200)
    assert peak_bytes(one_after_the_other) == pytest.approx(kilo, abs=200)


def test_ratios_are_over_the_first_way() -> None:
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


def test_ways_compute_the_same() -> None:
    q, k, v = torch.randn(3, 2, 7, 4, dtype=torch.float64)
    torch.testing.assert_close(attention.dense(q, k, v), attention.position_attention(q, k, v))
    q, k, v = torch.randn(3, 2, 4, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(
        criss_cross.plain(q, k, v), criss_cross.criss_cross_attention(q, k, v)
    )


def test_json_names_the_machine_and_every_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(attention, "PIXELS", (64,))
    assert main(["bench", "attention", "--repeats", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["machine"]["torch"] == torch.__version__
    assert [(row["way"], row["work"][-8:]) for row in found["rows"]] == [
        ("dense", " forward"),
        ("blocks", " forward"),
        ("dense", "backward"),
        ("blocks", "backward"),
    ]


def test_unknown_subject_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "everything"]) == 2
    assert "invalid choice: 'everything'" in capsys.readouterr().err
