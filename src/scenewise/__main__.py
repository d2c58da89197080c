"""``python -m scenewise`` is the command ``scenewise``."""

import sys

from scenewise.apps.cli import main

if __name__ == "__main__":
    sys.exit(main())
