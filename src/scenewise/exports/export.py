"""``export_model``: write a model for another runtime after comparing its outputs there."""

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from scenewise.errors import UserError, import_extra
from scenewise.exports import onnx, openvino, pt2
from scenewise.exports.metadata import Metadata, build_metadata
from scenewise.exports.trace import Graph, Postprocess, export_program
from scenewise.exports.verify import Difference, compare
from scenewise.files import atomic_write
from scenewise.models.checkpoints import load_model
from scenewise.models.segmenter import Segmenter

SUFFIXES = (".onnx", ".pt2", ".xml")


class Export(NamedTuple):
    """The result of :func:`export_model`.

    Attributes:
        files: all that were written.
        metadata: stored in the file.
        differences: from the model, on inputs of two sizes.
    """

    files: list[Path]
    metadata: Metadata
    differences: list[Difference]


def export_model(
    model: Segmenter,
    target: str | Path,
    postprocess: Postprocess | None = None,
    opset: int | None = None,
) -> Export:
    """Write ``target``, run it in its own runtime on two sizes, and compare it with the model.

    Batch, height and width are dynamic. Files are written atomically, after the comparison.

    Args:
        model: any network; a float32 copy on the CPU is exported, in evaluation mode.
        target: ``.onnx``, ``.pt2``, or ``.xml`` (OpenVINO, which writes a ``.bin`` too); a name
            without suffix is a folder of :meth:`Segmenter.save_pretrained`.
        postprocess: the graph takes uint8 RGB images (B, H, W, 3) and returns labels,
            probabilities or logits. Without it, it takes normalised images (B, 3, H, W), float32,
            and returns logits. A model of C channels takes C, and one with the value range of a
            sensor float32 in place of uint8.
        opset: of ONNX; default 18. From 23 on, attention is ONNX's own operator.

    Raises:
        UserError: another suffix, a missing extra, a network that the format does not support,
            outputs that differ, or a path that cannot be written to.

    >>> from scenewise import create_model
    >>> model = create_model("fcn", num_classes=3, backbone="tiny")
    >>> export = export_model(model, Path(tempfile.mkdtemp()) / "fcn.pt2", "labels")
    >>> [file.name for file in export.files], export.differences[0].agreement
    (['fcn.pt2'], 1.0)
    """
    file = Path(target)
    check_target(file, postprocess, opset)
    if _is_folder(file):
        return _folder(model, file)
    graph = Graph(model, postprocess)
    if file.suffix == ".onnx":
        return _onnx(model, graph, file, onnx.OPSET if opset is None else opset)
    return (_pt2 if file.suffix == ".pt2" else _openvino)(model, graph, file)


def check_target(file: Path, postprocess: Postprocess | None, opset: int | None) -> None:
    """Check the arguments of :func:`export_model` before the model is loaded.

    Raises:
        UserError: as :func:`export_model`.
    """
    if _is_folder(file):
        if postprocess is not None:
            raise UserError(
                f"'{file}' is a folder of weights, which has no graph for --postprocess; give a "
                f"file that ends in {', '.join(SUFFIXES)}"
            )
    elif file.suffix not in SUFFIXES:
        raise UserError(
            f"'{file.name}' has an unknown suffix; choose one of {', '.join(SUFFIXES)}, or a name "
            "without suffix for a folder of weights"
        )
    if opset is not None:
        if file.suffix != ".onnx":
            raise UserError(f"'{file.name}' has no opset; leave it out, or give a .onnx file")
        onnx.check_opset(opset)
    packages = {".onnx": ("onnx", "onnxscript", "onnxruntime"), ".xml": ("openvino",)}
    for package in packages.get(file.suffix, ()):
        import_extra(package, "export")
    if file.is_dir() and not _is_folder(file):
        raise UserError(f"'{file}' is a folder; give the name of a file")


def _is_folder(file: Path) -> bool:
    return file.suffix == "" or (file.is_dir() and file.suffix not in SUFFIXES)


def _onnx(model: Segmenter, graph: Graph, file: Path, opset: int) -> Export:
    metadata = build_metadata(
        model, graph.postprocess, opset=str(opset), attention=onnx.attention(opset)
    )
    converted = onnx.convert(export_program(graph), metadata, opset)
    with atomic_write(file) as temporary:
        onnx.save(converted, temporary)
        differences = compare(graph, onnx.OnnxEngine(temporary))
    return Export([file], metadata, differences)


def _pt2(model: Segmenter, graph: Graph, file: Path) -> Export:
    metadata = build_metadata(model, graph.postprocess, attention=pt2.ATTENTION)
    converted = pt2.convert(export_program(graph))
    with atomic_write(file) as temporary:
        pt2.save(converted, metadata, temporary)
        differences = compare(graph, pt2.Pt2Engine(temporary))
    return Export([file], metadata, differences)


def _openvino(model: Segmenter, graph: Graph, file: Path) -> Export:
    metadata = build_metadata(model, graph.postprocess, attention=openvino.ATTENTION)
    converted = openvino.convert(export_program(graph), metadata)
    weights = file.with_suffix(".bin")
    with ExitStack() as stack:
        pair = [stack.enter_context(atomic_write(name)) for name in (file, weights)]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=file.parent)))
        saved = folder / "model.xml"
        openvino.save(converted, saved)
        differences = compare(graph, openvino.OpenVINOEngine(saved))
        for written, temporary in zip((saved, saved.with_suffix(".bin")), pair, strict=True):
            shutil.move(written, temporary)
    return Export([file, weights], metadata, differences)


def _folder(model: Segmenter, folder: Path) -> Export:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"'{folder}' is a file; give the name of a folder")
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        differences = compare(Graph(model), Graph(load_model(scratch)))
    model.save_pretrained(folder)
    files = [folder / "config.json", folder / "model.safetensors"]
    return Export(files, build_metadata(model, None), differences)
