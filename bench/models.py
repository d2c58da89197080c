"""Compute the rows that ``scenewise models`` prints without options, and store them.

python -m bench.models
"""

import json

from scenewise.apps.models import STORED, compute_row
from scenewise.apps.options.models import SETTINGS
from scenewise.files import write_text
from scenewise.models.build import list_models


def main() -> None:
    """Write the table that comes with the package."""
    rows = [compute_row(name, SETTINGS) for name in list_models()]
    write_text(STORED, "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


if __name__ == "__main__":
    main()
