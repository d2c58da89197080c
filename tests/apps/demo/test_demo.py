import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scenewise import load_model
from scenewise.apps.cli import main
from scenewise.apps.demo import _desktop, _this_program
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
        message = f"{100 * scores['context_iou']:.1f}"
        assert f"<td>{network}</td>" in html
        assert f"<td>{message}</td>" in html
        assert message in printed
        assert load_model(out / network).classes.names == scenes_data(1, (32, 96), 0).classes.names
    assert html.count("data:image/png;base64,") == 4 * 4 + 3
    assert "Scores move" in html or "decides here" in html or "hardly matters" in html
    assert not re.search(r"""(src|srcset|href)=["'](?!data:)""", html)
    assert (out / "images" / "scene_00000.png").is_file()


def test_the_last_lines_are_commands_that_run_in_that_shell(tmp_path: Path) -> None:
    """Started as ``make demo`` does: by a relative path, while ``scenewise`` is not on the PATH."""
    program = tmp_path / ".venv" / "bin" / "scenewise"
    program.parent.mkdir(parents=True)
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom scenewise.apps.cli import main\nsys.exit(main())\n"
    )
    program.chmod(0o755)
    environment = {**os.environ, "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}

    def run(command: str) -> str:
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    printed = run(".venv/bin/scenewise demo --steps 1 --size 32 96 --out 'the demo'")
    for word in ("Tip:", "litlogger", "litmodels", "TPU", "GPU", "Warning", "deprecat"):
        assert word not in printed, word
    commands = re.findall(r"^  (\.venv/bin/scenewise .*)$", printed, re.M)
    assert [command.split()[1] for command in commands][:2] == ["predict", "explain"]
    for command in commands[:2]:  # the third serves a page until it is interrupted
        run(command)
    assert (tmp_path / "the demo" / "why.png").is_file()
    assert len(list((tmp_path / "the demo" / "predictions").rglob("scene_*.png"))) >= 4


def test_the_report_opens_only_where_there_is_a_desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert not _desktop()
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert _desktop()
    monkeypatch.delenv("WAYLAND_DISPLAY")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert _desktop()


def test_a_program_on_the_path_is_printed_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "scenewise"
    program.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert _this_program() == "scenewise"
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "__main__.py")])
    assert _this_program().endswith("python -m scenewise")


def test_demo_with_a_wrong_network_lists_the_right_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--network", "danett", "--out", str(tmp_path / "demo")]) == 2
    assert "unknown network 'danett'; did you mean 'danet'?" in capsys.readouterr().err


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
