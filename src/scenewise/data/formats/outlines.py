"""Outlines of a mask: polygons along the edges of its pixels, exactly round the mask.

A hole is joined to its outline, as tools with plain polygons need it, or is a ring of its polygon.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_STEP = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])  # (y, x): right, down, left, up
_DOWN, _UP = 1, 3
_TURNS = (
    1,
    0,
    3,
)  # right, straight on, left: right first keeps pixels that touch at a corner apart
Ring = list[int]


class Region(NamedTuple):
    """A 4-connected region of a mask.

    Attributes:
        rings: its outline, then its holes: (x, y) corners, the first one not repeated. With y down,
            outlines turn clockwise on the screen and holes the other way.
        pixels: how many it has.
        mean: of the values of its pixels.
    """

    rings: list[list[tuple[int, int]]]
    pixels: int
    mean: float


def outlines(mask: NDArray[np.bool_]) -> list[tuple[Ring, int]]:
    """A closed polygon (x, y, x, y, ...) and the number of pixels of each region of a mask (H, W).

    Regions are 4-connected. Polygons run along the edges of the pixels. A hole is joined to its
    outline by a line that is followed there and back, so each region is one polygon, whose pixels,
    drawn by pycocotools, are exactly those of the region.

    >>> outlines(np.array([[0, 1, 1], [0, 1, 1]], bool))
    [([1, 0, 3, 0, 3, 2, 1, 2], 4)]
    """
    found = []
    for walk in _walks(mask):
        ring = [v for y, x in _corners(walk.path) for v in (x + walk.left, y + walk.top)]
        found.append((ring, sum(walk.areas)))
    return found


def regions(mask: NDArray[np.bool_], values: NDArray[np.floating] | None = None) -> list[Region]:
    """The regions of a mask (H, W) as valid polygons with holes, and the mean of ``values`` (H, W).

    A ring touches others, or itself, in single points at most, as the simple-features standard
    asks: where a region closes round a hole at a corner, that hole is a ring of its own.

    >>> ring = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool)
    >>> regions(ring)[0].rings
    [[(0, 0), (3, 0), (3, 3), (0, 3)], [(1, 2), (2, 2), (2, 1), (1, 1)]]
    """
    above = np.zeros((mask.shape[0] + 1, mask.shape[1]))  # sums of the values above an edge
    if values is not None:
        np.cumsum(values, axis=0, out=above[1:])
    found = []
    for walk in _walks(mask):
        shift = np.array([walk.top, walk.left])
        rings = [ring for loop in walk.loops for ring in _simple((loop[:, 1:] + shift).tolist())]
        outer = [ring for ring in rings if _turn(ring) > 0]  # one: regions are connected
        holes = [ring for ring in rings if _turn(ring) < 0]
        corners = [[(x, y) for y, x in _corners(ring)] for ring in outer + holes]
        pixels = sum(walk.areas)
        total = sum(_sum(loop, shift, above) for loop in walk.loops)
        found.append(Region(corners, pixels, total / pixels))
    return found


class _Walk(NamedTuple):
    """A region: the path round it and its holes, its loops of edges, and their areas."""

    path: list[list[int]]
    loops: list[NDArray[np.int64]]  # each (N, 3): direction and start y, x
    areas: list[int]
    top: int
    left: int


def _walks(mask: NDArray[np.bool_]) -> Iterator[_Walk]:
    """The regions of a mask; coordinates are to be moved by (top, left)."""
    if not mask.any():
        return
    top, left = int(mask.any(axis=1).argmax()), int(mask.any(axis=0).argmax())
    inside = np.pad(mask[top:, left:], 1)  # one pixel of nothing round it
    edges = _edges(inside)  # (N, 3): direction and start y, x
    index = np.full((4, *inside.shape), -1)
    index[tuple(edges.T)] = np.arange(len(edges))
    follow = _next(edges, index)
    loops = _loops(follow)
    areas = [_area(edges[loop]) for loop in loops]
    links = _join_holes(inside, edges, index, follow, loops, areas)
    points = edges[:, 1:].tolist()
    loop_of = np.empty(len(edges), int)
    for k, loop in enumerate(loops):
        loop_of[loop] = k
    for loop, area in zip(loops, areas, strict=True):
        if area > 0:
            path, members = _walk(loop[0], points, follow, links)
            used = sorted(set(loop_of[members].tolist()))
            its_loops = [edges[loops[k]] for k in used]
            yield _Walk(path, its_loops, [areas[k] for k in used], top - 1, left - 1)


def _edges(inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The edges between mask and rest, with the mask on the right: direction and start (y, x)."""
    here, above, before = inside[1:, 1:], inside[:-1, 1:], inside[1:, :-1]
    starts = (  # row, column of the pixel at the lower right of each edge, and where it starts
        (0, here & ~above, (0, 0)),
        (1, before & ~here, (0, 0)),
        (2, above & ~here, (0, 1)),
        (3, here & ~before, (1, 0)),
    )
    parts = []
    for direction, present, shift in starts:
        cells = np.argwhere(present) + 1 + shift  # (n, 2)
        parts.append(np.insert(cells, 0, direction, axis=1))
    return np.concatenate(parts)


