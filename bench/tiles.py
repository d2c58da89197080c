"""Benchmark of tile sizes: position attention with its own and with all other sizes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product

from torch import Tensor

from scenewise.apps.bench.attention import draw
from scenewise.apps.bench.measure import Row, Run, compare, forward_and_backward, forward_only
from scenewise.attention import position_attention
from scenewise.attention.kernels import tiled

PIXELS = (100, 1000, 3000, 10_000, 100_000)
ROWS, KEYS = (512, 1024, 2048), (1024, 2048, 4096)
QUERIES = 2048  # more take longer but add only one copy of the value


def rows(repeats: int = 5) -> list[Row]:
    """The default tiles and the best other size, for up to ``QUERIES`` queries over N keys."""
    table = []
    for pixels in PIXELS:
        query, key, value = draw(pixels)
        inputs = [query[:, :QUERIES], key, value.contiguous()]  # so that no variant makes that copy
        for name, runner in (("forward", forward_only), ("+ backward", forward_and_backward)):
            work = f"{inputs[0].shape[1]} queries, N = {pixels}, {name}"
            table += _best_and_default(work, runner, inputs, min(repeats, 3))
    return table


def _best_and_default(
    work: str, runner: Callable[..., Run], inputs: list[Tensor], repeats: int
) -> list[Row]:
    run = runner(position_attention, inputs)
    sizes = dict.fromkeys(
        (min(r, inputs[0].shape[1]), min(k, inputs[1].shape[1])) for r, k in product(ROWS, KEYS)
    )
    variants = {f"{r} x {k}": _with(run, r, k) for r, k in sizes}
    measured = compare(work, {"scenewise": run} | variants, repeats)
    best = min(measured[1:], key=lambda row: row.seconds)
    label = f"best of {len(variants)}: {best.variant}"
    return compare(work, {label: variants[best.variant], "scenewise": run}, 2 * repeats)


def _with(run: Run, rows: int, keys: int) -> Run:
    def sized() -> object:
        with tiles(rows, keys):
            return run()

    return sized


@contextmanager
def tiles(rows: int, keys: int) -> Iterator[None]:
    """Set the tile size within the context."""
    default = tiled._TILE_ROWS, tiled._TILE_KEYS
    tiled._TILE_ROWS, tiled._TILE_KEYS = rows, keys
    try:
        yield
    finally:
        tiled._TILE_ROWS, tiled._TILE_KEYS = default
