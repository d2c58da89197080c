"""The commands and the Python of every page run."""

import ast
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType

import av
import numpy as np
import pytest
import torch

from scenewise.apps.cli import COMMANDS, main
from scenewise.apps.options.fit import known_options
from scenewise.classes import Classes
from scenewise.models import create_model
from tests.data.formats import tool_trees
from tests.data.formats.trees import ids, write_image, write_label, write_lines, write_mat
from tests.data.trees import write_tree

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


def blocks(page: Path, language: str) -> list[str]:
    """The code of the given language on a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)


# Commands that the tests do not run, by a part of them, and why.
LEFT_OUT = {
    "make ": "minutes; .ci/run makes them",
    "pip install": "wants a package index",
    "npm install": "wants a package index; tests/exports/test_node.py runs the example",
    "python3 -m venv": "makes an environment; .ci/run does",
    ". .venv/bin/activate": "changes the shell",
    "--engine ray": "starts a cluster; tests/apps/predict/test_ray_engine.py does",
    "torchrun": "starts processes; tests/training/distributed do",
    "export GLOO_": "a variable of the machine, no command",
    "srun": "wants SLURM",
    "scontrol": "wants SLURM",
    "#SBATCH": "a line for SLURM, no command",
    "scenewise app": "serves until it is stopped; tests/apps/app open the page",
    "https://example.org": "no such address; tests/data/shards read from a local one",
    "s3://": "no such address",
    "gs://": "no such address",
    "--precision int8": "searches layers for minutes; tests/exports/test_quantize.py does",
    "--push-to-hub": "wants the hub; tests/apps/test_export.py uploads to a local server",
    "hf-hub:": "wants the hub; tests/models/test_hub.py fetches from a local server",
    "--without": "wants attention; tests/apps/fit/test_fit.py leaves blocks out",
    "--config configs/": "tests/test_configs.py runs every recipe",
    "--config wandb.yaml": "wants that file; tests/apps/fit/test_loggers.py runs the logger",
}
# what lies in DIR, where it is not a folder data set
FOLDERS = {"docs/data.md": "cityscapes", "docs/labelling_tools.md": "coco"}
SMALLER = {
    "--at 120,200": "--at 12,20",
    "export danet-cityscapes": "export RUN_FOLDER",
    "--model danet-cityscapes": "--model RUN_FOLDER",
}
TRAINED = "--model.backbone tiny --trainer.max_steps 2 --trainer.accelerator cpu"


def name_of(page: Path) -> str:
    """As people say it."""
    return str(page.relative_to(ROOT))


def shell(page: Path) -> list[str]:
    """The commands of a page, without comments, each on one line."""
    text = "".join(blocks(page, "sh") + blocks(page, "bash")).replace("\\\n", " ")
    lines = [line.partition(" #")[0].strip() for line in text.splitlines()]
    return [line for line in lines if line]


def small(line: str) -> str:
    """The same command for tiny pictures, training for two steps."""
    for words, fewer in SMALLER.items():
        line = line.replace(words, fewer)
    return f"{line} {TRAINED}" if line.startswith("scenewise fit") else line


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained network, as far as commands can tell."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    classes = Classes(("road", "sky", "tree"), ((9, 0, 0), (0, 9, 0), (0, 0, 9)))  # of DIR
    create_model("fcn", classes=classes, backbone="tiny").save_pretrained(folder)
    return folder


def fill(place: Path, page: Path, model: Path, published: Path) -> None:
    """Write what the commands of ``page`` name, and no more."""
    lines = " ".join([*shell(page), *blocks(page, "python")])
    if FOLDERS.get(name_of(page)) == "cityscapes":
        write_cityscapes(place / "DIR")
    elif FOLDERS.get(name_of(page)) == "coco":
        tool_trees.coco(place / "DIR")
        shutil.copytree(place / "DIR" / "train", place / "DIR" / "valid")
        tool_trees.write_images(place / "DIR" / "valid", blue=200)
        tool_trees.write_images(place, ("street",))
    else:
        write_tree(place / "DIR", train=4, val=1, size=(40, 56))
        for kind in ("images", "masks"):
            (place / "DIR" / kind / "test").symlink_to(place / "DIR" / kind / "val")
        picture = next((place / "DIR" / "images" / "val").iterdir())
        (place / "street.jpg").write_bytes(picture.read_bytes())
    (place / "RUN_FOLDER").symlink_to(model)
    for file in published.glob("*.pth*") if "convert" in lines else ():
        (place / file.name).symlink_to(file)
    if "--explain gradient" in lines:
        pytest.importorskip("captum", reason="the extra gradient is not installed")
    if "--unlabelled" in lines:
        write_image(place / "DIR2" / "a.png", (48, 60))
    if "map.tif" in lines:
        write_raster(place / "map.tif")
    if "drive.mp4" in lines:
        write_video(place / "drive.mp4")
    if "VOCdevkit" in lines:
        write_context(place / "VOCdevkit" / "VOC2010")


def write_cityscapes(root: Path) -> None:
    """Two pictures to train on and one to validate on."""
    for seed, (split, name) in enumerate((("train", "a"), ("train", "b"), ("val", "c"))):
        write_image(root / f"leftImg8bit/{split}/x/{name}_leftImg8bit.png", (40, 56), seed)
        write_label(root / f"gtFine/{split}/x/{name}_gtFine_labelIds.png", ids(range(34), (40, 56)))


def write_context(root: Path) -> None:
    """PASCAL-Context, its labels as MATLAB files."""
    for split in ("train", "val"):
        write_image(root / f"JPEGImages/{split}.jpg")
        write_mat(root / f"trainval/{split}.mat", LabelMap=ids(range(460)).astype(np.uint16))
        write_lines(root / f"ImageSets/Main/{split}.txt", [split])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Files as mmsegmentation and the authors of DANet publish them, with random weights."""
    place = tmp_path_factory.mktemp("published")
    design = {"num_classes": 19, "backbone": "resnet50c", "pretrained": False}
    create_model("danet", variant="mmseg", **design).save_pretrained(place / "mmseg")
    create_model("danet", **design | {"backbone": "resnet50"}).save_pretrained(place / "danet")
    mmseg = place / "danet_r50-d8_512x1024_40k_cityscapes.pth"
    assert main(["convert", "--to", "mmseg", str(place / "mmseg"), str(mmseg)]) == 0
    authors = place / "DANet101.pth"
    assert main(["convert", "--to", "danet", str(place / "danet"), str(authors)]) == 0
    authors.rename(place / "DANet101.pth.tar")
    yield place
    shutil.rmtree(place)  # the files have 200 MB each


