"""Small networks for the page: with both of DANet's attentions, with criss-cross, without any."""

import pytest

from scenewise import create_model
from scenewise.apps.app.state import Network
from scenewise.classes import Classes
from scenewise.models import Segmenter
from tests.attention.contract import randomise
from tests.toy_model import random_danet

CLASSES = Classes(("road", "sky", "red <b>car</b>"), ((90, 20, 30), (40, 150, 200), (250, 200, 5)))


@pytest.fixture(scope="module")
def danet() -> Network:
    return Network("danet", random_danet(CLASSES))


@pytest.fixture(scope="module")
def ccnet() -> Network:
    return Network("ccnet", random("ccnet"))


@pytest.fixture(scope="module")
def fcn() -> Network:
    return Network("fcn", random("fcn"))


def random(name: str) -> Segmenter:
    return randomise(create_model(name, classes=CLASSES, backbone="tiny")).eval()
