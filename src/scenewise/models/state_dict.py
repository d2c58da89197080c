"""Find the state dict in a checkpoint: wrappers, copies of averaged weights, prefixes."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from scenewise.errors import UserError
from scenewise.models.safe_load import read_file
from scenewise.models.stand_ins import Inert

# Entries around the tensors, in the order of preference where a file has several.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network")
# Entries whose tensors are not the network's.
_OTHERS = re.compile(
    r"optim|sched|scaler|^(meta|message_hub|history|hyper_parameters|loops|callbacks|rng|random)"
)
_AVERAGED = re.compile(r"(^|_)(ema|teacher|swa|averaged|shadow)(_|$)")
_PREFIXES = {
    *("module", "model", "net", "network", "segmentor", "student", "online_model", "seg_model"),
    "base_model",
}
_COMPILED = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")
_TRAINING_ONLY = re.compile(
    r"(.*_)?(loss|losses|criterion|criteria|metric|metrics|confmat|iou|jaccard|accuracy)(_.*|\d*)"
    r"|data_preprocessor|n_averaged|total_ops|total_params|initted|steps?"
)
_DEPTH = 3  # of wrappers around each other, as in {"ema": {"module": {...}}}


@dataclass(frozen=True)
class StateDict:
    """Named tensors, and where in the file they were.

    Attributes:
        tensors: without the prefix.
        place: the entries around them, such as ``"ema.module"``; empty for the file itself.
        prefix: what was removed from all names, such as ``"module.model."``.
        left_out: other tensors of the file by their names, and why they are left out.
    """

    tensors: dict[str, Tensor]
    place: str = ""
    prefix: str = ""
    left_out: dict[str, str] = field(default_factory=dict)

    def below(self, prefix: str) -> "StateDict":
        """The tensors whose names start with ``prefix``, without it; the others are left out."""
        inside = {
            k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)
        }
        prefix = self.prefix + prefix
        outside = {
            self.prefix + key: f"outside '{prefix}'"
            for key in self.tensors
            if not (self.prefix + key).startswith(prefix)
        }
        return replace(self, tensors=inside, prefix=prefix, left_out=self.left_out | outside)


def find_state_dict(
    content: Mapping[str, Any], path: str | Path, *, ema: bool | None = None
) -> StateDict:
    """The tensors of one network in the result of :func:`read_file`.

    Args:
        content: of the file; a network that was saved whole is an inert object in it.
        path: of the file, for error messages.
        ema: whether to take the averaged weights (EMA) where the file has both copies; None takes
            what the program that wrote the file would deploy: mostly the weights themselves.

    Raises:
        UserError: no tensors; several networks; no copy as ``ema`` wants it.

    >>> import torch
    >>> found = find_state_dict({"model": {"module.net.a.weight": torch.ones(2)}, "epoch": 3}, "x")
    >>> list(found.tensors), found.place, found.prefix
    (['a.weight'], 'model', 'module.net.')
    """
    copies = [copy for holder in _holders(content) for copy in _split(holder)]
    weights = [copy for copy in copies if any(t.ndim > 1 for t in copy.tensors.values())]
    copies = weights or copies  # class weights beside the network are not another network
    if not copies:
        raise UserError(f"weights '{path}' hold no named tensors; give a state_dict")
    swapped = "ema_state_dict" in content and "message_hub" in content
    if swapped:  # mmengine's EMAHook puts the averaged weights into state_dict, as in deployment
        copies = [copy._replace(averaged=not copy.averaged) for copy in copies]
    flat = {key for copy in copies for key in _flat_copy(copy.tensors)}
    if flat and ema is not None:
        raise UserError(
            f"'{path}' holds two copies of the weights from mmcv's EMA hook, and does not say which"
            " is averaged; leave ema out, which takes the copy under the network's names"
        )
    chosen = _choice(copies, path, swapped if ema is None else ema, required=ema is not None)
    left_out = {copy.name: _why(copy, chosen) for copy in copies if copy is not chosen}
    left_out |= dict.fromkeys(sorted(flat), "second copy of mmcv's EMA hook, averaged or not")
    tensors = {key: tensor for key, tensor in chosen.tensors.items() if key not in flat}
    return _without_prefixes(StateDict(tensors, chosen.place, chosen.prefix, left_out))


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The named tensors of a ``.safetensors`` file or of a ``torch.save`` file.

    Wrappers and prefixes are removed, see :func:`find_state_dict`.

    Raises:
        UserError: the file is missing, damaged, holds no tensors, or would run code.

    >>> import tempfile, torch
    >>> file = Path(tempfile.mkdtemp()) / "w.pth"
    >>> torch.save({"state_dict": {"module.a": torch.ones(2)}, "epoch": 3}, file)
    >>> read_tensors(file)
    {'a': tensor([1., 1.])}
    """
    return find_state_dict(read_file(path), path).tensors