def write_raster(path: Path) -> None:
    """A GeoTIFF of three bands, and a polygon on it."""
    rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")
    values = np.random.default_rng(0).integers(0, 256, (3, 80, 96), np.uint8)
    grid = rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 5e6)
    profile = {"count": 3, "height": 80, "width": 96, "dtype": "uint8", "crs": "EPSG:32633"}
    with rasterio.open(path, "w", driver="GTiff", transform=grid, **profile) as file:
        file.write(values)
    corners = [[5e5 + x, 5e6 - y] for x, y in ((0, 0), (40, 0), (40, 30), (0, 30), (0, 0))]
    polygon = {"type": "Polygon", "coordinates": [corners]}
    shapes, raw = pytest.importorskip("shapely"), pytest.importorskip("pyogrio.raw")
    wkb = np.array([shapes.to_wkb(shapes.geometry.shape(polygon))], dtype=object)
    crop, crs = np.array(["rye"], dtype=object), "EPSG:32633"
    fields = path.with_name("fields.gpkg")
    raw.write(fields, wkb, [crop], ["crop"], geometry_type="Polygon", crs=crs)


def write_video(path: Path) -> None:
    """Three frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for shade in (0, 90, 200):
            frame = np.full((48, 64, 3), shade, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_python_of_the_pages_runs(
    page: Path, model: Path, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path, page, model, published)
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), {})


@pytest.mark.parametrize("page", [page for page in PAGES if shell(page)], ids=name_of)
def test_commands_of_a_page_run_in_their_order(
    page: Path, model: Path, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On tiny data, with a tiny network instead of a ResNet and two steps of training."""
    monkeypatch.chdir(tmp_path)
    fill(tmp_path, page, model, published)
    for line in shell(page):
        if not any(start in line for start in LEFT_OUT):
            words = shlex.split(small(line))
            assert words[0] == "scenewise", f"say in LEFT_OUT why '{line}' is not run"
            assert main(words[1:]) == 0, line
    if page.name == "README.md":
        assert (tmp_path / "labels" / "labels" / "street.png").is_file()
        assert (tmp_path / "why.png").is_file()
    shutil.rmtree(tmp_path)  # some files have 200 MB


