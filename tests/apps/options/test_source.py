"""What the source says is what an import says."""

import inspect
from typing import Any, get_args

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from scenewise.apps.options.source import names, parameters
from scenewise.apps.predict.submission import Server
from scenewise.data import SegmentationData
from scenewise.data.formats import FORMATS
from scenewise.exports.export import SUFFIXES
from scenewise.exports.runtime import Backend
from scenewise.exports.trace import Postprocess
from scenewise.inference.predictor import Merge
from scenewise.inference.protocols import PROTOCOLS
from scenewise.models.zoo import NETWORKS
from scenewise.training.optim import OptimizerName
from scenewise.training.task import SegmentationTask


@pytest.mark.parametrize(
    ("module", "name", "values"),
    [
        ("scenewise.models.zoo", "NETWORKS", NETWORKS),
        ("scenewise.data.formats", "FORMATS", FORMATS),
        ("scenewise.data.module", "Format", ("auto", "scenes", *FORMATS)),
        ("scenewise.data.module", "_SPLITS", ("train", "val", "test")),
        ("scenewise.inference.protocols", "PROTOCOLS", PROTOCOLS),
        ("scenewise.inference.predictor", "Merge", get_args(Merge)),
        ("scenewise.exports.runtime", "Backend", get_args(Backend)),
        ("scenewise.exports.trace", "Postprocess", get_args(Postprocess)),
        ("scenewise.exports.export", "SUFFIXES", SUFFIXES),
        ("scenewise.apps.predict.submission", "Server", get_args(Server)),
        ("scenewise.training.optim", "OptimizerName", get_args(OptimizerName)),
    ],
)
def test_names(module: str, name: str, values: Any) -> None:
    assert names(module, name) == tuple(values)


@pytest.mark.parametrize("owner", [SegmentationData, SegmentationTask, Trainer, ModelCheckpoint])
def test_parameters_and_their_defaults(owner: type) -> None:
    expected = inspect.signature(owner.__init__).parameters
    actual = parameters(owner.__module__, owner.__name__)
    assert list(actual) == [name for name in expected if name != "self"]
    plain = (int, float, str, bool, type(None))
    for name, parameter in actual.items():
        default = expected[name].default
        if default is inspect.Parameter.empty:
            assert parameter.default == ""
        elif isinstance(default, plain):
            assert parameter.default == repr(default) or float(parameter.default) == default
        assert parameter.help  # every parameter has its paragraph
