"""Convert public checkpoints of other projects into models, and back.

One file a project, with its key mappings; :mod:`detect` finds the project from the names of the
tensors, :mod:`key_mapping` the key of each tensor here, and checks that network and file match.
"""

from scenewise.models.convert.key_mapping import Plan, convert, make_plan
from scenewise.models.convert.spec import Options

__all__ = ["Options", "Plan", "convert", "make_plan"]