def is_training_only(key: str) -> bool:
    """Whether a tensor is a loss's, a metric's or a tool's by its name, not the network's.

    >>> is_training_only("decode_head.loss_decode.class_weight"), is_training_only("head.weight")
    (True, False)
    """
    return any(map(_TRAINING_ONLY.fullmatch, key.split(".")))


def shared_prefix(tensors: Mapping[str, Tensor]) -> str:
    """The first component that all names share, such as ``"danet."``; empty without one.

    Tensors of losses and metrics may have other names.
    """
    names = [key for key in tensors if not is_training_only(key)]
    first = {key.partition(".")[0] for key in names if "." in key}
    return f"{first.pop()}." if len(first) == 1 and all("." in key for key in names) else ""


class _Copy(NamedTuple):
    """One copy of a network's tensors in the file."""

    place: str
    prefix: str
    averaged: bool
    tensors: dict[str, Tensor]

    @property
    def name(self) -> str:
        return f"{self.place}.{self.prefix}".strip(".") or "the other names"


def _holders(
    value: Any, place: str = "", depth: int = 0
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Places of dictionaries with named tensors of one axis or more, and their tensors."""
    if isinstance(value, Inert):
        tensors = dict(_module_tensors(value))
    elif isinstance(value, Mapping):
        tensors = {str(key): item for key, item in value.items() if isinstance(item, Tensor)}
        for key, item in value.items():
            if depth < _DEPTH and isinstance(key, str) and not _OTHERS.search(key):
                yield from _holders(item, f"{place}.{key}" if place else key, depth + 1)
    else:
        return
    if any(tensor.ndim for tensor in tensors.values()):
        yield place, {_COMPILED.sub("", key).lstrip("."): item for key, item in tensors.items()}


def _module_tensors(module: Inert, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """What ``state_dict()`` would return of a network that was saved whole."""
    state = module.state if isinstance(module.state, Mapping) else {}
    local = state.get("_non_persistent_buffers_set", ())
    for part in ("_parameters", "_buffers"):
        for name, value in _items(state.get(part)):
            if isinstance(value, Tensor) and name not in local:
                yield f"{prefix}{name}", value
    for name, child in _items(state.get("_modules")):
        if isinstance(child, Inert):
            yield from _module_tensors(child, f"{prefix}{name}.")


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()


def _split(holder: tuple[str, dict[str, Tensor]]) -> Iterator[_Copy]:
    """The copy in one dictionary; two where the names start with ``teacher.`` and others."""
    place, tensors = holder
    averaged = any(map(_AVERAGED.search, place.split(".")))
    inner = {k: v for k, v in tensors.items() if _AVERAGED.search(k.partition(".")[0]) and "." in k}
    rest = {k: v for k, v in tensors.items() if k not in inner}
    if not any(tensor.ndim > 1 for tensor in inner.values()):
        yield _Copy(place, "", averaged, tensors)
        return
    if any(tensor.ndim > 1 for tensor in rest.values()):
        yield _Copy(place, "", averaged, rest)
    prefix = f"{next(iter(inner)).partition('.')[0]}."
    yield _Copy(place, prefix, True, {k.removeprefix(prefix): v for k, v in inner.items()})


def _choice(copies: Sequence[_Copy], path: str | Path, averaged: bool, *, required: bool) -> _Copy:
    """The one copy that is averaged, or not, in the preferred wrapper."""
    candidates = [copy for copy in copies if copy.averaged == averaged]
    if not candidates and required:
        kind = "averaged weights (EMA)" if averaged else "weights but averaged ones (EMA)"
        raise UserError(f"'{path}' holds no {kind}; leave ema out")
    candidates = candidates or list(copies)
    for wrapper in _WRAPPERS:
        for copy in candidates:
            if copy.place == wrapper:
                return copy
    if len(candidates) > 1:
        names = ", ".join(copy.name for copy in candidates[:4])
        raise UserError(
            f"'{path}' holds the tensors of several networks ({names}); save the state_dict of "
            "one alone"
        )
    return candidates[0]


def _why(copy: _Copy, chosen: _Copy) -> str:
    if copy.averaged == chosen.averaged:
        return "another copy of the weights"
    return "averaged weights (EMA)" if copy.averaged else "weights before averaging (EMA)"


def _flat_copy(tensors: Mapping[str, Tensor]) -> set[str]:
    """Names of the buffers of mmcv's EMA hook: ``ema_a_b_weight`` for ``a.b.weight``."""
    return {f"ema_{key.replace('.', '_')}" for key in tensors} & tensors.keys()


def _without_prefixes(found: StateDict) -> StateDict:
    """Remove prefixes of wrappers that most names have; the other tensors are left out."""
    while True:
        names = [key for key in found.tensors if not is_training_only(key)]
        counts = Counter(key.partition(".")[0] for key in names if "." in key)
        first, count = max(counts.items(), key=lambda item: item[1], default=("", 0))
        if first not in _PREFIXES or 2 * count <= len(names):
            return found
        found = found.below(f"{first}.")
