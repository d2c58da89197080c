"""Checking a dataset before training: every problem found, with files and a hint."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor

from scenewise.classes import Classes
from scenewise.data.datasets import PairedDataset, Progress, SegmentationDataset
from scenewise.data.doctor.hints import hint_for_colors, hint_for_ids
from scenewise.data.doctor.record import Record, examine
from scenewise.data.doctor.report import MAX_FILES, Finding, Report, SplitReport
from scenewise.data.formats.find_files import PublishedDataset
from scenewise.data.images import read_image
from scenewise.data.missing_files import missing, tolerate_missing
from scenewise.data.value_range import image_format
from scenewise.errors import UserError


def check(
    build: Callable[[str], SegmentationDataset],
    splits: Sequence[str] = ("train", "val"),
    progress: Progress | None = None,
    workers: int | None = None,
) -> Report:
    """Read every image and mask of ``splits`` and report what is wrong.

    Args:
        build: makes the dataset of a split.
        splits: the splits to read.
        progress: wraps an iterable of known length, to show a progress bar.
        workers: threads; ``None`` for a few more than there are processors.
    """
    reports: dict[str, SplitReport] = {}
    findings: list[Finding] = []
    digests: dict[str, dict[bytes, str]] = {}
    datasets: dict[str, SegmentationDataset] = {}
    for split in splits:
        try:
            with tolerate_missing():
                datasets[split] = build(split)
        except UserError as error:
            findings.append(Finding("missing", split, True, str(error)))
    images = _images(datasets, findings)
    for split, dataset in datasets.items():
        records = _read_all(dataset, split, progress, workers)
        reports[split], problems, digests[split] = _summarise(dataset, split, records)
        findings += _missing(dataset, split) + problems + _count(dataset, split)
        findings += [Finding("note", split, False, note) for note in dataset.notes]
    findings += _orphans(datasets) + _duplicates(digests)
    classes = next((dataset.classes for dataset in datasets.values()), None)
    findings += _absent_classes(classes, reports) if classes else []
    ordered = sorted(findings, key=lambda finding: not finding.serious)
    return Report(classes, reports, ordered, images)


def _images(datasets: Mapping[str, SegmentationDataset], findings: list[Finding]) -> str | None:
    """The line about the images; a finding where a split has others than the first one."""
    first: SegmentationDataset | None = None
    line = None
    for split, dataset in datasets.items():
        try:
            if first is None:
                images = image_format(dataset, dataset.layout.channels, pages=dataset.layout.pages)
                first, line = dataset, str(images)
            elif dataset.layout != first.layout:
                message = f"images of {dataset.layout}, but the first split has {first.layout}"
                findings.append(Finding("images", split, True, message))
        except UserError as error:
            findings.append(Finding("images", split, True, str(error)))
    return line


def quick_check(dataset: SegmentationDataset, sample: int = 32) -> list[Finding]:
    """The findings of :func:`quick_look` alone."""
    return quick_look(dataset, sample)[1]


def quick_look(dataset: SegmentationDataset, sample: int = 32) -> tuple[SplitReport, list[Finding]]:
    """Read ``sample`` images, spread evenly, and raise on what training would fail on.

    Returns:
        The statistics of the sample, and the findings that are not serious.

    Raises:
        UserError: an image or mask of the sample is unusable, or all its pixels are ignored.
    """
    count = min(sample, len(dataset))
    indices = [i * len(dataset) // count for i in range(count)]  # evenly spread
    with ThreadPoolExecutor() as pool:
        records = pool.map(lambda index: examine(dataset, index, compare=False), indices)
        report, findings, _ = _summarise(dataset, "sample", records)
    findings += [Finding("note", "sample", False, note) for note in dataset.notes]
    for finding in findings:
        if finding.serious:
            hint = f" (probably: {finding.hint})" if finding.hint else ""
            file = next(iter(finding.files), "")
            where = "" if file in finding.message else f", such as '{file}'"
            raise UserError(
                f"of {count} images read, {finding.message}{where}{hint}; "
                "'scenewise check' reads and lists all of them"
            )
    return report, findings


def _read_all(
    dataset: SegmentationDataset, split: str, progress: Progress | None, workers: int | None
) -> Iterator[Record]:
    indices = _existing(dataset)
    with ThreadPoolExecutor(workers) as pool:
        records: Iterable[Record] = pool.map(lambda i: examine(dataset, i), indices)
        if progress is not None:
            records = progress(records, len(indices), f"reading {split}")
        yield from records


def _existing(dataset: SegmentationDataset) -> Sequence[int]:
    """The images whose files both exist."""
    if not isinstance(dataset, PairedDataset):
        return range(len(dataset))
    absent = {*missing(dataset.images), *missing(dataset.masks)}
    pairs = zip(dataset.images, dataset.masks, strict=True)
    return [i for i, pair in enumerate(pairs) if absent.isdisjoint(pair)]


def _missing(dataset: SegmentationDataset, split: str) -> list[Finding]:
    """Images and masks that the dataset lists but whose files do not exist."""
    if not isinstance(dataset, PairedDataset):
        return []
    findings = []
    for what, files in (("image", dataset.images), ("mask", dataset.masks)):
        if absent := missing(files):
            message = f"{len(absent)} of {_n(files, what)} not found"
            names = tuple(map(str, absent[:MAX_FILES]))
            hint: str | None = "the archive was not extracted whole; extract it again"
            if not isinstance(dataset, PublishedDataset):  # it comes from no archive
                hint = None
            findings.append(Finding("missing", split, True, message, len(absent), names, hint))
    return findings


def _summarise(
    dataset: SegmentationDataset, split: str, records: Iterable[Record]
) -> tuple[SplitReport, list[Finding], dict[bytes, str]]:
    """Statistics, findings, and the file of each image by the hash of its pixels."""
    count, ignore = len(dataset.classes), dataset.classes.ignore_index
    report = SplitReport(images=len(dataset))
    pixels, occurs, stored = (torch.zeros(256, dtype=torch.int64) for _ in range(3))
    bad: dict[str, list[Record]] = {}
    empty, digests = [], {}
    turns: dict[str, list[Record]] = {}
    for record in records:
        if record.ids is not None:
            stored += record.ids > 0  # masks with each id, unusable ones too
        if record.ids is None or record.size is None or record.kind:
            bad.setdefault(record.kind, []).append(record)
            continue
        report.readable += 1
        report.sizes[record.size] += 1
        pixels += record.ids
        occurs += record.ids > 0
        if record.digest:
            digests[record.digest] = _name(dataset, record.index)
        if int(record.ids.sum()) == int(record.ids[ignore]):  # nothing is labelled
            empty.append(record)
        if record.turn:
            turns.setdefault(record.turn, []).append(record)
    report.ignored = int(pixels[ignore])
    pixels[ignore] = occurs[ignore] = 0  # counted in report.ignored
    report.pixels, report.occurs_in = pixels[:count].tolist(), occurs[:count].tolist()
    findings = _bad(split, bad, stored, dataset.classes)
    findings += _ignored(split, report, empty, stored, dataset.classes)
    return report, findings + _orientations(split, turns), digests


def _orientations(split: str, turns: Mapping[str, list[Record]]) -> list[Finding]:
    """Findings on images with an EXIF orientation, by how their masks fit."""
    findings = []
    if stored := turns.get("stored"):
        message = (
            f"{_n(stored, 'mask')} that fit the pixels as stored, before the EXIF orientation of "
            "the images; they are turned with the images"
        )
        findings.append(_finding("orientation", split, False, stored, message))
    if either := turns.get("either"):
        applied = f"{_n(either, 'image')} with an EXIF orientation, which is applied"
        message = f"{applied}; check that the masks have it too"
        if stored:
            message = (
                f"{applied}, though other masks fit the pixels as stored, and the size of these "
                "does not show which they fit; save each image as its mask is, without orientation"
            )
        findings.append(_finding("orientation", split, bool(stored), either, message))
    return findings


def _name(dataset: SegmentationDataset, index: int) -> str:
    if isinstance(dataset, PairedDataset):
        return str(dataset.images[index])
    return dataset.names[index]


def _bad(
    split: str, bad: dict[str, list[Record]], stored: Tensor, classes: Classes
) -> list[Finding]:
    findings = []
    for kind, records in bad.items():
        hint = None
        message = f"{_n(records, kind)}: {records[0].error}"
        if kind == "wrong ids":
            hint = hint_for_ids(stored.nonzero().flatten().tolist(), classes)
            if outside := _outside(records, classes):
                masks = _n(records, "mask")
                message = f"{masks} with ids outside the {len(classes)} classes: {outside}"
        elif kind == "colour mask":
            hint = _color_hint(Path(records[0].file), classes)
        findings.append(_finding(kind, split, True, records, message, hint))
    return findings


def _color_hint(path: Path, classes: Classes) -> str | None:
    try:
        return hint_for_colors(read_image(path).permute(1, 2, 0).numpy(), classes)  # (H, W, 3)
    except UserError:
        return None


def _outside(records: list[Record], classes: Classes) -> str:
    """The unknown ids, how many pixels have them, in how many masks."""
    pixels, masks = (torch.zeros(256, dtype=torch.int64) for _ in range(2))
    for record in records:
        if record.ids is not None:
            pixels += record.ids
            masks += record.ids > 0
    pixels[: len(classes)] = 0
    pixels[classes.ignore_index] = 0
    unknown = pixels.nonzero().flatten().tolist()
    listed = [f"{k} ({int(pixels[k])} pixels in {int(masks[k])})" for k in unknown[:8]]
    return ", ".join(listed) + (", ..." if len(unknown) > 8 else "")


def _ignored(
    split: str, report: SplitReport, empty: list[Record], stored: Tensor, classes: Classes
) -> list[Finding]:
    findings = []
    if report.readable and len(empty) == report.readable:
        message = "every pixel of every readable mask is ignored"
        findings.append(_finding("ignored", split, True, empty, message))
    elif empty:
        message = f"{_n(empty, 'mask')} with ignored pixels only"
        findings.append(_finding("ignored", split, False, empty, message))
    if report.ignored_share > 0.5 and len(empty) < report.readable:
        message = f"{report.ignored_share:.0%} of the pixels are ignored"
        findings.append(Finding("ignored", split, False, message))
    hint = hint_for_ids(stored.nonzero().flatten().tolist(), classes)
    if hint and report.readable == report.images:
        message = "the masks hold 0 and 255 only"
        findings.append(Finding("two values", split, True, message, hint=hint))
    return findings


def _count(dataset: SegmentationDataset, split: str) -> list[Finding]:
    published = getattr(dataset, "published_count", None)
    if published in (None, len(dataset)):
        return []
    message = f"{_n(dataset.names, 'image')}, but {published} were published; is a part missing?"
    return [Finding("count", split, False, message)]


def _orphans(datasets: Mapping[str, SegmentationDataset]) -> list[Finding]:
    """Mask files without an image."""
    findings: list[Finding] = []
    seen: set[tuple[Path, str]] = set()
    for split, dataset in datasets.items():
        if not isinstance(dataset, PairedDataset):
            continue
        for image, mask in zip(dataset.images, dataset.masks, strict=True):
            shared = _shared(mask.name, image.name)
            where = (mask.parent, mask.name[shared:] or mask.suffix)
            if where in seen or not mask.parent.is_dir():  # once for each folder
                continue
            seen.add(where)
            if lone := _without_image(*where, image.parent, image.name[shared:]):
                files = tuple(map(str, lone[:MAX_FILES]))
                message = f"{_n(lone, 'mask')} without an image"
                findings.append(Finding("orphans", split, False, message, len(lone), files))
    return findings


def _shared(one: str, other: str) -> int:
    """The length of the common prefix of two texts."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _without_image(masks: Path, ending: str, images: Path, image_ending: str) -> list[Path]:
    """Files ``masks/*ENDING`` without a file of the same name in the folder ``images``."""
    names = set(os.listdir(images))
    stems = {Path(name).stem for name in names}
    return [
        path
        for path in sorted(masks.glob(f"*{ending}"))
        if path.name.removesuffix(ending) + image_ending not in names and path.stem not in stems
    ]


