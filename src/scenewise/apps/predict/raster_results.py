"""RasterResults: labels of a raster of any size, block by block, as GeoTIFF and polygons."""

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from scenewise.apps.predict.image_results import GEOJSON, image_options
from scenewise.apps.predict.manifest import Record, is_finished
from scenewise.data.geotiff import Content, write_geotiff
from scenewise.data.rasters import Block, Raster, blocks, open_raster, with_halo
from scenewise.data.vectors import VectorFormat, write_polygons
from scenewise.errors import UserError
from scenewise.files import atomic_write, write_json
from scenewise.inference.auto_window import AutoWindowPredictor
from scenewise.inference.predictor import layout_of
from scenewise.visualize.overlay import NOTE

Bands = Literal["confidence", "probabilities"]
_STEPS = 254  # a probability p is stored as round(254 p); 255 is no data
_NO_DATA = 255
_POLYGON_SIDE = 4096  # pixels; polygons are cut there
Progress = Callable[[str, int, int], object]
_Layers = dict[str, NDArray[np.uint8]]  # (bands, H, W) by the folder of the result


@dataclass(frozen=True)
class RasterResults:
    """Labels a raster and writes GeoTIFFs where it was, in the order of its pixels.

    Each block is predicted with a halo, whose results are dropped, so that a pixel at a border of
    blocks sees what is around it. Finished blocks are kept in a folder until the raster is done;
    the next run continues there.

    Args:
        args: the options of the command.
        predictor: what labels a block.
        out: the folder to write.
    """

    args: argparse.Namespace
    predictor: AutoWindowPredictor
    out: Path

    def files(self, name: str) -> list[Path]:
        """The files written for the raster ``name``; the last one is written last."""
        layers = self._layers(name)
        return [self._vectors(name), *layers] if self.args.vectors else layers

    def record(self, record: Record) -> Record:
        """``record`` with the options that rasters alone have."""
        layers = sorted(self.args.bands or ())
        return {**record, "blocks": [self.args.block, self.args.halo, layers]}

    def predict(
        self,
        file: Path,
        name: str,
        record: Record,
        progress: Progress = lambda step, done, total: None,
    ) -> str | None:
        """Label the raster ``file`` and write its results.

        Args:
            file: what :func:`~scenewise.data.rasters.open_raster` opens.
            name: of the results.
            record: what they depend on, see :meth:`record`.
            progress: called with the name of a step, and how many of its blocks are done.

        Returns:
            A note for the user, if the raster has no coordinate reference system.

        Raises:
            UserError: options that are not for rasters, a damaged file, or a full disk; finished
                blocks are kept.
        """
        self._check_options()
        layers = self._layers(name)
        if self.args.again or not is_finished(layers, record):
            for kind in get_args(VectorFormat):  # of other labels
                (self.out / "vectors" / f"{name}.{kind}").unlink(missing_ok=True)
            self._write_layers(file, name, record, progress)
        with open_raster(layers[-1]) as labels:
            reference = labels.reference
            if self.args.vectors:
                write_polygons(
                    self._vectors(name),
                    labels.size,
                    _POLYGON_SIDE,
                    _counted(
                        lambda square: labels.stored(square)[0],
                        partial(progress, "polygons"),
                        sum(1 for _ in blocks(labels.size, _POLYGON_SIDE)),
                    ),
                    reference,
                    self.predictor.model.classes,
                )
        has_crs = reference.crs or reference.gcps[1]
        return None if has_crs else f"'{file}' has no CRS, so its labels have none either"

    def _layers(self, name: str) -> list[Path]:
        layers = sorted(self.args.bands or ())
        return [self.out / layer / f"{name}.tif" for layer in (*layers, "labels")]

    def _vectors(self, name: str) -> Path:
        return self.out / "vectors" / f"{name}.{self.args.vectors}"

    def _write_layers(self, file: Path, name: str, record: Record, progress: Progress) -> None:
        """Predict the blocks that are not kept from an earlier run, then write the GeoTIFFs."""
        side = self.args.block
        rows = side + 2 * self.args.halo
        with open_raster(file, layout_of(self.predictor.model), rows) as raster:
            store = _BlockStore(self._folder(name), record)
            todo = list(blocks(raster.size, side))
            for done, block in enumerate(todo):
                progress("predict", done, len(todo))
                if not store.has(block):
                    store.save(block, self._label(raster, block))
            progress("predict", len(todo), len(todo))
            for path in self._layers(name):
                layer = path.relative_to(self.out).parts[0]
                content, step = self._content(layer, record), partial(progress, f"write {layer}")
                read = _counted(partial(store.read, layer), step, 2 * len(todo))  # and compared
                write_geotiff(path, raster.size, side, read, raster.reference, content)
        store.remove()

    def _folder(self, name: str) -> Path:
        labels = self.out / "labels" / f"{name}.tif"
        return labels.with_name(f".{labels.name}.blocks")

    def _label(self, raster: Raster, block: Block) -> _Layers:
        """The results of one block, each (bands, H, W)."""
        around = with_halo(block, raster.size, self.args.block, self.args.halo)
        values, known = raster.read(around)
        inner = tuple(
            slice(first - start, last - start)
            for (first, last), (start, _) in zip(block, around, strict=True)
        )
        classes, wanted = self.predictor.model.classes, self.args.bands or ()
        if not known[inner].any():
            return _without_data(block, len(classes), classes.ignore_index, wanted)
        if "probabilities" in wanted:
            scores = self.predictor.scores(values)[(slice(None), *inner)].cpu()  # (K, H, W)
            labels, confidence = self.predictor.decide(scores)
        else:
            prediction = self.predictor(values)
            labels, confidence = prediction.labels[inner], prediction.confidence[inner]
        empty = ~known[inner]
        if self.args.sure is not None:
            labels[confidence < self.args.sure] = classes.ignore_index
        ids = labels.numpy().astype(np.uint8)
        ids[empty] = classes.ignore_index
        layers = {"labels": ids[None]}
        if "confidence" in wanted:
            layers["confidence"] = _as_bytes(confidence[None].numpy(), empty)
        if "probabilities" in wanted:
            layers["probabilities"] = _as_bytes(scores.numpy(), empty)
        return layers

    def _content(self, layer: str, record: Record) -> Content:
        classes, note = self.predictor.model.classes, (NOTE, json.dumps(record))
        if layer == "labels":
            names = ("classes", json.dumps(classes.names))
            return Content(classes.ignore_index, ("class id",), classes.colors, tags=(note, names))
        bands = classes.names if layer == "probabilities" else ("confidence",)
        return Content(_NO_DATA, bands, scale=1 / _STEPS, tags=(note,))

    def _check_options(self) -> None:
        """Raise a UserError for options that are not for rasters."""
        if self.args.format == GEOJSON:
            raise UserError(
                "--format geojson has pixels as coordinates, and a raster keeps its coordinates "
                "with --vectors geojson; leave one of them out"
            )
        if self.args.format is not None or self.args.submission:
            raise UserError(
                "--format and --submission are for images; leave the raster out, or give --raster "
                "no to label it as an image without coordinates"
            )
        if given := image_options(self.args):
            raise UserError(
                f"{given[0]} is for images; leave the raster out or give --bands, which writes its "
                "confidence and probabilities, or --raster no to label it without coordinates"
            )
        if self.args.block < 16 or self.args.block % 16 or self.args.halo < 0:
            raise UserError(
                f"--block is {self.args.block} and --halo {self.args.halo}; give a multiple of 16, "
                "and 0 or more pixels"
            )


