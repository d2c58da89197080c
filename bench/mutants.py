"""Mutation testing: break one thing at a time in the source and see whether a test notices.

    python -m bench.mutants --share 0.2 --out mutants.json     # a seeded sample of every file
    python -m bench.mutants --count 500 --out mutants.json     # the first so many of all, shuffled
    python -m bench.mutants --again mutants.json               # only what survived there

A mutant is the module's syntax tree with one node changed: a comparison or an operator swapped, a
number plus 1, a truth negated, an argument left out, ``None`` returned. Texts, docstrings,
annotations, what a ``raise`` says and ``zip``'s ``strict`` are left alone, and so is what runs on a
GPU alone. torch is imported once; each mutant is a fork that runs the module's own tests and
doctests until one fails, the slow ones last; processes that a test starts import a copy of the
package with the same change. Tests of ``torch.compile`` and ``torch.export`` take long: they see
only what survived, by ``--again``.

All mutants run in random order, so those done whenever it stops are a random sample of all.
"""

import argparse
import ast
import gc
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

SOURCE = Path("src/scenewise")
ATTENTION = sorted(p for p in (SOURCE / "attention").rglob("*.py") if p.name != "__init__.py")
TESTS = {
    "attention/kernels/tiled.py": ["attention/test_position.py"],
    "attention/kernels/precision.py": ["attention/test_position.py", "attention/test_channel.py"],
    "inference/predictor.py": ["inference/test_predictor.py"],
    "inference/sliding_window.py": [
        "inference/test_sliding_window.py",
        "inference/test_predictor.py",
    ],
    "inference/row_blocks.py": ["inference/test_row_blocks.py"],
    "inference/protocols.py": ["inference/test_protocols.py"],
    "training/metrics/confusion.py": ["training/metrics/test_confusion.py"],
    "models/checkpoints.py": ["models/test_checkpoints.py"],
}
FILES = [str(p.relative_to(SOURCE)) for p in ATTENTION]
FILES += [name for name in TESTS if not name.startswith("attention")]

PRELOADED = "torch torchvision lightning.pytorch timm torchmetrics scipy hypothesis pytest doctest"
EAGER = "not compile and not export"
SLOW = ("memory", "holds_the_map", "published_sizes")  # in the names of tests: they run last
GPU_ALONE = {"attention/kernels/autotune.py": ("efficient", "efficient_backward")}  # functions
COPY = Path(tempfile.gettempdir()) / f"mutants-{os.getpid()}" / SOURCE.name  # for processes

SWAPS: dict[type[Any], type[Any]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that may change, parents first: no annotation, ``raise`` or ``strict=``."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "type_params", "bases"):
            continue
        if isinstance(tree, ast.keyword) and tree.arg == "strict":
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.Raise):
                yield child
                yield from nodes(child)


def changes(node: ast.AST) -> list[str]:
    """What can be done to ``node``."""
    match node:
        case ast.Compare(ops=ops) if len(ops) == 1:
            return ["swap"]
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op) if type(op) in SWAPS:
            return ["swap"]
        case ast.Constant(value=bool()):
            return ["negate"]
        case ast.Constant(value=int() | float()):
            return ["plus 1"]
        case ast.If() | ast.IfExp() | ast.While():
            return ["not"]
        case ast.Return(value=value) if value and not _is_none(value):
            return ["none"]
        case ast.Call(args=args, keywords=keywords):
            drops = ["drop last"] if args and not isinstance(args[-1], ast.GeneratorExp) else []
            return drops + [f"drop {k.arg}" for k in keywords if k.arg not in (None, "strict")]
        case ast.UnaryOp(op=ast.USub() | ast.Not()):
            return ["unary"]
    return []


def change(node: Any, how: str) -> None:
    """Do it, in place."""
    if how == "swap" and isinstance(node, ast.Compare):
        node.ops = [SWAPS[type(node.ops[0])]()]
    elif how == "swap":
        node.op = SWAPS[type(node.op)]()
    elif how == "negate":
        node.value = not node.value
    elif how == "plus 1":
        node.value += 1
    elif how == "not":
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif how == "none":
        node.value = ast.Constant(None)
    elif how == "drop last":
        node.args.pop()
    elif how == "unary":
        node.op = ast.UAdd() if isinstance(node.op, ast.USub) else node.op
        if isinstance(node.op, ast.Not):
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
    else:
        node.keywords = [k for k in node.keywords if f"drop {k.arg}" != how]


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def mutants(name: str) -> list[dict[str, Any]]:
    """All of a file: ``{"file", "node", "how", "line", "code"}``, ``code`` after the change."""
    text = (SOURCE / name).read_text()
    found, left_alone = [], _lines_for_gpus(name, text)
    for number, node in enumerate(nodes(ast.parse(text))):
        if getattr(node, "lineno", 0) in left_alone:
            continue
        for how in changes(node):
            tree = mutated(text, number, how)
            new = list(nodes(tree))[number]
            code = ast.unparse(new.test if how == "not" else new).splitlines()[0]  # type: ignore[attr-defined]
            line = node.lineno  # type: ignore[attr-defined]
            found.append({"file": name, "node": number, "how": how, "line": line, "code": code})
    return found


def _lines_for_gpus(name: str, text: str) -> set[int]:
    functions = [
        node
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and node.name in GPU_ALONE.get(name, ())
    ]
    return {line for f in functions for line in range(f.lineno, (f.end_lineno or f.lineno) + 1)}