def _next(edges: NDArray[np.int64], index: NDArray[np.int64]) -> list[int]:
    """The edge that follows each edge."""
    ends = edges[:, 1:] + _STEP[edges[:, 0]]  # (N, 2)
    follow = np.full(len(edges), -1)
    for turn in _TURNS:
        candidates = index[(edges[:, 0] + turn) % 4, ends[:, 0], ends[:, 1]]
        follow = np.where(follow < 0, candidates, follow)
    after: list[int] = follow.tolist()
    return after


def _loops(follow: list[int]) -> list[list[int]]:
    seen = [False] * len(follow)
    loops = []
    for first in range(len(follow)):
        loop, edge = [], first
        while not seen[edge]:
            seen[edge] = True
            loop.append(edge)
            edge = follow[edge]
        if loop:
            loops.append(loop)
    return loops


def _area(edges: NDArray[np.int64]) -> int:
    """The pixels in a loop, negative for the outline of a hole."""
    direction, y = edges[:, 0], edges[:, 1]
    return int(y[direction == 2].sum() - y[direction == 0].sum())


def _join_holes(
    inside: NDArray[np.bool_],
    edges: NDArray[np.int64],
    index: NDArray[np.int64],
    follow: list[int],
    loops: list[list[int]],
    areas: list[int],
) -> dict[int, int]:
    """By edge of an outline: the edge of a hole in the same row, to which a line leads.

    The leftmost edge of a hole sees, to its left, an edge of the outline or of a hole further left.
    """
    columns = np.arange(inside.shape[1])
    opening = inside & ~np.roll(inside, 1, axis=1)
    run_start = np.maximum.accumulate(np.where(opening, columns, 0), axis=1)  # (H, W)
    links = {}
    for loop, area in zip(loops, areas, strict=True):
        if area < 0:
            down = [edge for edge in loop if edges[edge, 0] == _DOWN]
            first = min(down, key=lambda edge: int(edges[edge, 2]))
            y, x = edges[first, 1:]
            links[int(index[_UP, y + 1, run_start[y, x - 1]])] = first
    return links


def _walk(
    first: int, points: list[list[int]], follow: list[int], links: dict[int, int]
) -> tuple[list[list[int]], list[int]]:
    """The corners (y, x) along an outline and the holes that are joined to it, and its edges."""
    path: list[list[int]] = []
    members: list[int] = []
    back: list[tuple[int, int]] = []  # (first edge of a hole, edge to return to)
    edge = first
    while not members or edge != first:
        path.append(points[edge])
        members.append(edge)
        after = follow[edge]
        if edge in links:
            path.append(points[after])
            back.append((links[edge], after))
            edge = links[edge]
            continue
        while back and after == back[-1][0]:  # once round the hole
            path.append(points[after])
            after = back.pop()[1]
        edge = after
    return path, members


def _corners(path: list[list[int]]) -> list[list[int]]:
    """A closed path without the points at which it goes straight on."""
    corners = []
    for k, (y, x) in enumerate(path):
        (y0, x0), (y1, x1) = path[k - 1], path[(k + 1) % len(path)]
        first, second = (y - y0, x - x0), (y1 - y, x1 - x)
        crossed = first[0] * second[1] - first[1] * second[0]
        forward = first[0] * second[0] + first[1] * second[1]
        if crossed or forward <= 0:
            corners.append([y, x])
    return corners


def _simple(loop: list[list[int]]) -> list[list[list[int]]]:
    """A closed path cut where it passes a point again, into paths that pass each point once."""
    rings: list[list[list[int]]] = []
    path: list[list[int]] = []
    place: dict[tuple[int, int], int] = {}  # of each point of the path
    for y, x in loop:
        if (y, x) in place:
            start = place[y, x]
            rings.append(path[start:])
            for point in path[start + 1 :]:
                del place[point[0], point[1]]
            path = path[:start]
        place[y, x] = len(path)
        path.append([y, x])
    return [*rings, path]


def _turn(ring: list[list[int]]) -> int:
    """Twice the area of a ring of (y, x): positive for an outline, negative for a hole."""
    points = zip(ring, ring[1:] + ring[:1], strict=True)
    return sum(x0 * y1 - x1 * y0 for (y0, x0), (y1, x1) in points)


def _sum(loop: NDArray[np.int64], shift: NDArray[np.int64], above: NDArray[np.float64]) -> float:
    """The sum of the values in a loop, negative for a hole; see :func:`_area`."""
    total = 0.0
    for direction, sign, right in ((2, 1, -1), (0, -1, 0)):  # edges below and above its pixels
        y, x = (loop[loop[:, 0] == direction, 1:] + shift).T
        total += sign * float(above[y, x + right].sum())
    return total
