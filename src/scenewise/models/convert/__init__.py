"""Public checkpoints of other projects become models.

One file a project, with its key maps; :mod:`detect` finds the project from the names of the
tensors, :mod:`key_mapping` the place of each tensor, and checks that network and file fit exactly.
"""

from scenewise.models.convert.key_mapping import Plan, convert, make_plan
from scenewise.models.convert.spec import Options

__all__ = ["Options", "Plan", "convert", "make_plan"]
