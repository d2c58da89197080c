"""A short siege of the real page: ``python -m bench.siege`` has the long one."""

from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="gradio is not installed")

from bench.browser import running
from bench.siege import siege
from tests.apps.app.conftest import CLASSES
from tests.toy_model import random_danet


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_a_siege(tmp_path: Path) -> None:
    random_danet(CLASSES).save_pretrained(tmp_path / "danet")
    with running(tmp_path / "danet") as (address, process):
        found = siege(address, process.pid, clients=12, seconds=3, rest=0)
        assert process.poll() is None
    assert found["same_answers_after"]
    assert found["besiegers_left"] == 0
    assert found["memory_after_mb"] < found["memory_before_mb"] + 100
    assert found["attacks"] > 20
    ends = found["ends"]
    assert ends["stranger: 403"] > 0
    assert {end for end in ends if end.startswith("stranger")} == {"stranger: 403"}
    assert not any(end.endswith(": 200") and end.startswith("too_long") for end in ends)


def test_only_this_machine_is_besieged() -> None:
    with pytest.raises(ValueError, match=r"only a page on 127\.0\.0\.1"):
        siege("http://example.org:80", 1, 1, 1)