class _BlockStore:
    """Finished blocks in a folder, one file each; those of other options are removed.

    Args:
        folder: is made.
        record: what the blocks depend on.
    """

    def __init__(self, folder: Path, record: Record) -> None:
        self._folder = folder
        text = json.dumps(dict(record), sort_keys=True)
        try:
            same = json.loads((folder / "record.json").read_text("utf-8")) == json.loads(text)
        except (OSError, ValueError):
            same = False
        if not same:
            self.remove()
            write_json(folder / "record.json", record)

    def has(self, block: Block) -> bool:
        return self._file(block).is_file()

    def save(self, block: Block, layers: _Layers) -> None:
        with atomic_write(self._file(block)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **layers)  # type: ignore[arg-type]  # of numpy's own option

    def read(self, layer: str, block: Block) -> NDArray[np.uint8]:
        with np.load(self._file(block), allow_pickle=False) as layers:
            found: NDArray[np.uint8] = layers[layer]
        return found

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _file(self, block: Block) -> Path:
        return self._folder / f"{block.rows[0]}_{block.columns[0]}.npz"


def _counted(
    read: Callable[[Block], NDArray[np.uint8]], progress: Callable[[int, int], object], total: int
) -> Callable[[Block], NDArray[np.uint8]]:
    """``read`` that reports how many blocks of ``total`` it has given."""
    counter = count(1)

    def counted(block: Block) -> NDArray[np.uint8]:
        progress(next(counter), total)
        return read(block)

    return counted


def _without_data(block: Block, classes: int, ignore: int, wanted: Sequence[str]) -> _Layers:
    """The results of a block that holds no data."""
    layers = {"labels": np.full((1, *block.size), ignore, np.uint8)}
    for layer in wanted:
        count = classes if layer == "probabilities" else 1
        layers[layer] = np.full((count, *block.size), _NO_DATA, np.uint8)
    return layers


def _as_bytes(probabilities: NDArray[np.floating], empty: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(C, H, W) of 0..1 as bytes; pixels of ``empty`` (H, W) as no data."""
    stored: NDArray[np.uint8] = np.rint(_STEPS * np.clip(probabilities, 0, 1)).astype(np.uint8)
    stored[:, empty] = _NO_DATA
    return stored
