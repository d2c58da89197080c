"""The class lists against torchvision and the rule of VOC's colours."""

import pytest
from torchvision.datasets import Cityscapes

from scenewise.classes import CITYSCAPES, VOC, Classes, likely_classes
from scenewise.data.formats.label_maps import voc_colors
from scenewise.errors import UserError


def test_cityscapes_as_torchvision_has_it() -> None:
    trained = sorted(
        (x for x in Cityscapes.classes if 0 <= x.train_id < 255), key=lambda x: x.train_id
    )
    assert CITYSCAPES.names == tuple(x.name for x in trained)
    assert CITYSCAPES.colors == tuple(x.color for x in trained)


def test_voc() -> None:
    assert VOC.colors == voc_colors(21)
    assert (VOC.names[0], VOC.names[15], VOC.names[20]) == ("background", "person", "tvmonitor")


def test_a_name_given_twice_is_refused() -> None:
    colors = Classes.numbered(3).colors
    with pytest.raises(UserError, match="classes 0 and 2 are both called 'road'"):
        Classes(("road", "sky", "road"), colors)


def test_the_count_decides_the_classes() -> None:
    assert [likely_classes(k) for k in (19, 21)] == [CITYSCAPES, VOC]
    assert likely_classes(150).names[149] == "class_149"
