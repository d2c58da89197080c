"""The options of ``scenewise prepare``."""

import argparse

from scenewise.apps.options.check import FORMAT_HELP, add_reading_arguments
from scenewise.apps.options.source import names

_EXAMPLES = """\
examples:
  scenewise prepare my_images
  scenewise prepare pascal_context VOCdevkit
  scenewise prepare voc_aug data --out voc_aug --split train val
  scenewise prepare cityscapes data --shards 128 --out shards
  scenewise prepare geo map.tif fields.gpkg --rest ignore --out fields

The result is read with --data.format folder. Preparing is optional; it saves time if the labels are
MATLAB files, one large JSON file, or colour images. The originals are only read. Call it again to
resume after an interruption.

geo cuts a raster into windows with masks of polygons, and divides them into training and validation
by regions. It needs the extra: pip install 'scenewise[geo]'.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.epilog = _EXAMPLES
    parser.add_argument("format", metavar="FORMAT", nargs="?", default="auto", help=FORMAT_HELP)
    parser.add_argument("root", metavar="ROOT", help="folder of the dataset; of geo a raster")
    vector = "of geo: polygons (GeoPackage, GeoJSON, FlatGeobuf, Shapefile)"
    parser.add_argument("vector", metavar="VECTOR", nargs="?", help=vector)
    add_reading_arguments(parser)
    parser.add_argument(
        "--out", metavar="DIR", help="folder of the result; default: ROOT/prepared_FORMAT"
    )
    parser.add_argument(
        "--shards", type=int, metavar="N", help="write tar files of N images instead of folders"
    )
    column = "of geo: of the polygons, with the classes; default the only one"
    parser.add_argument("--column", metavar="NAME", help=column)
    rest = "of geo: what pixels without a polygon are, the class background or ignored"
    parser.add_argument("--rest", choices=names("scenewise.data.raster_windows", "Rest"), help=rest)
    window = "of geo: side of a window; default 512"
    parser.add_argument("--window", type=int, default=512, metavar="PIXELS", help=window)
