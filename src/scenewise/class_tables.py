"""Classes of the data sets that published checkpoints were trained on."""

from scenewise.classes import Classes


def class_table(text: str) -> Classes:
    """Classes from lines of ``rrggbb name``.

    >>> class_table("804080 road").colors
    ((128, 64, 128),)
    """
    rows = [line.strip().split(" ", 1) for line in text.strip().splitlines()]
    numbers = [int(color, 16) for color, _ in rows]
    colors = tuple((number >> 16, number >> 8 & 255, number & 255) for number in numbers)
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
    """Cityscapes for 19 classes, VOC for 21, which most published networks have; else numbered.

    >>> likely_classes(19).names[0], likely_classes(20).names[0]
    ('road', 'class_0')
    """
    return _BY_COUNT.get(count) or Classes.numbered(count)
