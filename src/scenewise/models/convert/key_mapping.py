"""Map every tensor of a public checkpoint to a key of the network, and load it strictly."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scenewise.errors import UserError
from scenewise.models.build import create_model
from scenewise.models.convert.detect import FAMILIES, recognise
from scenewise.models.convert.spec import Design, Options, Source
from scenewise.models.preprocessing import Preprocessing
from scenewise.models.resnet_keys import rename
from scenewise.models.safe_load import read_file
from scenewise.models.segmenter import Segmenter
from scenewise.models.state_dict import StateDict, find_state_dict, is_training_only

_log = logging.getLogger("scenewise")
_COUNTER = "num_batches_tracked"
_AUXILIARY = "auxiliary_head."
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
        key_mapping: key in the file -> key here; None where the tensor is left out on purpose.
        found: the tensors of the file, and where they were.
        left_out: tensors of the file that the network does not need, and why.
    """

    file: Path
    family: str
    sha256: str
    options: Options
    design: Design
    model: Segmenter
    key_mapping: dict[str, str | None]
    found: StateDict
    left_out: dict[str, str]

    @property
    def placed(self) -> int:
        """The number of tensors that are loaded."""
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
            "settings": {
                name: {"value": _as_json(setting.value), "decided_by": setting.origin}
                for name, setting in self.design.settings.items()
            },
        }


def make_plan(file: str | Path, options: Options | None = None) -> Plan:
    """Detect the family of a public checkpoint and map each of its tensors.

    Raises:
        UserError: the file is missing, damaged or would run code; its family is unknown; or its
            tensors do not match the family's network exactly, with the first that do not.
    """
    path, options = Path(file), options or Options()
    content = read_file(path)
    found = find_state_dict(content, path, ema=options.ema)
    source = Source(path.name, found.tensors, content)
    family, prefix = recognise(source, options.family, found.prefix)
    if prefix:
        found = found.below(prefix)
        source = replace(source, tensors=found.tensors)
    design = FAMILIES[family].design(source, options)
    _check_options(path, options, design)
    design, model = _build(design, found.tensors)
    mapping, left_out = _destinations(found.tensors, design, model)
    _check(path, FAMILIES[family].title, found.tensors, mapping, left_out, design, model)
    left_out = found.left_out | left_out
    plan = Plan(path, family, _sha256(path), options, design, model, mapping, found, left_out)
    if plan.assumed:
        _log.warning("settings assumed: %s", "; ".join(_assumptions(plan)))
    return plan


def _check_options(path: Path, options: Options, design: Design) -> None:
    if len(design.classes) == 1:
        raise UserError(
            f"'{path}' has one output channel, which is supported for mmseg and torchvision only; "
            "train it with two classes"
        )
    if options.threshold is not None and "threshold" not in design.settings:
        raise UserError(f"'{path}' has more than one output channel; leave threshold out")
    if options.recurrence is not None:
        _check_recurrence(options.recurrence, design)


def fill(plan: Plan) -> Segmenter:
    """The network of a plan with its weights, in evaluation mode."""
    model, tensors = plan.model, {}
    for key, target in plan.key_mapping.items():
        if target is not None:
            tensors[target] = plan.design.import_tensor(key, plan.found.tensors[key])
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


def _as_json(value: Any) -> Any:
    if isinstance(value, Preprocessing):
        return {key: _as_json(item) for key, item in value.to_dict().items()}
    return list(value) if isinstance(value, tuple) else value


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


def _build(design: Design, tensors: Mapping[str, Tensor]) -> tuple[Design, Segmenter]:
    """The design and its network; without the auxiliary head where the file's is another one.

    That head acts in training only. It may have another number of classes, or other layers.
    """
    model = _empty_model(design)
    if not design.arguments.get("auxiliary") or _auxiliary_fits(design, tensors, model):
        return design, model
    why = "an auxiliary head of another kind or number of classes"
    heads = dict.fromkeys(_auxiliary_roots(design), why)
    arguments = {**design.arguments, "auxiliary": False}
    design = replace(design, arguments=arguments, dropped={**design.dropped, **heads})
    return design, _empty_model(design)


def _auxiliary_roots(design: Design) -> set[str]:
    """First components of the auxiliary head's names in the file."""
    pairs = design.key_mapping.items()
    return {key.partition(".")[0] for key, to in pairs if to.startswith(_AUXILIARY)}


def _auxiliary_fits(design: Design, tensors: Mapping[str, Tensor], model: Segmenter) -> bool:
    """Whether its tensors match the network's auxiliary head one to one."""
    roots, state = _auxiliary_roots(design), model.state_dict()
    keys = [k for k in tensors if k.partition(".")[0] in roots and not is_training_only(k)]
    targets = {key: rename(key, design.key_mapping) for key in keys}
    same = all(
        target in state and design.import_tensor(key, tensors[key]).shape == state[target].shape
        for key, target in targets.items()
    )
    wanted = {k for k in state if k.startswith(_AUXILIARY) and not k.endswith(_COUNTER)}
    return same and wanted <= set(targets.values())


def _destinations(
    tensors: Mapping[str, Tensor], design: Design, model: Segmenter
) -> tuple[dict[str, str | None], dict[str, str]]:
    """Key in the file -> key here or None; and why the latter are left out."""
    mapping: dict[str, str | None] = {}
    left_out: dict[str, str] = {}
    state = model.state_dict()
    for key in tensors:
        mapping[key] = target = rename(key, design.key_mapping)
        why = _dropped(key, design)
        if why is None and target not in state and is_training_only(key):
            why = "losses, metrics and counters of the training"
        if why is not None:
            mapping[key], left_out[key] = None, why
    return mapping, left_out


def _dropped(key: str, design: Design) -> str | None:
    prefixes = [p for p in design.dropped if key == p or key.startswith(f"{p}.")]
    return design.dropped[prefixes[0]] if prefixes else None


def _check(
    path: Path,
    title: str,
    tensors: Mapping[str, Tensor],
    mapping: Mapping[str, str | None],
    left_out: Mapping[str, str],
    design: Design,
    model: Segmenter,
) -> None:
    """Raise unless tensors and keys of the network match one to one."""
    state = model.state_dict()
    sources: dict[str, str] = {}  # key here -> key in the file
    faults: dict[str, list[str]] = {
        name: []
        for name in ("unknown", "of another shape", "not numbers", "without values", "not finite")
    }
    for key, tensor in tensors.items():
        target = mapping[key]
        if target is None or target not in state:
            if key not in left_out:
                faults["unknown"].append(key)
        elif design.import_tensor(key, tensor).shape != state[target].shape:
            faults["of another shape"].append(key)
        elif tensor.is_meta:
            faults["without values"].append(key)
        elif not _is_number(key, tensor):
            faults["not numbers"].append(key)
        elif not torch.isfinite(tensor).all():
            faults["not finite"].append(key)  # a diverged training
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
    return numeric and tensor.layout is torch.strided and tensor.is_cpu


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
