"""Names and parameters in the source of a module, read without importing it, as PyTorch is slow.

>>> "danet" in names("scenewise.models.zoo", "NETWORKS")
True
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple


class Parameter(NamedTuple):
    """A parameter of a class or function, as its source has it.

    Attributes:
        annotation: its type; empty without one.
        default: its default; empty without one.
        help: its paragraph in the docstring's section "Args".
    """

    annotation: str
    default: str
    help: str


def names(module: str, name: str) -> tuple[str, ...]:
    """The keys of a table, or the values of a tuple or ``Literal``, in a module.

    >>> names("scenewise.exports.runtime", "Backend")
    ('torch', 'onnxruntime', 'openvino')
    """
    value = _assigned(module, name)
    if isinstance(value, ast.Subscript):  # Literal["a", "b"]
        value = value.slice
    if isinstance(value, ast.Dict):
        return tuple(str(ast.literal_eval(key)) for key in value.keys if key is not None)
    parts = value.elts if isinstance(value, ast.Tuple) else [value]
    return tuple(word for part in parts for word in _words(module, part))


def _words(module: str, part: ast.expr) -> tuple[str, ...]:
    """One value; or all those of a table that is imported: ``*FORMATS``."""
    if isinstance(part, ast.Starred) and isinstance(part.value, ast.Name):
        return names(_origin(module, part.value.id), part.value.id)
    return (str(ast.literal_eval(part)),)


def parameters(module: str, owner: str, method: str = "__init__") -> dict[str, Parameter]:
    """The parameters of a method of the class ``owner``, by name, without ``self``.

    >>> parameters("scenewise.data.module", "SegmentationData")["flip"]
    Parameter(annotation='bool', default='True', help='mirror half of the training images.')
    """
    body = next(
        node
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.ClassDef) and node.name == owner
    )
    function = next(n for n in body.body if isinstance(n, ast.FunctionDef) and n.name == method)
    texts = _paragraphs(ast.get_docstring(body) or "") | _paragraphs(
        ast.get_docstring(function) or ""
    )
    every = [*function.args.posonlyargs, *function.args.args][1:] + function.args.kwonlyargs
    plain: list[ast.expr | None] = list(function.args.defaults)
    missing = len(every) - len(function.args.kwonlyargs) - len(plain)
    defaults = [None] * missing + plain + list(function.args.kw_defaults)
    return {
        argument.arg: Parameter(
            _text(argument.annotation), _text(default), texts.get(argument.arg, "")
        )
        for argument, default in zip(every, defaults, strict=True)
    }


def added_options(module: str) -> dict[str, str]:
    """The help of each option that a module adds with ``add_argument("--name", ...)``.

    >>> sorted(added_options("scenewise.apps.fit.lightning_cli"))
    ['budget', 'choose_thresholds', 'ema', 'name', 'save_every', 'without']
    """
    return {
        str(ast.literal_eval(call.args[0]))[2:]: next(
            (str(ast.literal_eval(word.value)) for word in call.keywords if word.arg == "help"), ""
        )
        for call in _calls(module)
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"
    }


def _calls(module: str) -> Iterator[ast.Call]:
    return (node for node in ast.walk(_tree(module)) if isinstance(node, ast.Call))


def _paragraphs(docstring: str) -> dict[str, str]:
    """The text of each entry of the section "Args".

    >>> _paragraphs("Do.\\n\\nArgs:\\n    side: in\\n        pixels.\\n    top: yes.\\n\\nRaises:")
    {'side': 'in pixels.', 'top': 'yes.'}
    """
    section = re.search(r"^Args:\n((?:[ \t].*\n|\n)+)", docstring + "\n", re.MULTILINE)
    entries = re.split(r"^    (\w+): ?", section[1] if section else "", flags=re.MULTILINE)[1:]
    pairs = zip(entries[::2], entries[1::2], strict=True)
    return {name: " ".join(text.replace("``", "").split()) for name, text in pairs}


def _assigned(module: str, name: str) -> ast.expr:
    """What the module assigns to ``name``; the last, as ``else`` follows ``if TYPE_CHECKING``."""
    value: ast.expr | None = None
    for node in ast.walk(_tree(module)):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            value = node.value
    assert value is not None, f"{module} assigns no {name}"
    return value


def _origin(module: str, name: str) -> str:
    """The module that ``name`` is imported from."""
    return next(
        node.module or ""
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names)
    )


def _text(node: ast.expr | None) -> str:
    return "" if node is None else ast.unparse(node)


@cache
def _tree(module: str) -> ast.Module:
    package, *rest = module.split(".")
    spec = find_spec(package)  # imports nothing: the package of a module below would be imported
    assert spec is not None, f"{package} is not installed"
    assert spec.origin is not None
    file = Path(spec.origin).parent.joinpath(*rest)
    file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))
