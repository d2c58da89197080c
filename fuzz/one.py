"""Fuzz one target: ``python -m fuzz.one NAME [options of libFuzzer] CORPUS``."""

import logging
import sys
import warnings

import atheris

# Must be the first import of these, so that the fuzzer sees which bytes reach new code.
with atheris.instrument_imports(include=["PIL", "json", "tarfile", "zipfile", "scenewise"]):
    from PIL import Image

    from fuzz.targets import attempt

    Image.init()  # imports the readers of all file types

from torch._weights_only_unpickler import Unpickler


def main() -> None:
    """Run libFuzzer, which ends the process."""
    name = sys.argv.pop(1)
    warnings.simplefilter("ignore")  # of PIL, on damaged files
    logging.disable()
    Unpickler.load = atheris.instrument_func(Unpickler.load)

    def once(data: bytes) -> None:
        attempt(name, data)

    atheris.Setup(sys.argv, once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
