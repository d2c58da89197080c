"""What docs/export.md says of ONNX Runtime's dynamic quantisation."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

RGB = np.random.default_rng(0).integers(0, 256, (1, 51, 70, 3), np.uint8)


def output(file, images):
    session = onnxruntime.InferenceSession(file)
    return session.run(None, {session.get_inputs()[0].name: images})[0]


@pytest.mark.filterwarnings("ignore")
def test_quantised_files_load_and_nearly_agree(exports, tmp_path):
    inputs = {".onnx": RGB.transpose(0, 3, 1, 2).astype(np.float32) / 128 - 1, "labels.onnx": RGB}
    for suffix, images in inputs.items():
        file, quantised = exports[suffix].files[0], tmp_path / suffix.removeprefix(".")
        kinds = ["Conv", "MatMul"]  # not Attention, which labels.onnx has
        quantize_dynamic(file, quantised, weight_type=QuantType.QUInt8, op_types_to_quantize=kinds)
        assert "ConvInteger" in {node.op_type for node in onnx.load(quantised).graph.node}
        onnx.checker.check_model(onnx.load(file), full_check=True)
        labels = [output(f, images) for f in (file, quantised)]
        if suffix == ".onnx":
            labels = [logits.argmax(1) for logits in labels]
        assert len(np.unique(labels[0])) > 1
        assert (labels[0] == labels[1]).mean() > 0.9
