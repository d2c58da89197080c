"""Outlines of a mask: polygons whose pixels, drawn by pycocotools, are exactly the mask's."""

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


def outlines(mask: NDArray[np.bool_]) -> list[tuple[Ring, int]]:
    """A closed polygon (x, y, x, y, ...) and the number of pixels of each region of a mask (H, W).

    Regions are 4-connected. Polygons run along the edges of the pixels. A hole is joined to its
    outline by a line that is followed there and back, so each region is one polygon.

    >>> outlines(np.array([[0, 1, 1], [0, 1, 1]], bool))
    [([1, 0, 3, 0, 3, 2, 1, 2], 4)]
    """
    if not mask.any():
        return []
    top, left = mask.any(axis=1).argmax(), mask.any(axis=0).argmax()
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
    found = []
    for loop, area in zip(loops, areas, strict=True):
        if area > 0:
            path, members = _walk(loop[0], points, follow, links)
            pixels = sum(areas[k] for k in set(loop_of[members].tolist()))
            ring = [v for y, x in _corners(path) for v in (x + int(left) - 1, y + int(top) - 1)]
            found.append((ring, pixels))
    return found


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
