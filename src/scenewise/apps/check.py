"""``scenewise check``: read every label before training and report what is wrong."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from scenewise.classes import Classes
from scenewise.data.datasets import SegmentationDataset
from scenewise.data.doctor import check
from scenewise.data.doctor.contact_sheet import write_contact_sheet
from scenewise.data.doctor.report import Finding, Report, SplitReport
from scenewise.data.formats.label_option import parse_labels
from scenewise.data.formats.recognise import Source
from scenewise.data.layout import common_layout
from scenewise.data.missing_files import tolerate_missing
from scenewise.errors import UserError


def run(args: argparse.Namespace) -> None:
    """Print the report; exit with code 1 if it has a serious finding.

    Raises:
        UserError: the layout or the labels can be read in two ways or none, ``--workers`` is not
            positive, or the sheet cannot be written.
    """
    check_workers(args.workers)
    parse_labels(args.labels)
    opened: dict[str, SegmentationDataset] = {}
    found: dict[str, str] = {"root": args.root, "format": args.format}
    try:
        source = open_source(args)
    except UserError as error:
        report = Report(None, {}, [Finding("layout", "all", True, str(error))])
    else:

        def build(split: str) -> SegmentationDataset:
            opened[split] = with_layout(source.dataset(split), args)
            return opened[split]

        report = check(build, args.split, progress, args.workers)
        found["format"] = source.format
        if opened:
            found["read_as"] = source.describe(opened)
    if args.json:
        print(json.dumps(report.to_dict() | found, indent=2))
    else:
        print("\n".join([*filter(None, [found.get("read_as")]), *_lines(report)]))
    if args.out and opened:
        write_contact_sheet(opened, Path(args.out))
    if not report.ok:
        raise SystemExit(1)


def with_layout(dataset: SegmentationDataset, args: argparse.Namespace) -> SegmentationDataset:
    """The dataset, whose images are read as ``--channels`` and ``--pages`` say."""
    if args.channels or args.pages:
        pages = args.pages is not None
        dataset.layout = common_layout(dataset.kinds(pages=pages), args.channels, pages=pages)
    return dataset


def open_source(args: argparse.Namespace) -> Source:
    """The data that the arguments of :func:`add_reading_arguments` describe."""
    with tolerate_missing():
        return Source(
            args.root,
            args.format,
            labels=args.labels,
            without_mask=args.without_mask,
            val_share=args.val_share,
            splits=args.splits,
        )


def check_workers(workers: int | None) -> None:
    """Raise a UserError for less than one thread."""
    if workers is not None and workers < 1:
        raise UserError(f"--workers is {workers}; give 1 or more")


def progress(items: Iterable[Any], total: int, text: str) -> Iterable[Any]:
    """Show a progress bar on the error stream if it is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:  # a log file
        return items
    return track(items, text, total, console=console, transient=True)


def _lines(report: Report) -> list[str]:
    lines = [_summary(name, split) for name, split in report.splits.items()]
    lines += [report.images] if report.images else []
    if report.classes is not None and any(split.readable for split in report.splits.values()):
        lines += _histogram(report.splits, report.classes)
    lines += [str(finding) for finding in report.findings]
    serious = sum(finding.serious for finding in report.findings)
    notes = len(report.findings) - serious
    verdict = "fit to train on" if report.ok else "not fit to train on"
    return [*lines, f"{verdict} (errors: {serious}, notes: {notes})"]


def _summary(name: str, split: SplitReport) -> str:
    sizes = [f"{h} x {w}" for (h, w), _ in split.sizes.most_common(3)]
    more = f" and {len(split.sizes) - 3} other sizes" if len(split.sizes) > 3 else ""
    return (
        f"{name}: {split.readable} of {split.images} images usable, "
        f"{', '.join(sizes) or 'no size'}{more}, {split.ignored_share:.1%} of the pixels ignored"
    )


def _histogram(splits: dict[str, SplitReport], classes: Classes) -> list[str]:
    """One line for each class: its share of the pixels, and how many images have it."""
    width = max(map(len, classes.names))
    head = "".join(f"{f'{split} pixels':>15}{'images':>10}" for split in splits)
    lines = [f"{'class':{width}}{head}"]
    for k, name in enumerate(classes.names):
        cells = ""
        for split in splits.values():
            share = split.pixels[k] / max(1, sum(split.pixels))
            cells += f"{share:15.3%}{split.occurs_in[k]:10d}"
        lines.append(f"{name:{width}}{cells}")
    return lines
