"""``scenewise prepare``: rewrite a dataset as images and class-id masks, or as shards."""

import argparse
from pathlib import Path

from scenewise.apps.check import check_workers, open_source, progress, with_layout
from scenewise.data.datasets import SegmentationDataset
from scenewise.data.prepare import prepare
from scenewise.data.raster_windows import cut_windows
from scenewise.data.shards import write_shards
from scenewise.errors import UserError


def run(args: argparse.Namespace) -> None:
    """Write the prepared dataset and print where it is.

    Raises:
        UserError: an original is unusable, or the folder is not writable.
    """
    check_workers(args.workers)
    if args.format == "geo":
        _cut(args)
        return
    if args.vector is not None:
        raise UserError(f"too many arguments: '{args.vector}'; only geo takes RASTER VECTOR")
    source = open_source(args)
    out = args.out or Path(args.root) / f"prepared_{source.format}"

    def build(split: str) -> SegmentationDataset:
        return with_layout(source.dataset(split), args)

    print(source.describe({args.split[0]: source.dataset(args.split[0])}))
    if args.shards is None:
        prepare(build, out, args.split, progress, args.workers)
    elif args.shards < 1:
        raise UserError(f"--shards is {args.shards}; give 1 or more images a shard")
    else:
        write_shards(build, out, args.split, progress, args.workers, args.shards)
    layout = "folder" if args.shards is None else "stream"
    print(f"written to {out}; use --data.format {layout} --data.root {out}")


def _cut(args: argparse.Namespace) -> None:
    """``prepare geo RASTER VECTOR``."""
    if args.vector is None:
        raise UserError("prepare geo takes a raster and a vector file; give both")
    if args.shards is not None:
        raise UserError("prepare geo writes folders; prepare its result again with --shards")
    if args.rest is None:
        raise UserError(
            "pixels without a polygon can be a class of their own or unknown; give --rest "
            "background or --rest ignore"
        )
    if args.window < 32:
        raise UserError(f"--window is {args.window}; give 32 or more pixels")
    raster = Path(args.root)
    out = Path(args.out) if args.out else raster.with_name(f"prepared_{raster.stem}")
    written = cut_windows(
        raster,
        Path(args.vector),
        out,
        rest=args.rest,
        column=args.column,
        side=args.window,
        val_share=args.val_share,
        progress=progress,
    )
    names, counts = ", ".join(written.classes.names), written.windows
    print(f"{counts['train']} windows for training, {counts['val']} for validation: {names}")
    print("\n".join([*written.notes, f"written to {out}; use --data.root {out}"]))
