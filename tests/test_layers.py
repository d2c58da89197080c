"""The layers: each folder imports only what is below it, and no modules import in a circle."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "scenewise"
README = SOURCE.parents[1] / "README.md"

ROOT = {"__init__", "_version", "__main__", "errors", "files", "classes", "memory"}
LEAVES = {"_version", "errors", "files", "classes", "memory"}
# A folder may import the folders of its row, the leaves, and itself.
ALLOWED: dict[str, set[str]] = {
    "attention": set(),
    "data": set(),
    "models": {"attention"},
    "exports": {"attention", "models"},
    "inference": {"attention", "data", "exports", "models"},
    "visualize": {"attention", "data", "exports", "inference", "models"},
    "training": {"attention", "data", "exports", "inference", "models", "visualize"},
    "apps": {"attention", "data", "exports", "inference", "models", "training", "visualize"},
}
# The most files that a module may load, itself included; what it loads lazily counts too.
CLOSURES = {
    "scenewise.models.segmenter": 45,
    "scenewise.visualize.attention_maps": 35,
    "scenewise.inference.predictor": 60,
    "scenewise.attention.position": 10,
}
Graph = dict[str, set[str]]


def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    found = {}
    for file in sorted(SOURCE.rglob("*.py")):
        name = ".".join(("scenewise", *file.relative_to(SOURCE).with_suffix("").parts))
        found[name.removesuffix(".__init__")] = file
    return found


MODULES = modules()


def imports(file: Path) -> set[str]:
    """Dotted names that a file imports, inside functions and for types alone included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            base = node.module or ""
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else base for name in names}
    return found


def graph() -> Graph:
    """The modules of the project that each module imports."""
    return {name: (imports(file) & MODULES.keys()) - {name} for name, file in MODULES.items()}


def closure(name: str, edges: Graph) -> set[str]:
    """``name`` and all that it imports, directly and not."""
    seen, waiting = {name}, [name]
    while waiting:
        new = edges[waiting.pop()] - seen
        seen |= new
        waiting += new
    return seen


def folder(module: str) -> str:
    """The folder, or the leaf of the root, that ``scenewise.x.y`` belongs to."""
    return module.split(".")[1] if "." in module else "scenewise"


@pytest.mark.parametrize("name", [n for n in MODULES if folder(n) in ALLOWED])
def test_a_folder_imports_only_what_is_below(name: str) -> None:
    here = folder(name)
    ours = {folder(m) for m in imports(MODULES[name]) if m.split(".")[0] == "scenewise"}
    assert ours - {here} - LEAVES <= ALLOWED[here]


def test_leaves_import_leaves_alone() -> None:
    edges = graph()
    assert all({folder(m) for m in edges[f"scenewise.{leaf}"]} <= LEAVES for leaf in LEAVES)


def test_every_folder_has_a_row_and_the_root_holds_seven_modules() -> None:
    assert {path.stem for path in SOURCE.glob("*.py")} == ROOT
    assert {folder(name) for name in MODULES} - ROOT - {"scenewise"} == set(ALLOWED)


def test_no_import_cycle() -> None:
    edges = graph()
    reached = {name: set().union(*(closure(m, edges) for m in edges[name])) for name in edges}
    assert [name for name in edges if name in reached[name]] == []


@pytest.mark.parametrize("name", CLOSURES)
def test_little_is_loaded_by(name: str) -> None:
    assert len(closure(name, graph())) <= CLOSURES[name]


def test_no_file_name_twice_within_a_layer() -> None:
    for layer in ALLOWED:
        files = (SOURCE / layer).rglob("*.py")  # apps/options are named as their commands
        names = [f.stem for f in files if f.stem != "__init__" and f.parent.name != "options"]
        assert sorted(names) == sorted(set(names)), layer


def test_the_ideas_of_the_readme_are_the_files_of_attention() -> None:
    listed = re.findall(r"\(src/scenewise/attention/(\w+)\.py\)", README.read_text("utf-8"))
    files = {f.stem for f in (SOURCE / "attention").glob("*.py")} - {"__init__", "layers"}
    assert set(listed) == files


@pytest.mark.parametrize(
    "file",
    sorted((SOURCE / "attention").rglob("*.py")),
    ids=lambda f: str(f.relative_to(SOURCE)),
)
def test_attention_needs_torch_only(file: Path) -> None:
    outside = {m.split(".")[0] for m in imports(file)} - set(sys.stdlib_module_names)
    kernels = {"triton"} if file.stem == "triton" else set()
    assert outside <= {"torch", "scenewise"} | kernels


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("scenewise", ("torch", "timm", "lightning", "torchvision", "matplotlib")),
        # torch.utils.flop_counter, where the operators' FLOPs are registered, imports triton itself
        ("scenewise.attention", ("timm", "lightning", "torchvision", "matplotlib")),
        ("scenewise.apps.cli", ("torch", "timm", "lightning", "matplotlib")),
        ("scenewise.models", ("lightning", "matplotlib")),
        (
            "scenewise.apps.predict",
            ("lightning", "matplotlib", "timm", "torchvision", "fsspec", "torch.onnx"),
        ),
    ],
)
def test_import_is_light(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
