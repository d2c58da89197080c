"""``scenewise prepare``: rewrite a dataset as images and class-id masks, or as shards."""

import argparse
from pathlib import Path

from scenewise.apps.check import check_workers, progress, with_layout
from scenewise.data.datasets import SegmentationDataset
from scenewise.data.formats import FORMATS
from scenewise.data.prepare import prepare
from scenewise.data.shards import write_shards
from scenewise.errors import UserError


def run(args: argparse.Namespace) -> None:
    """Write the prepared dataset and print where it is.

    Raises:
        UserError: an original is unusable, or the folder is not writable.
    """
    check_workers(args.workers)
    out = args.out or Path(args.root) / f"prepared_{args.format}"

    def build(split: str) -> SegmentationDataset:
        return with_layout(FORMATS[args.format].open(args.root, split, None), args)

    if args.shards is None:
        prepare(build, out, args.split, progress, args.workers)
    elif args.shards < 1:
        raise UserError(f"--shards is {args.shards}; give 1 or more images a shard")
    else:
        write_shards(build, out, args.split, progress, args.workers, args.shards)
    layout = "folder" if args.shards is None else "stream"
    print(f"written to {out}; use --data.format {layout} --data.root {out}")
