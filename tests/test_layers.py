"""The layers: each part imports only what stands below it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "scenewise"

# A part may import the parts named in its row, and itself.
BASE = {"errors", "files", "classes", "class_tables"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "classes": {"errors"},
    "class_tables": {"classes"},
    "files": {"errors"},
    "memory": set(),
    "attention": set(),
    "models": BASE | {"attention", "scenewise"},
    "data": BASE,
    "inference": BASE | {"attention", "models", "data", "memory"},
    "training": BASE | {"attention", "models", "data", "inference", "memory", "scenewise"},
    "apps": BASE | {"attention", "models", "data", "inference", "memory", "training", "scenewise"},
}
INFERENCE = {
    "exports",
    "fallback",
    "inference",
    "protocols",
    "strips",
    "windows",
    "visualize",
    "video",
}


def part(module: str) -> str:
    """The row of the table that ``scenewise.x.y`` belongs to."""
    names = module.split(".")
    if len(names) == 1:
        return "scenewise"
    return "inference" if names[1] in INFERENCE else names[1]


def imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            found.add(node.module or "")
    return found


def files() -> list[Path]:
    return [f for f in sorted(SOURCE.rglob("*.py")) if f.parent != SOURCE or f.stem[0] != "_"]


@pytest.mark.parametrize("file", files(), ids=lambda f: str(f.relative_to(SOURCE)))
def test_imports_only_what_stands_below(file: Path) -> None:
    names = file.relative_to(SOURCE).with_suffix("").parts
    here = part(".".join(("scenewise", *names)))
    ours = {part(m) for m in imports(file) if m.split(".")[0] == "scenewise"}
    assert ours - {here} <= ALLOWED[here]


@pytest.mark.parametrize("file", sorted((SOURCE / "attention").glob("*.py")), ids=lambda f: f.stem)
def test_attention_needs_torch_only(file: Path) -> None:
    outside = {m.split(".")[0] for m in imports(file)} - set(sys.stdlib_module_names)
    kernels = {"triton"} if file.stem == "position_triton" else set()
    assert outside <= {"torch", "scenewise"} | kernels


def test_every_part_has_a_row() -> None:
    found = {part(".".join(("scenewise", *f.relative_to(SOURCE).parts))) for f in files()}
    assert {name.removesuffix(".py") for name in found} <= set(ALLOWED)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("scenewise", ("torch", "timm", "lightning", "torchvision", "matplotlib")),
        ("scenewise.attention", ("timm", "lightning", "torchvision", "matplotlib", "triton")),
        ("scenewise.apps.cli", ("torch", "timm", "lightning", "matplotlib")),
        ("scenewise.models", ("lightning", "matplotlib")),
        ("scenewise.inference.predictor", ("lightning", "matplotlib")),
    ],
)
def test_import_is_light(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
