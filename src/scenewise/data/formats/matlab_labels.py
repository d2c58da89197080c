"""Pixel labels of MATLAB's Image Labeler: ``PixelLabelData/Label_1_NAME.png`` with the images."""

import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

from scenewise.classes import Classes, distinct_colors
from scenewise.data.class_lists import find_class_list
from scenewise.data.formats.label_maps import id_table
from scenewise.data.formats.listing import Listing
from scenewise.data.formats.tool_dataset import MaskDataset, by_split
from scenewise.data.images import SUFFIXES
from scenewise.errors import UserError

_LABEL = re.compile(r"Label_\d+(?:_(.+))?\.png")


class MatlabLabels(MaskDataset):
    """Masks of the IDs that a ``pixelLabelDatastore`` reads; 0, undefined, is ignored.

    The names of the classes are in ``gTruth.mat``, an object that MATLAB alone can read, so they
    are listed in ``classes.json`` with their IDs: ``{"1": "road", "2": "sky"}``.
    """

    title = "MATLAB's Image Labeler"
    needs = "a folder PixelLabelData with files called Label_1_NAME.png"

    @staticmethod
    def recognise(listing: Listing) -> str | None:
        """Why the folder holds MATLAB's pixel labels, if it does."""
        files = _files(listing)
        return f"'{files[0]}' is called as MATLAB's pixel labels" if files else None

    @classmethod
    def parts(cls, listing: Listing) -> dict[str, list[str]]:
        return by_split(_files(listing))

    def find(self, listing: Listing, part: list[str]) -> tuple[list[Path], list[Path], Classes]:
        listed = find_class_list(listing)
        if listed is None or listed.values is None:
            raise UserError(
                f"the names of the IDs in '{listing.root}' are in gTruth.mat, which only MATLAB "
                "reads; list both in "
                f"'{listing.root / 'classes.json'}', like "
                '{"1": "road", "2": "sky"}'
            )
        self.table = id_table({value: k for k, value in enumerate(listed.values)}, ignored=[0])
        by_stem = defaultdict(list)
        for path in listing.paths:
            if path.lower().endswith(SUFFIXES) and not _LABEL.fullmatch(PurePosixPath(path).name):
                by_stem[PurePosixPath(path).stem].append(path)
        images = [listing.root / _image(by_stem, listing, path) for path in part]
        colors = listed.colors or distinct_colors(len(listed.names))
        return images, [listing.root / path for path in part], Classes(listed.names, colors)


def _files(listing: Listing) -> list[str]:
    paths = [path for path in listing.paths if "PixelLabelData" in path]
    return [path for path in paths if _LABEL.fullmatch(PurePosixPath(path).name)]


def _image(by_stem: dict[str, list[str]], listing: Listing, path: str) -> str:
    match = _LABEL.fullmatch(PurePosixPath(path).name)
    stem = match[1] if match else None
    if stem is None:
        raise UserError(
            f"the name of '{listing.root / path}' does not say which image it is of; rename the "
            "labels to Label_1_NAME.png, as newer versions of MATLAB call them"
        )
    found = by_stem.get(stem, [])
    if len(found) != 1:
        raise UserError(
            f"{len(found)} images called '{stem}' are in '{listing.root}', and "
            f"'{PurePosixPath(path).name}' needs one; add it, or rename the others"
        )
    return found[0]
