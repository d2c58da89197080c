"""Dividing images into training and validation: seeded, by groups, and alike in their classes."""

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_RUN = 3  # frames of one clip have at least so many numbers


def divide(
    names: Sequence[str], present: NDArray[np.bool_] | None, share: float, seed: int
) -> tuple[list[int], list[int]]:
    """Indices of the training and of the validation images, each in ascending order.

    Groups of images (see :func:`groups_of`) stay together, unless a class would then be missing in
    training. Within that, every class comes as near to ``share`` of its images as it can, the
    rarest class first (iterative stratification, Sechidis and others, 2011).

    Args:
        names: of the images.
        present: (images, classes), which classes occur in each; None to divide at random.
        share: of the images that are for validation, above 0 and below 1.
        seed: of the random order.

    >>> train, val = divide([f"{c}_{k:03d}" for c in "abcde" for k in range(4)], None, 0.2, 0)
    >>> len(val), len({i // 4 for i in val})
    (4, 1)
    """
    groups, singles = groups_of(names), [[k] for k in range(len(names))]
    if present is None and len(groups) == len(names):  # alike, and too many for the loop below
        order = np.random.default_rng(seed).permutation(len(names)).tolist()
        chosen = order[: max(1, round(share * len(names)))]
    else:
        classes = np.ones((len(names), 1), bool) if present is None else present
        chosen = _choose(groups, classes, share, seed) or _choose(singles, classes, share, seed)
    val = set(chosen or [])
    return [k for k in range(len(names)) if k not in val], sorted(val)


def groups_of(names: Sequence[str]) -> list[list[int]]:
    """Images that belong together: of one folder, one clip, or one source image.

    A clip is a name that ends in running numbers, where other names end differently. Copies that
    Roboflow made of one image have its name before ``.rf.``.

    >>> groups_of(["a_01", "a_02", "a_03", "b_07", "b_08", "b_09"])
    [[0, 1, 2], [3, 4, 5]]
    >>> groups_of(["p1", "p2", "p3"])
    [[0], [1], [2]]
    """
    sources = [re.sub(r"\.rf\.[0-9a-fA-F]+$", "", name) for name in names]
    folders = [source.rpartition("/")[0] for source in sources]
    if len(set(folders)) > 1:
        return _by(folders)
    clips: dict[str, list[int]] = defaultdict(list)
    for source in sources:
        match = re.fullmatch(r"(.*?)(\d+)", source)
        clips[match[1] if match else source].append(int(match[2]) if match else 0)
    if len(clips) > 1 and all(_runs(numbers) for numbers in clips.values()):
        return _by([re.sub(r"\d+$", "", source) for source in sources])
    return _by(sources)


def _runs(numbers: list[int]) -> bool:
    """Whether numbers are those of frames: several, at a regular distance for the most part."""
    steps = np.diff(sorted(numbers))
    return len(numbers) >= _RUN and bool((steps == np.median(steps)).mean() > 0.5)


def _by(keys: Sequence[str]) -> list[list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for k, key in enumerate(keys):
        groups[key].append(k)
    return list(groups.values())


def _choose(
    groups: list[list[int]], classes: NDArray[np.bool_], share: float, seed: int
) -> list[int] | None:
    """The images of the groups that are for validation; None if training would lose a class."""
    counts = np.stack([classes[group].sum(0) for group in groups])  # (groups, classes)
    sizes = np.array([len(group) for group in groups])
    order = np.random.default_rng(seed).permutation(len(groups))  # a tie goes to the first
    total, target = counts.sum(0), max(1, round(share * sizes.sum()))
    left, want = total.copy(), share * total  # in training; still needed in validation
    taken: list[int] = []
    free = np.ones(len(groups), bool)
    while sizes[taken].sum() < target:
        fits = free & ((left > counts) | (total == 0)).all(1)  # training keeps every class,
        fits &= sizes[taken].sum() + sizes <= sizes.sum() // 2  # and half of the images
        if not fits.any():
            break
        for rare in np.argsort(total, kind="stable"):
            if want[rare] > 0 and (fits & (counts[:, rare] > 0)).any():
                fits &= counts[:, rare] > 0
                break
        cost = np.abs(counts - want).sum(1) + sizes  # (groups,)
        candidates = order[fits[order]]
        best = int(candidates[np.argmin(cost[candidates])])
        taken.append(best)
        free[best] = False
        left, want = left - counts[best], want - counts[best]
    return [k for g in taken for k in groups[g]] or None
