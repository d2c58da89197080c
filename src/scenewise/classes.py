"""Class names and colours: the ``Classes`` type and the lists of Cityscapes and PASCAL VOC."""

import colorsys
from dataclasses import dataclass
from typing import Any

from scenewise.errors import UserError

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Classes:
    """The classes of a dataset: id ``k`` is called ``names[k]`` and drawn in ``colors[k]``.

    Args:
        names: one name for each class, in the order of the ids.
        colors: one (red, green, blue) triple of 0..255 for each class.
        ignore_index: the id of pixels that count neither in the loss nor in a metric.

    Raises:
        UserError: no class, more than 256, not one colour for each name, a value outside 0..255,
            the same name twice, or a name with line ends or other characters that cannot be
            printed.

    A class whose id is ``ignore_index`` is neither trained nor scored. Masks have one byte a pixel,
    so with 256 classes one of them is ignored.

    >>> street = Classes(("road", "sky"), ((128, 64, 128), (70, 130, 180)))
    >>> len(street), street.names[1], street.ignore_index
    (2, 'sky', 255)
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    ignore_index: int = 255

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= 256:
            raise UserError(
                f"a dataset needs 1 to 256 classes, not {len(self.names)}; correct its class list"
            )
        if len(self.colors) != len(self.names):
            raise UserError(
                f"{len(self.names)} class names but {len(self.colors)} colours; give one colour "
                "for each class"
            )
        values = [self.ignore_index, *(channel for color in self.colors for channel in color)]
        if not all(0 <= value <= 255 for value in values):
            raise UserError("colours and ignore_index must be from 0 to 255; correct them")
        for name in self.names:
            if not name.isprintable():
                raise UserError(f"class name {name!r} has unprintable characters; rename it")
        if len(set(self.names)) < len(self.names):
            name = next(name for name in self.names if self.names.count(name) > 1)
            ids = [str(k) for k, other in enumerate(self.names) if other == name]
            raise UserError(
                f"classes {' and '.join(ids)} are both called '{name}', so that their scores "
                "cannot be told apart; rename one"
            )

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def numbered(cls, count: int, ignore_index: int = 255) -> "Classes":
        """``count`` classes called class_0, class_1, ... in distinct colours.

        >>> Classes.numbered(2).names
        ('class_0', 'class_1')
        """
        names = tuple(f"class_{k}" for k in range(count))
        return cls(names, distinct_colors(count), ignore_index)

    def palette(self) -> list[int]:
        """The 768 values of an indexed image's palette; unused ids are black."""
        flat = [channel for color in self.colors for channel in color]
        return flat + [0] * (768 - len(flat))  # PIL wants 256 RGB triples

    def to_dict(self) -> dict[str, Any]:
        """The classes as JSON values; :meth:`from_dict` reads them."""
        return {
            "names": list(self.names),
            "colors": [list(color) for color in self.colors],
            "ignore_index": self.ignore_index,
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Classes":
        """The classes that :meth:`to_dict` wrote.

        >>> Classes.from_dict(Classes.numbered(3).to_dict()) == Classes.numbered(3)
        True
        """
        colors = tuple((int(r), int(g), int(b)) for r, g, b in value["colors"])
        return cls(tuple(map(str, value["names"])), colors, int(value["ignore_index"]))


def distinct_colors(count: int) -> tuple[Color, ...]:
    """``count`` colours whose hues step round the colour circle by the golden angle.

    >>> len(set(distinct_colors(256)))
    256
    """
    golden = 0.6180339887498949  # (sqrt(5) - 1) / 2 of a circle: neighbours in id never look alike
    colors = []
    for k in range(count):
        value = 0.95 - 0.2 * (k // 8 % 4)  # darker every 8 hues
        saturation = 0.85 - 0.2 * (k // 32 % 3)  # paler every 32
        rgb = colorsys.hsv_to_rgb((k * golden) % 1.0, saturation, value)
        colors.append((round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2])))
    return tuple(colors)


def class_table(text: str) -> Classes:
    """Classes from lines of ``rrggbb name``, in the order of their ids.

    >>> class_table("804080 road").colors
    ((128, 64, 128),)
    """
    rows = [line.strip().split(" ", 1) for line in text.strip().splitlines()]
    codes = [int(color, 16) for color, _ in rows]
    colors = tuple((code >> 16, code >> 8 & 255, code & 255) for code in codes)
    return Classes(tuple(name for _, name in rows), colors)


CITYSCAPES = class_table(
    """
    804080 road
    f423e8 sidewalk
    464646 building
    66669c wall
    be9999 fence
    999999 pole
    faaa1e traffic light
    dcdc00 traffic sign
    6b8e23 vegetation
    98fb98 terrain
    4682b4 sky
    dc143c person
    ff0000 rider
    00008e car
    000046 truck
    003c64 bus
    005064 train
    0000e6 motorcycle
    770b20 bicycle
    """
)

VOC = class_table(
    """
    000000 background
    800000 aeroplane
    008000 bicycle
    808000 bird
    000080 boat
    800080 bottle
    008080 bus
    808080 car
    400000 cat
    c00000 chair
    408000 cow
    c08000 diningtable
    400080 dog
    c00080 horse
    408080 motorbike
    c08080 person
    004000 pottedplant
    804000 sheep
    00c000 sofa
    80c000 train
    004080 tvmonitor
    """
)

_BY_COUNT = {len(classes): classes for classes in (CITYSCAPES, VOC)}


def likely_classes(count: int) -> Classes:
    """The classes of Cityscapes for a count of 19, of VOC for 21; numbered ones for other counts.

    >>> likely_classes(19).names[0], likely_classes(20).names[0]
    ('road', 'class_0')
    """
    return _BY_COUNT.get(count) or Classes.numbered(count)
