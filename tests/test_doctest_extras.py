"""Doctests that need an extra, which the conftest of the root skips by name."""

import doctest
import importlib.util
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def root() -> Any:
    spec = spec_from_file_location("root_conftest", ROOT / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("spec", [None, ModuleSpec("captum", None)])
def test_skipped_where_the_extra_is_missing(
    root: Any, monkeypatch: pytest.MonkeyPatch, spec: ModuleSpec | None
) -> None:
    monkeypatch.setattr(root, "find_spec", lambda package: spec)
    for name in (*root.NEEDS, "scenewise.visualize.gradient_figure.reach"):
        marks: list[pytest.MarkDecorator] = []
        root.pytest_collection_modifyitems([SimpleNamespace(name=name, add_marker=marks.append)])
        expected = ["the extra gradient is not installed"] * (spec is None and name in root.NEEDS)
        assert [mark.kwargs["reason"] for mark in marks] == expected


def test_every_name_has_a_doctest(root: Any) -> None:
    assert importlib.util.find_spec is root.find_spec
    for name in root.NEEDS:
        assert doctest.DocTestParser().get_examples(resolve_name(name).__doc__ or "")
