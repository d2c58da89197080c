"""Doctests that need an extra are skipped, with its name, where it is not installed."""

from importlib.util import find_spec

import pytest

NEEDS = {"scenewise.visualize.gradient.gradient_map": ("captum", "gradient")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them; an item of a doctest is named as what it documents."""
    for item in items:
        package, extra = NEEDS.get(item.name, (None, None))
        if package is not None and find_spec(package) is None:
            item.add_marker(pytest.mark.skip(reason=f"the extra {extra} is not installed"))
