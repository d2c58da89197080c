"""Names of files and folders without a state dict: other frameworks, programs, failed downloads."""

import re
import zipfile
from pathlib import Path
from typing import Any

from scenewise.files import parse_json

_SUFFIXES = {
    ".onnx": "an ONNX graph",
    ".pb": "a network of TensorFlow",
    ".h5": "a network of Keras",
    ".keras": "a network of Keras",
    ".tflite": "a network of TensorFlow Lite",
    ".pdparams": "a network of PaddlePaddle",
    ".pdmodel": "a network of PaddlePaddle",
    ".params": "a network of MXNet",
    ".caffemodel": "a network of Caffe",
    ".mlmodel": "a network of Core ML",
    ".mlpackage": "a network of Core ML",
    ".engine": "a network of TensorRT",
    ".msgpack": "a network of Flax",
    ".gguf": "a network of llama.cpp",
    ".pkl": "a pickle without PyTorch's format, as Caffe2 and detectron2 publish them",
    ".npz": "an archive of NumPy arrays",
}
_WEIGHTS = {".bin", ".ckpt", ".pt", ".pth", ".safetensors", ".tar"}
_STARTS = {
    b"version https://git-lfs": "a Git LFS pointer in place of the file; run git lfs pull",
    b"<": "a web page in place of the file; download it again",
    b"\x1f\x8b": "a compressed archive; unpack it and give the file in it",
    b"\x89HDF": "a network of Keras; give a state dict of PyTorch",
}
_PYTORCH = b"\x80\x02\x8a\nl\xfc\x9c"  # magic number of torch.save before PyTorch 1.6
_HUB_PAGE = re.compile(r"https?://(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)/?")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # a drive of Windows has one letter


def describe_missing(path: str | Path) -> str | None:
    """What to do where ``path`` does not exist because it is a URL.

    >>> describe_missing(Path("https://example.org/x.pth"))
    "'https://example.org/x.pth' is a URL; download the file and give its path"
    >>> describe_missing("https://huggingface.co/me/danet")
    "'https://huggingface.co/me/danet' is a page of the hub; give hf-hub:me/danet"
    """
    text = str(path)
    if not _URL.match(text):
        return None
    text = re.sub(r":/+", "://", text, count=1)  # Path joins the slashes
    page = _HUB_PAGE.fullmatch(text)
    if page:
        return f"'{text}' is a page of the hub; give hf-hub:{page[1]}"
    return f"'{text}' is a URL; download the file and give its path"


def describe_file(file: Path) -> str | None:
    """What a file is that holds no state dict of PyTorch, and what to do; None if unknown."""
    with file.open("rb") as opened:
        start = opened.read(32)
    if start.startswith(_PYTORCH):
        return None
    if start.startswith(b"PK\3\4"):
        with zipfile.ZipFile(file) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
        if "data.pkl" in names or file.suffix.lower() not in _SUFFIXES:
            return _archive(names)
    for sign, what in _STARTS.items():
        if start.lstrip().startswith(sign):
            return what
    kind = _SUFFIXES.get(file.suffix.lower())
    return kind and f"{kind}; give a state dict of PyTorch"


def _archive(names: list[str]) -> str | None:
    """What a zip archive with ``names`` below its first folder is."""
    if "constants.pkl" in names and "data.pkl" in names:
        return "a TorchScript program; save the state_dict of its network from Python"
    if "archive_format" in names or "archive_version" in names:
        return "an exported program of torch.export; save the state_dict of its network from Python"
    if "data.pkl" not in names:
        return "a zip archive without a state dict; unpack it and give the file in it"
    return None


def describe_folder(folder: Path) -> str | None:
    """What a folder is that holds no model of this project, and what to do; None if unknown."""
    config = _config(folder / "config.json")
    weights = [file for file in folder.glob("*") if file.suffix in _WEIGHTS and file.is_file()]
    weights = [file for file in weights if file.name != "model.safetensors"]  # lacks config.json
    instead = "train a network on your data with scenewise fit instead"
    if "_model_class" in config:
        kind = str(config["_model_class"])[:40]
        title = f"a folder of segmentation_models_pytorch ({kind})"
        return f"{title}, which cannot be converted; {instead}"
    if "transformers_version" in config or "model_type" in config:
        kinds = config.get("architectures") or [config.get("model_type")]
        kind = str(kinds[0] if isinstance(kinds, list) else kinds)[:60]
        return f"a Hugging Face model ({kind}), which cannot be converted; {instead}"
    if "architecture" in config and ("pretrained_cfg" in config or "num_features" in config):
        kind = str(config["architecture"])[:60]
        return f"a bare backbone of timm ({kind}); start a training with --model.backbone {kind}"
    if weights and not (folder / "config.json").exists():
        return f"a folder of checkpoints; give one of them, such as '{max(weights, key=_age)}'"
    return None


def _age(file: Path) -> float:
    return file.stat().st_mtime  # the newest is the largest


def _config(file: Path) -> dict[str, Any]:
    try:
        config = parse_json(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