def test_what_is_left_out_stands_on_a_page() -> None:
    lines = [line for page in PAGES for line in shell(page)]
    assert [start for start in LEFT_OUT if not any(start in line for line in lines)] == []


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip().startswith("scenewise "):
                    found.append((str(page.relative_to(ROOT)), line.strip()))
    return found


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands_on_every_page_name_what_exists(
    page: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(command.partition(" #")[0])
    assert words[1] in COMMANDS
    assert main([words[1], "--help"]) == 0
    known = capsys.readouterr().out
    if words[1] in ("fit", "validate", "test"):  # their help is short
        known += "".join(f" --{option}" for option in known_options(words[1]))
    for word in words[2:]:
        name = word.partition("=")[0]
        if name.startswith("--") and name != "--model":
            assert name in known, f"{page} gives {name} to {words[1]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def messages() -> set[str]:
    """Every string of the source but the docstrings; what an f-string inserts is "..."."""
    texts = set()
    for file in (ROOT / "src").rglob("*.py"):
        tree = ast.parse(file.read_text("utf-8"))
        docstrings = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [n.value if isinstance(n, ast.Constant) else "..." for n in node.values]
                texts.add("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and id(node) not in docstrings:
                texts.add(str(node.value))
    return texts


def test_troubleshooting_is_indexed_by_texts_that_occur() -> None:
    page, texts = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8"), messages()
    quoted = re.findall(r"`([^`]+)`", " ".join(re.findall(r"^## (.*)$", page, re.M)))
    assert len(quoted) > 10
    for text in quoted:
        pattern = re.compile(".*".join(map(re.escape, text.split("..."))), re.S)
        assert any(map(pattern.search, texts)), f"no message has '{text}'"


def on_api_pages() -> list[str]:
    """What the API pages list: modules, classes and functions by their full names."""
    pages = sorted((ROOT / "docs" / "api").glob("*.md"))
    return [name for p in pages for name in re.findall(r"^::: (\S+)", p.read_text("utf-8"), re.M)]


def shown(value: object) -> bool:
    """Whether the API pages show it: by its name, or in the ``__all__`` of a listed module."""
    if isinstance(value, ModuleType):
        return any(f"{name}.".startswith(f"{value.__name__}.") for name in on_api_pages())
    listed = [resolve_name(name) for name in on_api_pages()]
    named = {id(getattr(m, name)) for m in listed for name in getattr(m, "__all__", ())}
    another_name = getattr(value, "__module__", "typing") == "typing"  # of a type: has no page
    return id(value) in {*named, *map(id, listed)} or another_name


def test_api_pages_show_no_helpers() -> None:
    """A module is listed only if it says what is public; everything else is listed by name."""
    listed = on_api_pages()
    assert len(listed) == len(set(listed)) > 40
    for name in listed:
        value = resolve_name(name)
        public = hasattr(value, "__all__") if isinstance(value, ModuleType) else callable(value)
        assert public, name
        assert "._" not in name


@pytest.mark.parametrize(
    "package", ["", ".attention", ".data", ".exports", ".models", ".visualize"]
)
def test_api_pages_have_every_public_name(package: str) -> None:
    module = import_module(f"scenewise{package}")
    assert [name for name in module.__all__ if not shown(getattr(module, name))] == []


def test_what_pages_name_stands_on_the_api_pages() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for path in {*re.findall(r"`(scenewise(?:\.\w+)+)`", page.read_text("utf-8"))}:
            if path != "scenewise.json":  # a file
                assert shown(resolve_name(path)), f"{name_of(page)} names {path}"


def test_the_wheel_tells_that_it_has_types() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    (package,) = config["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert (ROOT / package / "py.typed").is_file()
    assert "Typing :: Typed" in config["project"]["classifiers"]
