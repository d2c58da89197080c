"""Public checkpoints of other projects become models.

One file a project, with its key maps; :mod:`detect` finds the project from the names of the
tensors, :mod:`key_mapping` the place of each tensor, and checks that network and file fit exactly.
Names load on first use: a backbone needs :mod:`resnet_keys` alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scenewise.models.convert.key_mapping import Plan, convert, make_plan
    from scenewise.models.convert.spec import Options

__all__ = ["Options", "Plan", "convert", "make_plan"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'scenewise.models.convert' has no attribute '{name}'")
    home = "spec" if name == "Options" else "key_mapping"
    return getattr(import_module(f"scenewise.models.convert.{home}"), name)
