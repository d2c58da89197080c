"""``scenewise prepare``: rewrite a dataset as images and class-id masks, or as shards."""

import argparse
from pathlib import Path

from scenewise.apps.check import check_workers, open_source, progress, with_layout
from scenewise.data.datasets import SegmentationDataset
from scenewise.data.prepare import prepare
from scenewise.data.shards import write_shards
from scenewise.errors import UserError


def run(args: argparse.Namespace) -> None:
    """Write the prepared dataset and print where it is.

    Raises:
        UserError: an original is unusable, or the folder is not writable.
    """
    check_workers(args.workers)
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
