"""``scenewise demo``: train, test and explain networks on generated scenes, without a download."""

import argparse
import os
import shlex
import shutil
import sys
import webbrowser
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Table

from scenewise.apps.demo.decided import Example, decided_pixel
from scenewise.apps.demo.demo_report import HEADER, demo_report, row
from scenewise.apps.demo.experiment import TEST_SCENES, Result, scenes_data, train_on_scenes
from scenewise.apps.options.demo import ABLATION
from scenewise.data.scenes import Scenes
from scenewise.files import write_json, write_text
from scenewise.models.build import create_model
from scenewise.models.segmenter import Segmenter
from scenewise.visualize.attention_maps import attention_maps


def run(args: argparse.Namespace) -> None:
    """Train, test, predict, explain; write the report and the models."""
    size = (args.size[0], args.size[1])
    networks = ABLATION if args.all else tuple(dict.fromkeys(("fcn", args.network)))
    for network in networks:  # a wrong name fails before the first training
        create_model(network, num_classes=2, backbone="tiny")
    results = []
    for network in networks:
        result = train_on_scenes(network, steps=args.steps, size=size, seed=args.seed)
        result.model.save_pretrained(args.out / network)
        results.append(result)
    _print(results)
    write_json(args.out / "metrics.json", {r.network: _numbers(r) for r in results})
    scenes = scenes_data(args.steps, size, args.seed).dataset("val")
    assert isinstance(scenes, Scenes)
    examples = {r.network: decided_pixel(r.model, scenes) for r in results if _attends(r.model)}
    page = args.out / "report.html"
    write_text(page, demo_report(results, scenes, examples, args))
    print(f"Report: {page}", "Now try, in this shell:", sep="\n")
    last = results[-1]
    image = args.out / "images" / f"{scenes.names[0]}.png"
    example = examples.get(last.network)
    if example is not None:
        image = image.with_stem(scenes.names[example.scene])
    for command in _next_commands(args.out, args.out / last.network, image, example):
        print(f"  {command}")
    if args.open and _desktop():
        webbrowser.open(page.resolve().as_uri())


def _desktop() -> bool:
    """Whether a browser can show a window."""
    own = sys.platform in ("win32", "darwin")
    return own or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _next_commands(out: Path, model: Path, image: Path, example: Example | None) -> list[str]:
    """Commands to continue with, as they must be typed in the shell that started this one."""
    commands = [["predict", out / "images", "--model", model, "--out", out / "predictions"]]
    if example is not None:
        pixel = ["--at", f"{example.at[0]},{example.at[1]}"]
        commands.append(["explain", image, "--model", model, *pixel, "--out", out / "why.png"])
    if find_spec("fastapi"):  # the extra "app", which the demo does not need
        commands.append(["app", "--model", model])
    return [f"{_this_program()} {shlex.join(map(str, words))}" for words in commands]


def _this_program() -> str:
    """``scenewise`` where the shell finds it, else the path or the module that was started.

    >>> _this_program()
    '... -m scenewise'
    """
    program = Path(sys.argv[0])
    if program.stem != "scenewise":  # python -m scenewise
        python, here = Path(sys.executable), Path.cwd()
        python = python.relative_to(here) if python.is_relative_to(here) else python
        return f"{shlex.quote(str(python))} -m scenewise"
    on_path = shutil.which(program.name)
    if on_path is not None and program.exists() and program.samefile(on_path):
        return program.name
    return shlex.quote(str(program))


def _numbers(result: Result) -> dict[str, float]:
    return {
        "miou": result.miou,
        "context_iou": result.context_iou,
        "pixel_accuracy": result.accuracy,
        "seconds": result.seconds,
        "parameters": result.parameters,
    }


def _print(results: Sequence[Result]) -> None:
    grid = Table(title=f"{TEST_SCENES} unseen scenes", title_justify="left")
    for index, name in enumerate(HEADER):
        grid.add_column(name, justify="left" if index == 0 else "right")
    for result in results:
        grid.add_row(*row(result))
    Console().print(grid)


def _attends(model: Segmenter) -> bool:
    with attention_maps(model) as maps:
        return bool(maps.positions)
