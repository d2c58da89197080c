"""Why the values in masks cannot be read as labels, and the options that say what they mean."""

from collections.abc import Sequence

from scenewise.data.formats.label_reading import Meaning
from scenewise.data.formats.stored_values import Inventory
from scenewise.errors import UserError

MANY = 40  # more values or colours are those of an image


def several_readings(stored: Inventory, why: str, *meanings: Meaning | None) -> UserError:
    """The error for several readings, with an option for each; None is that of class ids."""
    options = []
    for meaning in meanings:
        text = "stored" if meaning is None else _option(meaning, stored)
        options.append(f"--data.labels {text}")
    return UserError(
        f"the masks can be read in {len(options)} ways, because they hold {why}; choose "
        + " or ".join(options)
    )


def _option(meaning: Meaning, stored: Inventory) -> str:
    """``VALUE=CLASS,...`` as the option takes it."""
    word = "#{:06x}" if stored.color else "{}"
    text = ",".join(f"{word.format(value)}={name}" for value, name in meaning.items())
    return f"'{text}'" if set(text) & set(" #'()&;") else text


def refuse_images(stored: Inventory, names: Sequence[str]) -> None:
    """Raise a UserError for grey levels of an image, and for blurred edges of 0 and 255."""
    values = stored.values - {255} - set(range(len(names) + 1))
    if len(values) <= max(6, len(names)):
        return
    total = sum(stored.counts.values())
    ends = stored.counts[0] + stored.counts[255]
    if stored.counts[0] and stored.counts[255] and ends > 0.8 * total and len(names) <= 2:
        first, second = ("background", *names)[-2:] if names else ("background", "object")
        raise UserError(
            f"the masks hold {len(stored.counts)} grey values, {ends / total:.1%} of the pixels 0 "
            "or 255: their edges are blurred; export them without smoothing, or divide them in the "
            f"middle with --data.labels 0-127={first},128-255={second}"
        )
    if len(values) > MANY:
        raise UserError(
            f"the masks hold {len(stored.counts)} grey values, as images do, not class ids; give "
            "the folder of the masks, or export them without smoothing"
        )


def listed_values(stored: Inventory) -> str:
    total = sum(stored.counts.values())
    word = "#{:06x}" if stored.color else "{}"
    parts = [f"{word.format(v)} {pixels / total:.1%}" for v, pixels in stored.counts.most_common(6)]
    return ", ".join(parts) + (", ..." if len(stored.counts) > 6 else "")
