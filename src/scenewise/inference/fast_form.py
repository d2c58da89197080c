"""FastForm: the fast copy of a network that a Predictor runs, made again when that changes."""

from typing import Any

import torch
from torch import Tensor, nn

from scenewise.models.segmenter import Segmenter

_SAMPLES = 16  # values of a tensor that are compared, besides its version counter
_SIMPLE = (bool, int, float, str, type(None))  # attributes of a layer that are compared
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class FastForm:
    """What :func:`~scenewise.models.optimize.fuse.for_inference` makes of a network, kept.

    Before each use the copy is compared with the network: its layers and their settings, its
    parameters and buffers (which they are, their version counters, and a few values of each, since
    writing to ``.data`` counts no version). After a change it is made again.

    The network itself is used where the copy would be wrong or no faster: with forward hooks, which
    see its own layers, other than float32, on other devices than the CPU, and where it cannot be
    copied.

    >>> from scenewise import create_model
    >>> model = create_model("fcn", num_classes=3, backbone="tiny")
    >>> form = FastForm(model)
    >>> copy = form.network()
    >>> copy is form.network(), copy is model
    (True, False)
    >>> _ = nn.init.zeros_(model.head.classify[1].bias)
    >>> form.network() is copy
    False
    """

    def __init__(self, model: Segmenter) -> None:
        self._model = model
        self._copy: Segmenter | None = None
        self._state: tuple[list[Any], Tensor] | None = None

    def network(self) -> Segmenter:
        """The copy if it may be used, else the network."""
        if not _is_plain(self._model):
            return self._model
        state = _state(self._model)
        if self._copy is None or self._state is None or not _equal(self._state, state):
            self._copy = None  # frees its memory first
            self._copy, self._state = _fast_copy(self._model), state
        return self._copy


def _fast_copy(model: Segmenter) -> Segmenter:
    from scenewise.models.optimize.fuse import for_inference  # not needed where nothing is fast

    try:
        with torch.random.fork_rng(devices=[]):  # new layers draw random numbers
            return for_inference(model)
    except Exception:  # parts that cannot be copied, or that do not take the small test image
        return model


def _is_plain(model: nn.Module) -> bool:
    """Whether a copy does the same: a float32 network on the CPU that nobody observes."""
    if not isinstance(model, Segmenter):  # a compiled one
        return False
    modules = list(model.modules())
    if not any(isinstance(module, nn.Conv2d) for module in modules):
        return False  # nothing to gain; another runtime's network has no layers at all
    observed = any(
        "forward" in vars(m) or "low_res" in vars(m) or any(vars(m).get(name) for name in _HOOKS)
        for m in modules
    )
    tensors = [*model.parameters(), *model.buffers()]
    return not observed and all(
        type(t) in (Tensor, nn.Parameter)
        and t.device.type == "cpu"
        and (t.dtype == torch.float32 or not t.is_floating_point())
        for t in tensors
    )


def _state(model: Segmenter) -> tuple[list[Any], Tensor]:
    """What the copy depends on: objects and settings in a list, and values of all tensors."""
    items: list[Any] = [model.preprocessing, model.classes]
    for module in model.modules():
        items.append(_Same(module))
        settings = vars(module).items()
        items += [v for name, v in settings if name != "training" and _is_simple(v)]
    samples = []
    for tensor in [*model.parameters(), *model.buffers()]:
        version = 0 if tensor.is_inference() else tensor._version
        items += [_Same(tensor), tensor.data_ptr(), version]
        samples.append(_sample(tensor.detach()))
    return items, torch.cat(samples)


def _is_simple(value: object) -> bool:
    return type(value) in _SIMPLE or (type(value) is tuple and all(map(_is_simple, value)))


def _sample(tensor: Tensor) -> Tensor:
    """About ``_SAMPLES`` values of a tensor, along its first axis, without a copy of the rest."""
    values = tensor.view(1) if tensor.ndim == 0 else tensor
    while values.ndim > 1:
        values = values.select(-1, 0)
    return values[:: max(1, len(values) // _SAMPLES)].double()


class _Same:
    """Equal if it is the same object, which it keeps alive, so that its id is not used again."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    __hash__ = None  # type: ignore[assignment]


def _equal(state: tuple[list[Any], Tensor], other: tuple[list[Any], Tensor]) -> bool:
    return state[0] == other[0] and torch.equal(
        state[1].nan_to_num(nan=0.0), other[1].nan_to_num(nan=0.0)
    )
