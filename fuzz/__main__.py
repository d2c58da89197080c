"""``make fuzz``: fuzz every reader for a number of runs and print a table of the results."""

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.marked import replace_marked
from fuzz.targets import TARGETS

FOUND = Path(__file__).parent / "found"
LIMITS = ("-timeout=20", "-rss_limit_mb=4096", "-max_len=16384", "-seed=1", "-use_value_profile=1")
HEAD = "| reader | runs | branches | features | files kept | crashes |\n|---|---|---|---|---|---|\n"
STATUS = re.compile(r"#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)")


def fuzz(name: str, runs: int) -> tuple[str, bool]:
    """The row of a target in the table, and whether no run crashed."""
    FOUND.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(TARGETS[name].seeds()):
            (Path(corpus) / f"seed{number}").write_bytes(seed)
        prefix = f"-artifact_prefix={FOUND / name}-"
        words = [sys.executable, "-m", "fuzz.one", name, f"-runs={runs}", prefix, *LIMITS, corpus]
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    rows = [tuple(map(int, row)) for row in STATUS.findall(done.stderr)]
    count, branches, features, kept = rows[-1] if rows else (0, 0, 0, 0)
    if done.returncode:
        (FOUND / f"{name}.log").write_text(done.stdout + done.stderr)
    crashes = int(done.returncode != 0)  # the first one ends the process
    row = f"| {name} | {count:,} | {branches:,} | {features:,} | {kept:,} | {crashes} |"
    return row, not crashes


def main() -> int:
    """Fuzz the named targets, or all."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--runs", type=int, default=20_000, help="of each target")
    parser.add_argument(
        "--write", action="store_true", help="write the table into docs/security.md"
    )
    args = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed; pip install atheris (Linux and macOS only)")
        return 1
    rows, passed = [], True
    for name in args.names or TARGETS:
        row, clean = fuzz(name, args.runs)
        print(row, flush=True)
        rows.append(row)
        passed = passed and clean
    if args.write:
        replace_marked(Path("docs/security.md"), "fuzz", HEAD + "\n".join(rows))
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
