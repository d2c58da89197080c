"""The options of ``scenewise bench``."""

import argparse

SUBJECTS: dict[str, tuple[str, str]] = {  # each module has rows(repeats), a list of dataclasses
    "attention": ("scenewise.apps.bench.attention", "position attention against the dense formula"),
    "attention_cuda": ("scenewise.apps.bench.attention_cuda", "position attention on a CUDA GPU"),
    "criss_cross": ("scenewise.apps.bench.criss_cross", "criss-cross attention"),
    "model": ("scenewise.apps.bench.model", "a whole DANet, from an image to labels"),
    "predict": ("scenewise.apps.bench.predict", "from image files to labels; start-up"),
    "train": ("scenewise.apps.bench.train", "a training step of a whole DANet"),
    "data": ("scenewise.apps.bench.data", "from an image file to a training crop, one core"),
}
_EXAMPLES = """\
examples:
  scenewise bench attention
  scenewise bench criss_cross --repeats 9 --json
  scenewise bench predict --threads 1
Run it on an idle machine, and compare ratios within one run only.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``scenewise bench``."""
    subjects = "\n".join(f"  {name:14} {text}" for name, (_, text) in SUBJECTS.items())
    parser.epilog = f"subjects:\n{subjects}\n\n{_EXAMPLES}"
    parser.add_argument("subject", choices=list(SUBJECTS), metavar="SUBJECT", help="see below")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the median is reported")
    parser.add_argument("--threads", type=int, help="threads of PyTorch; default: all cores")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
