"""Map every tensor of a public checkpoint to a key of the network, and load it strictly."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scenewise.errors import UserError
from scenewise.models.build import create_model
from scenewise.models.convert.detect import FAMILIES, recognise
from scenewise.models.convert.spec import Design, Options, Source
from scenewise.models.resnet_keys import rename
from scenewise.models.safe_load import read_file, tensors_of
from scenewise.models.segmenter import Segmenter

_log = logging.getLogger("scenewise")
_COUNTER = "num_batches_tracked"
_ABN_EPS = 1e-5  # InPlaceABN scales by |weight| + eps, not by its weight


@dataclass(frozen=True)
class Plan:
    """A checked conversion, before the weights are loaded.

    Attributes:
        file: the public checkpoint.
        family: its name.
        sha256: of the file.
        options: as given by the caller.
        design: network, classes, preprocessing.
        model: the network, without memory for its weights (on PyTorch's ``meta`` device).
        key_mapping: key in the file -> key here; None where the tensor is skipped on purpose.
        tensors: of the file, by their keys there.
    """

    file: Path
    family: str
    sha256: str
    options: Options
    design: Design
    model: Segmenter
    key_mapping: dict[str, str | None]
    tensors: Mapping[str, Tensor]

    @property
    def placed(self) -> int:
        """The number of tensors that are not skipped."""
        return sum(target is not None for target in self.key_mapping.values())

    @property
    def assumed(self) -> list[str]:
        """Settings that only the released weights' defaults decided."""
        settings = self.design.settings
        names = [k for k, setting in settings.items() if setting.origin == "released default"]
        return names if "preprocessing" in settings else [*names, "preprocessing"]

    def source(self) -> dict[str, Any]:
        """Where the model comes from, as JSON types; saved in ``config.json``."""
        return {
            "file": self.file.name,
            "sha256": self.sha256,
            "family": self.family,
            "options": self.options.given(),
        }


def make_plan(file: str | Path, options: Options | None = None) -> Plan:
    """Detect the family of a public checkpoint and map each of its tensors.

    Raises:
        UserError: the file is missing, damaged or would run code; its family is unknown; or its
            tensors do not match the family's network exactly, with the first that do not.
    """
    path, options = Path(file), options or Options()
    content = read_file(path)
    source = Source(path.name, tensors_of(content, path), content)
    family = recognise(source, options.family)
    design = FAMILIES[family].design(source, options)
    if len(design.classes) == 1:
        raise UserError(
            f"'{path}' has one output channel, which is supported for mmseg and torchvision only; "
            "train it with two classes"
        )
    if options.threshold is not None and "threshold" not in design.settings:
        raise UserError(f"'{path}' has more than one output channel; leave threshold out")
    if options.recurrence is not None:
        _check_recurrence(options.recurrence, design)
    model = _empty_model(design)
    mapping = {
        key: None if _is_dropped(key, design) else rename(key, design.key_mapping)
        for key in source.tensors
    }
    _check(path, FAMILIES[family].title, source.tensors, mapping, design, model)
    plan = Plan(path, family, _sha256(path), options, design, model, mapping, source.tensors)
    if plan.assumed:
        _log.warning("settings assumed: %s", "; ".join(_assumptions(plan)))
    return plan


def fill(plan: Plan) -> Segmenter:
    """The network of a plan with its weights, in evaluation mode."""
    model, tensors = plan.model, {}
    for key, target in plan.key_mapping.items():
        if target is not None:
            tensors[target] = plan.design.import_tensor(key, plan.tensors[key])
    state = model.state_dict()
    if plan.design.absolute_norms:
        for target in _norm_weights(state):
            tensors[target] = tensors[target].abs() + _ABN_EPS
    for target, like in state.items():
        value = tensors[target] if target in tensors else torch.zeros(like.shape)  # a counter
        tensors[target] = value.to(like.dtype).contiguous().clone()  # half precision too
    model.load_state_dict(tensors, assign=True)  # replaces the meta tensors
    model.source = plan.source()
    return model.eval()


def _assumptions(plan: Plan) -> list[str]:
    settings = plan.design.settings
    return [
        f"{name} of the released weights"
        if name == "preprocessing"
        else f"{name} {format_setting(settings[name].value)}"
        for name in plan.assumed
    ]


def format_setting(value: Any) -> str:
    """A setting in one line.

    >>> format_setting([4, 8, 16]), format_setting(True), format_setting(None)
    ('4 8 16', 'true', 'none')
    """
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value).lower()


def _check_recurrence(recurrence: int, design: Design) -> None:
    if "recurrence" not in design.arguments:
        raise UserError(f"network '{design.network}' has no recurrence; leave that option out")
    if recurrence < 1:
        raise UserError(f"recurrence is {recurrence}; give 1 or more")


def _empty_model(design: Design) -> Segmenter:
    with torch.device("meta"):  # shapes without memory
        model = create_model(
            design.network,
            classes=design.classes,
            variant=design.variant,
            backbone=design.backbone,
            pretrained=False,
            **design.arguments,
        )
    model.preprocessing = design.preprocessing
    return model


def _is_dropped(key: str, design: Design) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in design.dropped)


def _check(
    path: Path,
    title: str,
    tensors: Mapping[str, Tensor],
    mapping: Mapping[str, str | None],
    design: Design,
    model: Segmenter,
) -> None:
    """Raise unless tensors and keys of the network match one to one."""
    state = model.state_dict()
    sources: dict[str, str] = {}  # key here -> key in the file
    faults: dict[str, list[str]] = {"unknown": [], "of another shape": [], "not numbers": []}
    for key, tensor in tensors.items():
        target = mapping[key]
        if target is None or target not in state:
            if not _is_dropped(key, design):
                faults["unknown"].append(key)
        elif design.import_tensor(key, tensor).shape != state[target].shape:
            faults["of another shape"].append(key)
        elif not _is_number(key, tensor):
            faults["not numbers"].append(key)
        elif target in sources and not torch.equal(tensor, tensors[sources[target]]):
            faults["unknown"].append(key)  # a layer stored twice, with different values
        else:
            sources[target] = key
    targets = set(mapping.values())
    missing = [key for key in state if key not in targets and not key.endswith(_COUNTER)]
    faults["missing"] = [f"for {key}" for key in missing]
    reasons = [f"{len(keys)} {what} ({first_keys(keys)})" for what, keys in faults.items() if keys]
    if reasons:
        raise UserError(
            f"'{path}' looks like {title} but does not match its {design.network} with "
            f"{design.backbone}: {'; '.join(reasons)}; nothing was converted"
        )


def _is_number(key: str, tensor: Tensor) -> bool:
    numeric = tensor.dtype.is_floating_point or key.endswith(_COUNTER)
    return numeric and tensor.layout is torch.strided and not tensor.is_meta


def first_keys(keys: list[str]) -> str:
    """Up to three keys, for an error message."""
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def _norm_weights(state: Mapping[str, Tensor]) -> list[str]:
    """Keys of the weights of all batch norms."""
    return [f"{k.removesuffix(_COUNTER)}weight" for k in state if k.endswith(_COUNTER)]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def convert(file: str | Path, options: Options | None = None) -> Segmenter:
    """The network in a public checkpoint, with its weights, classes and preprocessing.

    Raises:
        UserError: see :func:`make_plan`.
    """
    return fill(make_plan(file, options))
