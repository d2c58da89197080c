"""The example for Node in docs/export.md, in Node's own ONNX Runtime."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ROOT / ".cache/onnxruntime-node/node_modules"
pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed"),
    pytest.mark.skipif(
        not (PACKAGES / "onnxruntime-node").exists(), reason="no onnxruntime-node; see .ci/run"
    ),
]
HEIGHT, WIDTH = 51, 70


def run(folder: Path, model: Path, *, height: int = HEIGHT) -> subprocess.CompletedProcess[str]:
    page = (ROOT / "docs/export.md").read_text()
    (folder / "label.js").write_text(page.split("```js\n")[1].split("```")[0])
    rgb = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    (folder / "image.rgb").write_bytes(rgb.tobytes())
    files = [folder / "label.js", model, folder / "image.rgb", height, WIDTH, folder / "labels.bin"]
    environment = {**os.environ, "NODE_PATH": str(PACKAGES)}
    command = ["node", *map(str, files)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_node_gives_the_same_labels(exports, tmp_path):
    file = exports["labels.onnx"].files[0]
    done = run(tmp_path, file)
    assert (done.returncode, done.stdout) == (0, f"1 x {HEIGHT} x {WIDTH}\n"), done.stderr
    labels = np.fromfile(tmp_path / "labels.bin", np.uint8).reshape(1, HEIGHT, WIDTH)
    rgb = np.fromfile(tmp_path / "image.rgb", np.uint8).reshape(1, HEIGHT, WIDTH, 3)
    session = onnxruntime.InferenceSession(file)
    (expected,) = session.run(["labels"], {"images": rgb})
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(labels, expected)


def test_node_refuses_an_image_of_another_size(exports, tmp_path):
    done = run(tmp_path, exports["labels.onnx"].files[0], height=HEIGHT + 1)
    assert done.returncode == 1
    assert "bytes, not 52 x 70 x 3" in done.stderr
