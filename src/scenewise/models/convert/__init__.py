"""Public checkpoints of other projects become models.

Each family has a file with its key maps; :mod:`recognise` tells the family from the names of the
tensors, :mod:`plan` finds each tensor's place and checks that network and file fit exactly.
"""

from pathlib import Path

from scenewise.models.convert.key_mapping import Plan, fill, make_plan
from scenewise.models.convert.spec import Options
from scenewise.models.segmenter import Segmenter

__all__ = ["Options", "Plan", "convert", "make_plan"]


def convert(file: str | Path, options: Options | None = None) -> Segmenter:
    """The network in a public checkpoint, with its weights, classes and preprocessing.

    Raises:
        UserError: see :func:`make_plan`.
    """
    return fill(make_plan(file, options))
