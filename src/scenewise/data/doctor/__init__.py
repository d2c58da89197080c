"""What is wrong with a data set, found before training does."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scenewise.classes import Classes
from scenewise.data.datasets import FolderDataset, PairedDataset, SegmentationDataset
from scenewise.data.doctor.hints import guess, guess_colors
from scenewise.data.doctor.record import Record, examine
from scenewise.data.doctor.report import NAMED, Finding, Report, SplitReport
from scenewise.data.images import read_image
from scenewise.data.missing_files import left_to_the_check, missing
from scenewise.errors import UserError

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]


def check(
    build: Callable[[str], SegmentationDataset],
    splits: Sequence[str] = ("train", "val"),
    progress: Progress | None = None,
    workers: int | None = None,
) -> Report:
    """Read every picture and mask of ``splits`` and report what is wrong.

    Args:
        build: makes the data set of a split.
        splits: which ones to read.
        progress: wraps an iterable of known length with a description, to show how far it is.
        workers: threads; ``None`` for as many as there are processors and a few more.
    """
    reports: dict[str, SplitReport] = {}
    findings: list[Finding] = []
    digests: dict[str, dict[bytes, str]] = {}
    datasets: dict[str, SegmentationDataset] = {}
    for split in splits:
        try:
            with left_to_the_check():
                datasets[split] = build(split)
        except UserError as error:
            findings.append(Finding("missing", split, True, str(error)))
    for split, dataset in datasets.items():
        records = _read_all(dataset, split, progress, workers)
        reports[split], found, digests[split] = _summarise(dataset, split, records)
        findings += _lost(dataset, split) + found + _count(dataset, split)
    findings += _orphans(datasets) + _duplicates(digests)
    classes = next((dataset.classes for dataset in datasets.values()), None)
    findings += _unlearnt(classes, reports) if classes else []
    return Report(classes, reports, sorted(findings, key=lambda finding: not finding.serious))


def quick_check(dataset: SegmentationDataset, sample: int = 32) -> list[Finding]:
    """Read ``sample`` pictures, spread evenly, and refuse what training would fail on.

    Returns:
        What is odd but no reason to stop.

    Raises:
        UserError: a picture or mask of the sample is unusable, or all its pixels are ignored.
    """
    count = min(sample, len(dataset))
    indices = [i * len(dataset) // count for i in range(count)]
    with ThreadPoolExecutor() as pool:
        records = pool.map(lambda index: examine(dataset, index, compare=False), indices)
        _, findings, _ = _summarise(dataset, "sample", records)
    for finding in findings:
        if finding.serious:
            reason = f" (probably: {finding.guess})" if finding.guess else ""
            file = next(iter(finding.files), "")
            where = "" if file in finding.message else f", such as '{file}'"
            raise UserError(
                f"of {count} pictures read, {finding.message}{where}{reason}; "
                "'scenewise check' reads and lists all of them"
            )
    return findings


def _read_all(
    dataset: SegmentationDataset, split: str, progress: Progress | None, workers: int | None
) -> Iterator[Record]:
    there = _there(dataset)
    with ThreadPoolExecutor(workers) as pool:
        records: Iterable[Record] = pool.map(lambda i: examine(dataset, i), there)
        if progress is not None:
            records = progress(records, len(there), f"reading {split}")
        yield from records


def _there(dataset: SegmentationDataset) -> Sequence[int]:
    """The pictures whose files are both there."""
    if not isinstance(dataset, PairedDataset):
        return range(len(dataset))
    lost = {*missing(dataset.images), *missing(dataset.masks)}
    pairs = zip(dataset.images, dataset.masks, strict=True)
    return [i for i, pair in enumerate(pairs) if lost.isdisjoint(pair)]


def _lost(dataset: SegmentationDataset, split: str) -> list[Finding]:
    """Pictures and masks that the data set names and that are not there."""
    if not isinstance(dataset, PairedDataset):
        return []
    findings = []
    for what, files in (("picture", dataset.images), ("mask", dataset.masks)):
        lost = missing(files)
        if lost:
            message = f"{len(lost)} of {_n(files, what)} not there"
            reason = "the archive was not extracted whole; extract it again"
            own = isinstance(dataset, FolderDataset)
            names = tuple(map(str, lost[:NAMED]))
            findings.append(
                Finding("missing", split, True, message, len(lost), names, None if own else reason)
            )
    return findings


def _summarise(
    dataset: SegmentationDataset, split: str, records: Iterable[Record]
) -> tuple[SplitReport, list[Finding], dict[bytes, str]]:
    """Statistics, findings, and the file of each picture by the hash of its pixels."""
    count, ignore = len(dataset.classes), dataset.classes.ignore_index
    report = SplitReport(pictures=len(dataset))
    pixels, occurs, stored = (torch.zeros(256, dtype=torch.int64) for _ in range(3))
    bad: dict[str, list[Record]] = {}
    empty, turned, digests = [], [], {}
    for record in records:
        if record.ids is not None:
            stored += record.ids > 0
        if record.ids is None or record.size is None or record.kind:
            bad.setdefault(record.kind, []).append(record)
            continue
        report.readable += 1
        report.sizes[record.size] += 1
        pixels += record.ids
        occurs += record.ids > 0
        digests[record.digest] = _picture(dataset, record.index)
        if int(record.ids.sum()) == int(record.ids[ignore]):
            empty.append(record)
        if record.turned:
            turned.append(record)
    report.ignored = int(pixels[ignore])
    pixels[ignore] = occurs[ignore] = 0
    report.pixels, report.occurs_in = pixels[:count].tolist(), occurs[:count].tolist()
    findings = _bad(split, bad, stored, dataset.classes)
    findings += _ignored(split, report, empty, stored, dataset.classes)
    if turned:
        findings.append(
            _finding(
                "orientation",
                split,
                False,
                turned,
                f"{_n(turned, 'picture')} with an EXIF orientation, turned as it says; see that "
                "the masks are turned too",
            )
        )
    return report, findings, digests


def _picture(dataset: SegmentationDataset, index: int) -> str:
    if isinstance(dataset, PairedDataset):
        return str(dataset.images[index])
    return dataset.names[index]


def _bad(
    split: str, bad: dict[str, list[Record]], stored: Tensor, classes: Classes
) -> list[Finding]:
    findings = []
    for kind, records in bad.items():
        reason = None
        message = f"{_n(records, kind)}: {records[0].error}"
        if kind == "wrong ids":
            reason = guess(stored.nonzero().flatten().tolist(), classes)
            outside = _outside(records, classes)
            if outside:
                message = (
                    f"{_n(records, 'mask')} with ids outside the {len(classes)} classes: {outside}"
                )
        elif kind == "colour mask":
            reason = _color_guess(Path(records[0].file), classes)
        findings.append(_finding(kind, split, True, records, message, reason))
    return findings


def _color_guess(path: Path, classes: Classes) -> str | None:
    try:
        return guess_colors(read_image(path).permute(1, 2, 0).numpy(), classes)
    except UserError:
        return None


def _outside(records: list[Record], classes: Classes) -> str:
    """Which ids are no class, how many pixels have them, in how many masks."""
    pixels, masks = (torch.zeros(256, dtype=torch.int64) for _ in range(2))
    for record in records:
        if record.ids is not None:
            pixels += record.ids
            masks += record.ids > 0
    pixels[: len(classes)] = 0
    pixels[classes.ignore_index] = 0
    found = pixels.nonzero().flatten().tolist()
    told = [f"{k} ({int(pixels[k])} pixels in {int(masks[k])})" for k in found[:8]]
    return ", ".join(told) + (", ..." if len(found) > 8 else "")


def _ignored(
    split: str, report: SplitReport, empty: list[Record], stored: Tensor, classes: Classes
) -> list[Finding]:
    findings = []
    if report.readable and len(empty) == report.readable:
        message = "every pixel of every readable mask is ignored"
        findings.append(_finding("ignored", split, True, empty, message))
    elif empty:
        message = f"{_n(empty, 'mask')} with nothing but ignored pixels"
        findings.append(_finding("ignored", split, False, empty, message))
    if report.ignored_share > 0.5 and len(empty) < report.readable:
        message = f"{report.ignored_share:.0%} of the pixels are ignored"
        findings.append(Finding("ignored", split, False, message))
    binary = guess(stored.nonzero().flatten().tolist(), classes)
    if binary and report.readable == report.pictures:
        message = "the masks hold 0 and 255 and nothing else"
        findings.append(Finding("two values", split, True, message, guess=binary))
    return findings


def _count(dataset: SegmentationDataset, split: str) -> list[Finding]:
    published = getattr(dataset, "published_count", None)
    if published in (None, len(dataset)):
        return []
    message = f"{_n(dataset.names, 'picture')}, but {published} were published; is a part missing?"
    return [Finding("count", split, False, message)]


def _orphans(datasets: Mapping[str, SegmentationDataset]) -> list[Finding]:
    """Mask files whose picture does not exist."""
    findings: list[Finding] = []
    seen: set[tuple[Path, str]] = set()
    for split, dataset in datasets.items():
        if not isinstance(dataset, PairedDataset):
            continue
        for image, mask in zip(dataset.images, dataset.masks, strict=True):
            shared = _shared(mask.name, image.name)
            where = (mask.parent, mask.name[shared:] or mask.suffix)
            if where in seen or not mask.parent.is_dir():
                continue
            seen.add(where)
            lost = _without_picture(*where, image.parent, image.name[shared:])
            if lost:
                files = tuple(map(str, lost[:NAMED]))
                message = f"{_n(lost, 'mask')} without a picture"
                findings.append(Finding("orphans", split, False, message, len(lost), files))
    return findings


def _shared(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _without_picture(masks: Path, ending: str, images: Path, image_ending: str) -> list[Path]:
    """Files ``masks/*ENDING`` that no file of the folder ``images`` goes with."""
    names = set(os.listdir(images))
    stems = {Path(name).stem for name in names}
    return [
        path
        for path in sorted(masks.glob(f"*{ending}"))
        if path.name.removesuffix(ending) + image_ending not in names and path.stem not in stems
    ]


def _duplicates(digests: dict[str, dict[bytes, str]]) -> list[Finding]:
    """Pictures of the first split that stand, pixel for pixel, in another one as well."""
    findings = []
    first, *others = digests or {"": {}}
    for other in others:
        same = sorted(digests[other][key] for key in digests[first].keys() & digests[other].keys())
        if same:
            serious = len(same) * 100 >= len(digests[other])
            message = f"{_n(same, 'picture')} of {other} also in {first}"
            files = tuple(same[:NAMED])
            findings.append(Finding("duplicates", other, serious, message, len(same), files))
    return findings


def _unlearnt(classes: Classes, reports: dict[str, SplitReport]) -> list[Finding]:
    """Classes that never occur or have the ignored id, and trainings of one class."""
    findings = []
    if reports and classes.ignore_index < len(classes):
        name = classes.names[classes.ignore_index]
        message = f"class '{name}' has the ignored id and is neither trained nor scored"
        findings.append(Finding("ignored class", next(iter(reports)), False, message))
    for split, report in reports.items():
        counted = [
            (name, pictures)
            for k, (name, pictures) in enumerate(zip(classes.names, report.occurs_in, strict=True))
            if k != classes.ignore_index
        ]
        absent = [name for name, pictures in counted if not pictures]
        present = len(counted) - len(absent)
        if absent and report.readable:
            some = ", ".join(absent[:NAMED]) + (", ..." if len(absent) > NAMED else "")
            message = f"{len(absent)} of {len(classes)} classes never occur: {some}"
            findings.append(Finding("absent classes", split, False, message, len(absent)))
        if split == "train" and report.readable and present == 1 and len(classes) > 1:
            message = "one class is all there is to learn"
            findings.append(Finding("one class", split, True, message))
    return findings


def _finding(
    kind: str,
    split: str,
    serious: bool,
    records: list[Record],
    message: str,
    reason: str | None = None,
) -> Finding:
    files = tuple(record.file for record in records[:NAMED])
    return Finding(kind, split, serious, message, len(records), files, reason)


def _n(things: Sequence[object], what: str) -> str:
    plural = what if what.endswith("s") or len(things) == 1 else f"{what}s"
    return f"{len(things)} {plural}"
