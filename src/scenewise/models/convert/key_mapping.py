"""Where every tensor of a file goes, and whether that fills a network exactly."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scenewise.errors import UserError
from scenewise.models.build import create_model
from scenewise.models.convert.detect import FAMILIES, recognise
from scenewise.models.convert.spec import Design, Options, Source, absolute
from scenewise.models.resnet_keys import rename
from scenewise.models.safe_load import read_file, tensors_of
from scenewise.models.segmenter import Segmenter

_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Plan:
    """What a conversion does.

    Attributes:
        file: the public checkpoint.
        family: its name.
        sha256: of the file.
        options: what was given, not recognised.
        design: network, classes, preprocessing.
        model: the network, without memory for its weights (on PyTorch's ``meta`` device).
        places: each name in the file to ours; None where it is left out on purpose.
        tensors: of the file, by their names there.
    """

    file: Path
    family: str
    sha256: str
    options: Options
    design: Design
    model: Segmenter
    places: dict[str, str | None]
    tensors: Mapping[str, Tensor]

    @property
    def placed(self) -> int:
        """How many tensors have a place."""
        return sum(ours is not None for ours in self.places.values())

    def source(self) -> dict[str, Any]:
        """Where the model comes from, JSON-able; it travels with the model."""
        return {
            "file": self.file.name,
            "sha256": self.sha256,
            "family": self.family,
            "options": self.options.given(),
        }


def make_plan(file: str | Path, options: Options | None = None) -> Plan:
    """Recognise a public checkpoint and find a place for each of its tensors.

    Raises:
        UserError: the file is missing, damaged or wants to run code; its family is unknown; or its
            tensors do not fill the family's network exactly, with the first that do not fit.
    """
    path, options = Path(file), options or Options()
    content = read_file(path)
    source = Source(path.name, tensors_of(content, path), content)
    family = recognise(source, options.family)
    design = FAMILIES[family].design(source, options)
    if options.recurrence is not None:
        _check_recurrence(options.recurrence, design)
    model = _empty_model(design)
    places = {key: _place(key, design) for key in source.tensors}
    _check(path, FAMILIES[family].title, source.tensors, places, design, model)
    return Plan(path, family, _sha256(path), options, design, model, places, source.tensors)


def fill(plan: Plan) -> Segmenter:
    """The network of a plan with its weights, in evaluation mode."""
    model, found = plan.model, {}
    for key, ours in plan.places.items():
        if ours is not None:
            found[ours] = plan.design.to_ours(key, plan.tensors[key])
    wanted = model.state_dict()
    if plan.design.absolute_norms:
        for ours in _norms(wanted):
            found[ours] = absolute(ours, found[ours])
    for ours, like in wanted.items():
        value = found[ours] if ours in found else torch.zeros(like.shape)  # a missing counter
        found[ours] = value.to(like.dtype).contiguous().clone()
    model.load_state_dict(found, assign=True)
    model.source = plan.source()
    return model.eval()


def _check_recurrence(recurrence: int, design: Design) -> None:
    if "recurrence" not in design.arguments:
        raise UserError(f"network '{design.network}' has no recurrence; leave that option out")
    if recurrence < 1:
        raise UserError(f"recurrence is {recurrence}; give 1 or more")


def _empty_model(design: Design) -> Segmenter:
    with torch.device("meta"):
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


def _place(key: str, design: Design) -> str | None:
    return None if _is_dropped(key, design) else rename(key, design.places)


def _is_dropped(key: str, design: Design) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in design.dropped)


def _check(
    path: Path,
    title: str,
    tensors: Mapping[str, Tensor],
    places: Mapping[str, str | None],
    design: Design,
    model: Segmenter,
) -> None:
    """Every tensor of the file has its place, and every place its tensor."""
    wanted = model.state_dict()
    taken: dict[str, str] = {}
    faults: dict[str, list[str]] = {"unknown": [], "of another shape": [], "not numbers": []}
    for key, tensor in tensors.items():
        ours = places[key]
        if ours is None or ours not in wanted:
            if not _is_dropped(key, design):
                faults["unknown"].append(key)
        elif design.to_ours(key, tensor).shape != wanted[ours].shape:
            faults["of another shape"].append(key)
        elif not _is_number(key, tensor):
            faults["not numbers"].append(key)
        elif ours in taken and not torch.equal(tensor, tensors[taken[ours]]):
            faults["unknown"].append(key)  # a layer stored twice, but not alike
        else:
            taken[ours] = key
    missing = [k for k in wanted if k not in places.values() and not k.endswith(_COUNTER)]
    faults["missing"] = [f"for {key}" for key in missing]
    told = [f"{len(keys)} {what} ({_first(keys)})" for what, keys in faults.items() if keys]
    if told:
        raise UserError(
            f"'{path}' looks like {title} but does not fit its {design.network} with "
            f"{design.backbone}: {'; '.join(told)}; nothing was converted"
        )


def _is_number(key: str, tensor: Tensor) -> bool:
    kind = tensor.dtype.is_floating_point or key.endswith(_COUNTER)
    return kind and tensor.layout is torch.strided and not tensor.is_meta


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def _norms(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the scales of all batch norms."""
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
