import json
import re
from pathlib import Path

import pytest

from scenewise import load_model
from scenewise.apps.cli import main
from scenewise.apps.demo.experiment import scenes_data, train_on_scenes

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:The .* is smaller than the logging interval"),
]


def test_demo_leaves_a_report_that_needs_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--steps", "3", "--size", "32", "96", "--out", str(out)]) == 0
    numbers = json.loads((out / "metrics.json").read_text())
    assert list(numbers) == ["fcn", "danet"]
    html = (out / "report.html").read_text()
    printed = capsys.readouterr().out
    for network, scores in numbers.items():
        told = f"{100 * scores['context_iou']:.1f}"
        assert f"<td>{network}</td>" in html
        assert f"<td>{told}</td>" in html
        assert told in printed
        assert load_model(out / network).classes.names == scenes_data(1, (32, 96), 0).classes.names
    assert html.count("data:image/png;base64,") >= 4 * 4 + 2
    assert not re.search(r"""(src|href)=["'](?!data:)""", html)
    assert (out / "pictures" / "scene_00000.png").is_file()


def test_demo_with_a_wrong_network_lists_the_right_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--network", "danett", "--out", str(tmp_path / "demo")]) == 2
    assert "unknown network 'danett'; choose one of" in capsys.readouterr().err


def test_networks_get_the_same_scenes_and_repeat_themselves() -> None:
    first, second = (
        train_on_scenes("position", steps=3, size=(32, 96), progress=False) for _ in range(2)
    )
    assert first.curve == second.curve
    assert first.curve.loss[0][0] == 1
    assert len(first.curve.loss) == 3
    assert (first.miou, first.context_iou) == (second.miou, second.context_iou)
    other = train_on_scenes("position", steps=3, size=(32, 96), seed=1, progress=False)
    assert other.curve != first.curve
