"""Memory of ``scenewise predict`` on a raster of 40,000 x 40,000 pixels.

    python -m bench.rasters
    python -m bench.rasters --side 10000

Prints JSON: seconds, and the memory of the process, before the raster and at its peak. The raster
is sparse: noise on its diagonal, zeros elsewhere, and a strip without data. The network is tiny.
"""

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from scenewise import create_model
from scenewise.apps.cli import main as scenewise
from scenewise.errors import import_extra
from scenewise.memory import peak_bytes, resident_bytes

_TILE = 512


def main() -> None:
    """Write a raster and a network into a temporary folder, predict, and print the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=40_000)
    parser.add_argument("--folder", type=Path, help="for the raster; default a temporary one")
    args = parser.parse_args()
    with TemporaryDirectory(dir=args.folder) as name:
        print(json.dumps(measure(Path(name), args.side), indent=2))


def measure(folder: Path, side: int) -> dict[str, Any]:
    """Predict a raster of ``side`` x ``side`` pixels and read the memory of this process."""
    raster, model, out = folder / "map.tif", folder / "model", folder / "out"
    write_sparse(raster, side)
    torch.manual_seed(0)
    create_model("fcn", num_classes=3, backbone="tiny").save_pretrained(model)
    before, start = resident_bytes(), time.perf_counter()
    words = ["predict", str(raster), "--model", str(model), "--out", str(out), "--device", "cpu"]
    assert scenewise([*words, "--bands", "confidence"]) == 0
    seconds = time.perf_counter() - start
    with import_extra("rasterio", "geo").open(out / "labels" / "map.tif") as labels:
        assert labels.shape == (side, side)
        overviews = labels.overviews(1)
    return {
        "side": side,
        "seconds": round(seconds),
        "resident before, MB": round(before / 1e6),
        "peak, MB": round((peak_bytes(torch.device("cpu")) or 0) / 1e6),
        "labels, MB": round((out / "labels" / "map.tif").stat().st_size / 1e6, 1),
        "overviews": overviews,
    }


def write_sparse(path: Path, side: int) -> None:
    """Three bands with noise on the diagonal and a strip without data."""
    rasterio = import_extra("rasterio", "geo")
    window = import_extra("rasterio.windows", "geo").Window
    profile = {"count": 3, "height": side, "width": side, "dtype": "uint8", "nodata": 255}
    grid = rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 5e6)
    noise = np.random.default_rng(0).integers(0, 255, (3, _TILE, _TILE), np.uint8)
    tiles = {"tiled": True, "blockxsize": _TILE, "blockysize": _TILE, "compress": "deflate"}
    with rasterio.open(
        path, "w", driver="GTiff", crs="EPSG:32633", transform=grid, **profile, **tiles
    ) as file:
        zeros = np.zeros_like(noise)
        for top in range(0, side, _TILE):
            for left in range(0, side, _TILE):
                values = noise if top == left else zeros
                if left < side // 4:
                    values = np.full_like(noise, 255)
                height, width = min(_TILE, side - top), min(_TILE, side - left)
                place = window(left, top, width, height)
                file.write(values[:, :height, :width], window=place)


if __name__ == "__main__":
    main()
