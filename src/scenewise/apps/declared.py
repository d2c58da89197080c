"""What a YAML file may build: the kinds of parts that a training has, and nothing else."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from importlib import import_module
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch import Callback
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import CheckpointIO, LayerSync, Precision
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from torch import nn

from scenewise.errors import UserError

PLUGINS = (CheckpointIO, ClusterEnvironment, LayerSync, Precision)
PARTS = (nn.Module, Callback, Logger, Profiler, Strategy, Accelerator, timedelta, *PLUGINS)


def check_declared(config: Any) -> None:
    """Refuse a configuration whose ``class_path`` names anything but a part of a training.

    jsonargparse checks the class where an argument declares one; an argument of a part that
    declares nothing would take any class.

    Raises:
        UserError: names the class.

    >>> check_declared({"contexts": [{"class_path": "torch.nn.Identity"}]})
    >>> check_declared({"device": {"class_path": "subprocess.Popen"}})
    Traceback (most recent call last):
    scenewise.errors.UserError: class_path 'subprocess.Popen' is no part of a training; ...
    """
    for path in _class_paths(config):
        found = _found(path)
        if found is None:  # nothing can be built from it, which is told where it is wanted
            continue
        if not isinstance(found, type) or not issubclass(found, PARTS):
            raise UserError(
                f"class_path '{path}' is no part of a training; name a torch module, or a "
                "callback, logger, profiler, strategy or plugin of Lightning"
            )


def _class_paths(value: Any) -> Iterator[str]:
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        if "class_path" in value:
            yield str(value["class_path"])
        value = value.values()
    elif not isinstance(value, list | tuple | set):
        return
    for part in value:
        yield from _class_paths(part)


def _found(path: str) -> Any:
    """What ``package.module.Class.Inner`` names; None if nothing."""
    names = path.split(".")
    for count in range(len(names) - 1, 0, -1):
        try:
            found: Any = import_module(".".join(names[:count]))
        except ImportError:
            continue
        for name in names[count:]:
            found = getattr(found, name, None)
        return found
    return None
