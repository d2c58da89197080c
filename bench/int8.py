"""int8 against float32 and bfloat16 in OpenVINO, and where the time goes, layer by layer.

    python -m bench.int8                          speed, untrained networks, one thread
    python -m bench.int8 --run RUN --data DIR     and the loss of mIoU of a trained run

The graphs are converted as by ``scenewise export FILE.xml --size H W``, for int8 with all layers
quantised, without the score gate. All are compiled for the same number of threads and take turns,
each round in another order; the seconds are processor seconds of one inference, medians, and a
ratio is the median of the ratios of each round.
The kinds of layers are from OpenVINO's own profile (PERF_COUNT) of further inferences.
"""

import argparse
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scenewise.apps.export.gate import gate_of
from scenewise.exports import openvino
from scenewise.exports.gate import Gate, Size, graph_input, labeller
from scenewise.exports.metadata import build_metadata
from scenewise.exports.quantize import load_nncf
from scenewise.exports.trace import Graph, export_program
from scenewise.models import Segmenter, create_model, load_model

NETWORKS = ("danet_plus", "fcn_plus")
BACKBONE = "tf_efficientnet_lite0"
CALIBRATED = 32  # images at most that set the ranges of int8
SCORED = 101  # images at most
PROFILED = 3  # inferences whose layers are added up
KINDS = 9  # of layers that are shown
VARIANTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}  # the precision hint


def main() -> None:
    """Measure; print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--networks", nargs="+", default=NETWORKS)
    add("--run", type=Path, help="a trained run or model in place of the networks")
    add("--data", type=Path, help="labelled images, for the score of --run")
    add("--size", type=int, nargs=2, default=(512, 1024), metavar=("H", "W"))
    add("--repeats", type=int, default=9)
    add("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    size = (args.size[0], args.size[1])
    if args.run:
        models = {args.run.parent.name: load_model(args.run)}
    else:
        models = {name: _untrained(name) for name in args.networks}
    for name, model in models.items():
        graph, gate = Graph(model), None
        if args.data is not None:
            options = {"model": args.run, "precision": "int8", "calibrate": None, "max_drop": 0.5}
            gate = gate_of(argparse.Namespace(data=args.data, **options), model)
        graphs = _graphs(graph, size, gate)
        compiled = _compiled(*graphs, args.threads)
        print(f"\n{name} on {BACKBONE}, {size[0]} x {size[1]}, {args.threads} thread(s)\n")
        print("\n".join([*_speed(compiled, graphs[2], args.repeats), ""]), flush=True)
        print("\n".join(_layers({k: _profile(c, graphs[2]) for k, c in compiled.items()})))
        if gate is not None:
            print("\n".join(["", *_accuracy(compiled, graph, size, gate)]), flush=True)


def _untrained(name: str) -> Segmenter:
    torch.manual_seed(0)
    return create_model(name, num_classes=11, backbone=BACKBONE, output_stride=16).eval()


def _graphs(graph: Graph, size: Size, gate: Gate | None) -> tuple[Any, Any, Any]:
    """The float32 model in OpenVINO, the model with all layers in int8, and an input."""
    metadata = build_metadata(graph.model, None, size)
    plain = openvino.convert(export_program(graph, size), metadata, size)
    image = np.random.default_rng(0).standard_normal((1, 3, *size), np.float32)
    nncf = load_nncf()
    data: Any = nncf.Dataset([image, image])
    if gate is not None:
        images = gate.calibration[:: max(1, len(gate.calibration) // CALIBRATED)]
        data = nncf.Dataset(images, lambda each: graph_input(graph, each, size).numpy())
    with openvino.sharing_core():
        low = nncf.quantize(plain.clone(), data, subset_size=CALIBRATED)
    return plain, low, image


def _compiled(plain: Any, low: Any, image: Any, threads: int) -> dict[str, Any]:
    """The variants in OpenVINO, each with the same number of threads."""
    settings = {"INFERENCE_NUM_THREADS": threads, "PERF_COUNT": True}
    return {
        variant: openvino.one_core().compile_model(
            low if variant == "int8" else plain,
            "CPU",
            settings | {"INFERENCE_PRECISION_HINT": precision},
        )
        for variant, precision in VARIANTS.items()
    }


def _speed(compiled: dict[str, Any], image: Any, repeats: int) -> list[str]:
    """A row for each variant."""
    times: dict[str, list[float]] = {variant: [] for variant in compiled}
    order = list(compiled)
    for round_ in range(repeats + 1):
        for variant in order:
            start = time.process_time()
            compiled[variant](image)
            if round_ > 0:  # the first round warms up
                times[variant].append(time.process_time() - start)
        order = [*order[1:], order[0]]
    lines = ["| precision | set to | CPU s | times float32 |", "|---|---|---|---|"]
    for variant, taken in times.items():
        ratios = [a / b for a, b in zip(times["float32"], taken, strict=True)]
        hint = compiled[variant].get_property("INFERENCE_PRECISION_HINT").get_type_name()
        cells = f"{statistics.median(taken):.3f} | {statistics.median(ratios):.2f}"
        lines.append(f"| {variant} | {hint} | {cells} |")
    return lines


def _profile(compiled: Any, image: Any) -> Counter[str]:
    """Milliseconds of an inference by the kind of layer, and the precision it runs in."""
    request, total = compiled.create_infer_request(), Counter[str]()
    for _ in range(PROFILED):
        request.infer([image])
        for node in request.get_profiling_info():
            precision = node.exec_type.rpartition("_")[2]
            milliseconds = node.cpu_time.total_seconds() * 1000 / PROFILED
            total[f"{node.node_type}, {precision}"] += milliseconds  # type: ignore[assignment]
    return total


def _layers(profiles: dict[str, Counter[str]]) -> list[str]:
    """A row for each of the kinds that take most."""
    kinds = {kind for profile in profiles.values() for kind in profile}
    ranked = sorted(kinds, key=lambda kind: -max(p[kind] for p in profiles.values()))
    lines = [f"| layers, ms | {' | '.join(profiles)} |", "|---|" + "---|" * len(profiles)]
    for kind in ranked[:KINDS]:
        lines.append(f"| {kind} | {' | '.join(f'{p[kind]:.0f}' for p in profiles.values())} |")
    sums = " | ".join(f"{sum(p.values()):.0f}" for p in profiles.values())
    return [*lines, f"| all | {sums} |"]


def _accuracy(compiled: dict[str, Any], graph: Graph, size: Size, gate: Gate) -> list[str]:
    """mIoU of each variant, in points, on images of the validation split."""
    indices = range(0, gate.images, max(1, gate.images // SCORED))
    lines = [f"| precision | mIoU, {len(indices)} images |", "|---|---|"]
    for variant, model in compiled.items():

        def run(images: Tensor, model: Any = model) -> Tensor:
            return torch.from_numpy(np.array(model(images.numpy())[0]))

        score, _ = gate.score(labeller(graph, run, size), indices)
        lines.append(f"| {variant} | {score:.2f} |")
    return lines


if __name__ == "__main__":
    main()
