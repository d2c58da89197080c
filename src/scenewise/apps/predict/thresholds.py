"""``--threshold``: the words of the command as thresholds by class name."""

from collections.abc import Sequence

from scenewise.errors import UserError
from scenewise.models.segmenter import Segmenter
from scenewise.models.thresholds import CHOSEN, check_thresholds, thresholds_of


def parse_thresholds(words: Sequence[str], model: Segmenter) -> dict[str, float]:
    """The thresholds of words such as ``pole=0.3``, ``pole=0.3,sign=0.4`` and ``chosen``.

    Later ones replace those of the same class. Names may contain commas and equals signs.

    Args:
        words: of a repeated option.
        model: has the classes, and the thresholds that ``chosen`` takes.

    Raises:
        UserError: not CLASS=P, an unknown class, not above 0 and below 1, or no chosen thresholds.

    >>> from scenewise import create_model
    >>> model = create_model("fcn", num_classes=3, backbone="tiny")
    >>> parse_thresholds(["class_0=0.3,class_2=0.4", "class_0=0.25"], model)
    {'class_0': 0.25, 'class_2': 0.4}
    """
    thresholds: dict[str, float] = {}
    for word in words:
        parts = _parts(word)
        if not all(part == CHOSEN or part.rpartition("=")[0] for part in parts):
            raise UserError(
                f"--threshold {word} is not CLASS=P; give for example "
                f"{model.classes.names[0]}=0.3, or {CHOSEN}"
            )
        for part in parts:
            if part == CHOSEN:
                thresholds |= thresholds_of(model, CHOSEN)
            else:
                name, _, value = part.rpartition("=")
                thresholds |= check_thresholds({name: value}, model.classes)
    return thresholds


def _parts(word: str) -> list[str]:
    """The parts between commas; a comma before which no equals sign is belongs to a name.

    >>> _parts("door, double=0.3, pole=0.4,chosen")
    ['door, double=0.3', 'pole=0.4', 'chosen']
    """
    parts: list[str] = []
    start = ""
    for piece in word.split(","):
        start += piece
        if "=" in piece or start.strip() == CHOSEN:
            parts.append(start.strip())
            start = ""
        else:
            start += ","
    return [*parts, start.removesuffix(",").strip()] if start else parts
