"""``export_model``: write a model for another runtime after comparing its outputs there."""

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from scenewise.errors import UserError, import_extra
from scenewise.exports import onnx, openvino, pt2
from scenewise.exports.gate import Gate, Precision, Scores, Size, check_scores, labeller
from scenewise.exports.metadata import Metadata, build_metadata
from scenewise.exports.quantize import layers_of, load_nncf, quantize
from scenewise.exports.trace import Graph, Postprocess, export_program
from scenewise.exports.verify import Difference, Engine, compare
from scenewise.files import atomic_write
from scenewise.models.checkpoints import load_model
from scenewise.models.segmenter import Segmenter

SUFFIXES = (".onnx", ".pt2", ".xml")


class Export(NamedTuple):
    """The result of :func:`export_model`.

    Attributes:
        files: all that were written.
        metadata: stored in the file.
        differences: of the float32 graph from the model, on inputs of two sizes, or of the one.
        scores: before and after the precision was lowered; None for fp32.
        layers: of an int8 graph, by name: whether it computes in int8.
    """

    files: list[Path]
    metadata: Metadata
    differences: list[Difference]
    scores: Scores | None = None
    layers: dict[str, bool] = {}  # noqa: RUF012 - never changed


class _Job(NamedTuple):
    """What is exported, and how."""

    graph: Graph
    size: Size | None
    precision: Precision
    gate: Gate | None

    def metadata(self, **more: str) -> Metadata:
        if self.precision != "fp32":
            more["precision"] = self.precision
        return build_metadata(self.graph.model, self.graph.postprocess, self.size, **more)

    def compare(self, engine: Engine) -> list[Difference]:
        return compare(self.graph, engine, self.size)

    def score(self, engine: Engine) -> float:
        assert self.gate is not None
        label = labeller(self.graph, engine, self.size)
        return self.gate.score(label, range(self.gate.images))[0]


def export_model(
    model: Segmenter,
    target: str | Path,
    postprocess: Postprocess | None = None,
    opset: int | None = None,
    *,
    size: Size | None = None,
    precision: Precision = "fp32",
    gate: Gate | None = None,
) -> Export:
    """Write ``target``, run it in its own runtime on two sizes, and compare it with the model.

    Batch, height and width are dynamic unless ``size`` is given. Files are written atomically,
    after the comparison; those of lower precision after the score gate too.

    Args:
        model: any network; a float32 copy on the CPU is exported, in evaluation mode.
        target: ``.onnx``, ``.pt2``, or ``.xml`` (OpenVINO, which writes a ``.bin`` too); a name
            without suffix is a folder of :meth:`Segmenter.save_pretrained`.
        postprocess: the graph takes uint8 RGB images (B, H, W, 3) and returns labels,
            probabilities or logits. Without it, it takes normalised images (B, 3, H, W), float32,
            and returns logits. A model of C channels takes C, and one with the value range of a
            sensor float32 in place of uint8.
        opset: of ONNX; default 18. From 23 on, attention is ONNX's own operator.
        size: a fixed (height, width), with a batch of 1, for runtimes without dynamic shapes.
        precision: of ``.onnx`` and ``.xml``. ``"fp16"`` stores weights in half the bytes and
            computes in float32; ``"int8"`` computes in 8 bits, but for the layers that lose
            accuracy (extra ``quantize``).
        gate: required for a lower precision: scores before and after, and calibration images.

    Raises:
        UserError: another suffix, a missing extra, a network that the format does not support,
            outputs that differ, a score that falls too far, or a path that cannot be written to.

    >>> from scenewise import create_model
    >>> model = create_model("fcn", num_classes=3, backbone="tiny")
    >>> export = export_model(model, Path(tempfile.mkdtemp()) / "fcn.pt2", "labels")
    >>> [file.name for file in export.files], export.differences[0].agreement
    (['fcn.pt2'], 1.0)
    """
    file = Path(target)
    check_target(file, postprocess, opset, size, precision)
    if precision != "fp32" and gate is None:
        raise UserError(
            f"{precision} needs labelled images to compare scores; give a Gate, or --data DIR"
        )
    if _is_folder(file):
        return _folder(model, file)
    job = _Job(Graph(model, postprocess), size, precision, gate)
    if file.suffix == ".onnx":
        return _onnx(job, file, onnx.OPSET if opset is None else opset)
    return (_pt2 if file.suffix == ".pt2" else _openvino)(job, file)