def mutated(text: str, number: int | None, how: str) -> ast.Module:
    tree = ast.parse(text)
    if number is not None:
        change(list(nodes(tree))[number], how)
    return ast.fix_missing_locations(tree)


def run(name: str, number: int | None, how: str, seconds: int, chosen: str) -> tuple[str, float]:
    """Run the ``chosen`` tests of ``name`` with one mutant in a fork: the outcome, CPU seconds."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    text = (SOURCE / name).read_text()
    tree = mutated(text, number, how)
    (COPY / name).write_text(ast.unparse(tree))
    if not (child := os.fork()):
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        _tests(name, tree, chosen)
    status = None
    while status is None:
        done, code = os.waitpid(child, os.WNOHANG)
        status = code if done else None
        if time.monotonic() - began > 40 * seconds:  # asleep: CPU time will not end it
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.02)
    (COPY / name).write_text(text)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if os.WIFSIGNALED(status):
        return "timeout", used
    code = os.WEXITSTATUS(status)
    assert code in (0, 1, 2, 3, 9), f"pytest could not run: {code}"
    return ("survived" if code == 0 else "caught"), used


class SlowLast:
    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items.sort(key=lambda item: any(word in item.name for word in SLOW))


def _tests(name: str, tree: ast.Module, chosen: str) -> None:
    """In the fork: put ``tree`` in the place of the module, run its tests, and end."""
    import pytest

    path, original = str((SOURCE / name).resolve()), SourceFileLoader.get_code

    def get_code(self: SourceFileLoader, fullname: str) -> Any:
        if self.path == path:
            return compile(tree, path, "exec")
        return original(self, fullname)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign]
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    tests = TESTS.get(name, [(Path(name).parent / f"test_{Path(name).name}").as_posix()])
    words = ["-x", "-p", "no:cacheprovider", "--tb=no", "-k", chosen, str(SOURCE / name)]
    words += [f"tests/{t}" for t in tests]
    code = 9
    try:
        __import__("scenewise." + name.removesuffix(".py").replace("/", "."))
        code = int(pytest.main(words, plugins=[SlowLast()]))
    finally:
        os._exit(code)


def prepare() -> None:
    """What every fork shares: modules, settings, and a copy of the package for processes."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # finding them takes a second
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    os.environ["PYTHONPATH"] = str(COPY.parent)
    for module in PRELOADED.split():
        __import__(module)
    import hypothesis

    found = [hypothesis.Phase.explicit, hypothesis.Phase.generate]  # no smaller example is wanted
    hypothesis.settings.register_profile("mutants", phases=found, database=None)
    hypothesis.settings.load_profile("mutants")
    sys.path.insert(0, str(SOURCE.parent.resolve()))
    gc.collect()
    gc.freeze()  # pytest collects garbage twice, which takes long among all these modules


def draw(files: list[str], share: float, seed: int) -> list[dict[str, Any]]:
    """Mutants of each file, a ``share`` of them, all in random order."""
    found = []
    for name in files:
        all_of_it = mutants(name)
        count = max(1, round(share * len(all_of_it)))
        found += random.Random(f"{seed} {name}").sample(all_of_it, count)
    random.Random(seed).shuffle(found)
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("files", nargs="*", default=FILES)
    parser.add_argument("--share", type=float, default=1.0, help="of each file's mutants")
    parser.add_argument("--count", type=int, help="stop after so many of them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", type=Path, help="an earlier --out: run its survivors")
    parser.add_argument("--out", type=Path, default=Path("mutants.json"))
    return parser.parse_args()


def key(mutant: dict[str, Any]) -> tuple[str, int, str]:
    return mutant["file"], mutant["node"], mutant["how"]


def main() -> None:
    options = arguments()
    if options.again:
        told = json.loads(options.again.read_text())
        keep = [m for m in told if m["outcome"] != "survived"]
        todo = [m for m in told if m["outcome"] == "survived"]
    else:
        keep = json.loads(options.out.read_text()) if options.out.is_file() else []
        done = set(map(key, keep))  # go on where it stopped
        drawn = draw(options.files, options.share, options.seed)[: options.count]
        todo = [m for m in drawn if key(m) not in done]
    prepare()
    shutil.copytree(SOURCE, COPY)
    try:
        attempt(todo, keep, "" if options.again else EAGER, options.out)
    finally:
        shutil.rmtree(COPY.parent)


def attempt(todo: list[Any], keep: list[Any], chosen: str, out: Path) -> None:
    """Run ``todo``; write the outcomes after those of ``keep`` into ``out``, one by one."""
    limits: dict[str, int] = {}
    for mutant in todo:
        name = mutant["file"]
        if name not in limits:
            outcome, used = run(name, None, "", 600, chosen)
            limits[name] = int(10 + 3 * used) if outcome == "survived" else 0
        if not limits[name]:
            print(f"skipped   {name}: its tests fail without a mutant")
            continue
        mutant["outcome"], used = run(name, mutant["node"], mutant["how"], limits[name], chosen)
        keep.append(mutant)
        print(f"{mutant['outcome']:9} {name}:{mutant['line']} {mutant['how']}: {mutant['code']}",
              f"({used:.1f} s)", flush=True)  # fmt: skip
        out.write_text(json.dumps(keep, indent=0))


if __name__ == "__main__":
    main()