def _duplicates(digests: dict[str, dict[bytes, str]]) -> list[Finding]:
    """Images of the first split that are also, pixel for pixel, in another one."""
    findings = []
    first, *others = digests or {"": {}}  # names of the splits
    for other in others:
        same = sorted(digests[other][key] for key in digests[first].keys() & digests[other].keys())
        if same:
            serious = len(same) * 100 >= len(digests[other])  # 1 %
            message = f"{_n(same, 'image')} of {other} also in {first}"
            files = tuple(same[:MAX_FILES])
            findings.append(Finding("duplicates", other, serious, message, len(same), files))
    return findings


def _absent_classes(classes: Classes, reports: dict[str, SplitReport]) -> list[Finding]:
    """Classes that never occur or have the ignored id, and training splits of one class."""
    findings = []
    if reports and classes.ignore_index < len(classes):
        name = classes.names[classes.ignore_index]
        message = f"class '{name}' has the ignored id and is neither trained nor scored"
        findings.append(Finding("ignored class", next(iter(reports)), False, message))
    for split, report in reports.items():
        counted = [
            (name, images)
            for k, (name, images) in enumerate(zip(classes.names, report.occurs_in, strict=True))
            if k != classes.ignore_index
        ]
        absent = [name for name, images in counted if not images]
        present = len(counted) - len(absent)
        if absent and report.readable:
            some = ", ".join(absent[:MAX_FILES]) + (", ..." if len(absent) > MAX_FILES else "")
            message = f"{len(absent)} of {len(classes)} classes never occur: {some}"
            findings.append(Finding("absent classes", split, False, message, len(absent)))
        if split == "train" and report.readable and present == 1 and len(classes) > 1:
            message = "only one class occurs, so there is nothing to learn"
            findings.append(Finding("one class", split, True, message))
    return findings


def _finding(
    kind: str,
    split: str,
    serious: bool,
    records: list[Record],
    message: str,
    hint: str | None = None,
) -> Finding:
    files = tuple(record.file for record in records[:MAX_FILES])
    return Finding(kind, split, serious, message, len(records), files, hint)


def _n(things: Sequence[object], what: str) -> str:
    plural = what if what.endswith("s") or len(things) == 1 else f"{what}s"
    return f"{len(things)} {plural}"