def check_target(
    file: Path,
    postprocess: Postprocess | None,
    opset: int | None,
    size: Size | None = None,
    precision: Precision = "fp32",
) -> None:
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
    if size is not None and (_is_folder(file) or min(size) < 1):
        raise UserError(
            f"--size {size[0]} {size[1]} is for files with a graph, {', '.join(SUFFIXES)}, and "
            "takes height and width in pixels; correct it, or leave it out"
        )
    if precision != "fp32" and file.suffix not in (".onnx", ".xml"):
        raise UserError(f"--precision {precision} is for .onnx and .xml files, not '{file.name}'")
    if precision == "int8":
        load_nncf()
    packages = {".onnx": ("onnx", "onnxscript", "onnxruntime"), ".xml": ("openvino",)}
    for package in packages.get(file.suffix, ()):
        import_extra(package, "export")
    if file.is_dir() and not _is_folder(file):
        raise UserError(f"'{file}' is a folder; give the name of a file")


def _is_folder(file: Path) -> bool:
    return file.suffix == "" or (file.is_dir() and file.suffix not in SUFFIXES)


def _onnx(job: _Job, file: Path, opset: int) -> Export:
    metadata = job.metadata(opset=str(opset), attention=onnx.attention(opset))
    converted = onnx.convert(export_program(job.graph, job.size), metadata, opset)
    scores, layers = None, {}
    with atomic_write(file) as temporary:
        onnx.save(converted, temporary)
        engine = onnx.OnnxEngine(temporary)
        differences = job.compare(engine)
        if job.gate is not None and job.precision != "fp32":
            before = job.score(engine)
            if job.precision == "int8":
                lowered = quantize(onnx.to_proto(converted), job.graph, job.gate, job.size)
                layers = _checked_layers(lowered)
                converted = onnx.from_proto(lowered)
            else:
                onnx.halve(converted)
            onnx.save(converted, temporary)
            scores = Scores(before, job.score(onnx.OnnxEngine(temporary)))
            check_scores(scores, job.gate, job.precision)
    return Export([file], metadata, differences, scores, layers)


def _pt2(job: _Job, file: Path) -> Export:
    metadata = job.metadata(attention=pt2.ATTENTION)
    converted = pt2.convert(export_program(job.graph, job.size))
    with atomic_write(file) as temporary:
        pt2.save(converted, metadata, temporary)
        differences = job.compare(pt2.Pt2Engine(temporary))
    return Export([file], metadata, differences)


def _openvino(job: _Job, file: Path) -> Export:
    metadata = job.metadata(attention=openvino.ATTENTION)
    converted = openvino.convert(export_program(job.graph, job.size), metadata, job.size)
    weights = file.with_suffix(".bin")
    scores, layers = None, {}
    with ExitStack() as stack:
        pair = [stack.enter_context(atomic_write(name)) for name in (file, weights)]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=file.parent)))
        saved = folder / "model.xml"
        openvino.save(converted, saved)
        engine = openvino.OpenVINOEngine(saved)
        differences = job.compare(engine)
        if job.gate is not None and job.precision != "fp32":
            before = job.score(engine)
            if job.precision == "int8":
                converted = quantize(converted, job.graph, job.gate, job.size)
                layers = _checked_layers(converted)
            saved = folder / "lowered.xml"  # the first file is still mapped into memory
            openvino.save(converted, saved, half=True)
            scores = Scores(before, job.score(openvino.OpenVINOEngine(saved)))
            check_scores(scores, job.gate, job.precision)
        for written, temporary in zip((saved, saved.with_suffix(".bin")), pair, strict=True):
            shutil.move(written, temporary)
    return Export([file, weights], metadata, differences, scores, layers)


def _checked_layers(lowered: Any) -> dict[str, bool]:
    layers = layers_of(lowered)
    if not any(layers.values()):
        raise UserError(
            "every layer would stay in float to keep the score, so nothing is written; give a "
            "larger --max-drop, other calibration images, or --precision fp16"
        )
    return layers


def _folder(model: Segmenter, folder: Path) -> Export:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"'{folder}' is a file; give the name of a folder")
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        differences = compare(Graph(model), Graph(load_model(scratch)))
    model.save_pretrained(folder)
    files = [folder / "config.json", folder / "model.safetensors"]
    return Export(files, build_metadata(model, None), differences)
