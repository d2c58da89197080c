"""Record the inputs of attention blocks and compute their attention maps on request.

>>> from scenewise import create_model
>>> model = create_model("danet", num_classes=5, backbone="tiny").eval()
>>> with attention_maps(model) as maps:
...     _ = model(torch.randn(1, 3, 40, 56))
>>> list(maps.positions), list(maps.channels)
(['head.position.1'], ['head.channel.1'])
>>> maps.positions["head.position.1"].rows([(0, 0), (4, 6)]).shape
torch.Size([1, 2, 5, 7])
"""

import copy
import inspect
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from scenewise.attention import CrissCrossAttention, PositionAttention
from scenewise.attention.position import attention_map, pixel, pixels
from scenewise.errors import UserError
from scenewise.models.segmenter import evaluating

Place = tuple[int, ...]


class _Partners(NamedTuple):
    """The channels that one channel gathers from, by decreasing weight: both (B, count)."""

    channels: Tensor
    weights: Tensor


@dataclass(frozen=True)
class BlockMaps:
    """One block and the arguments of its latest calls; everything else is computed on request.

    Attributes:
        name: of the block inside the model.
        module: the block itself.
        calls: the arguments of its latest calls, oldest first.
    """

    name: str
    module: nn.Module
    calls: deque[tuple[Any, ...]]

    def before(self, call: int = -1) -> Tensor:
        """The block's input, (B, C, H, W): of a list of layers the last, of two inputs the first.

        Args:
            call: index of the kept call; -1 is the latest. Sliding-window inference makes one
                call for each window, row by row.

        Raises:
            UserError: the block did not run inside ``attention_maps``, or has fewer calls.
        """
        return main_input(self._arguments(call))

    def after(self, call: int = -1) -> Tensor:
        """The block's output, (B, C, H, W)."""
        out: Tensor = self._evaluate(self.module.forward, call)  # forward: runs no hooks
        return out

    def _arguments(self, call: int) -> tuple[Any, ...]:
        try:
            return self.calls[call]
        except IndexError:
            raise UserError(
                f"block '{self.name}' has {len(self.calls)} recorded calls and no call {call}; run "
                "the model inside attention_maps, with keep as large as the calls needed"
            ) from None

    def _evaluate(self, method: Any, call: int, **options: Any) -> Any:
        weight = next(self.module.parameters(), None)
        arguments = self._arguments(call)
        if weight is not None:  # autocast may have recorded another dtype
            arguments = tuple(_cast(x, weight.dtype) for x in arguments)
        with torch.no_grad(), evaluating(self.module):
            try:
                return method(*arguments, **options)
            except ValueError as error:
                raise UserError(f"block '{self.name}': {error}") from error


@dataclass(frozen=True)
class PositionMaps(BlockMaps):
    """A block in which pixels attend to pixels.

    Attributes:
        kept: a criss-cross block's input and the attention that all its pixels share, by rounds.
    """

    kept: dict[int, tuple[Tensor, list[Tensor]]] = field(default_factory=dict)

    def rows(self, at: Sequence[Place], *, call: int = -1, rounds: int | None = None) -> Tensor:
        """The attention of each of the places ``at``: what it gathers from.

        Args:
            at: (row, column) in the block's input, or (frame, row, column) for frames.
            call: see :meth:`before`.
            rounds: for criss-cross attention, the number of its rounds instead of all.

        Returns:
            (B, P, H, W), computed row by row, never for all pairs. H and W are those of the keys,
            which some blocks pool. Rows of softmax attention sum to 1.

        Raises:
            UserError: a place outside the features, or ``rounds`` of a block without rounds.
        """
        module = self.module if rounds is None else self._after_rounds(rounds)
        if isinstance(module, PositionAttention):
            result: Tensor = self._evaluate(partial(_rows, module), call, at=at)
            return result
        options = {}
        if isinstance(module, CrissCrossAttention):
            options["crosses"] = self._crosses(module, call)
        rows = [self._evaluate(module.weights, call, at=place, **options) for place in at]
        return torch.stack(rows, dim=1)  # P times (B, H, W) -> (B, P, H, W)

    def _crosses(self, module: CrissCrossAttention, call: int) -> list[Tensor]:
        x = self.before(call)
        known, crosses = self.kept.get(module.recurrence, (None, []))
        if known is not x:  # another input
            crosses = self._evaluate(module.crosses, call)
            self.kept[module.recurrence] = x, crosses
        return crosses

    def _after_rounds(self, rounds: int) -> nn.Module:
        most = getattr(self.module, "recurrence", None)
        if most is None or not 1 <= rounds <= most:
            raise UserError(
                f"block '{self.name}' has {most or 'no'} rounds, not {rounds}; omit rounds"
            )
        fewer = copy.copy(self.module)  # shares all weights
        fewer.recurrence = rounds  # type: ignore[assignment]
        return fewer


class ChannelMaps(BlockMaps):
    """A block in which channels attend to channels."""

    def weights(self, call: int = -1) -> Tensor:
        """What each channel gathers from: (B, C, C), rows sum to 1."""
        result: Tensor = self._evaluate(self.module.weights, call)
        return result

    def partners(self, channel: int, count: int = 5, call: int = -1) -> _Partners:
        """The ``count`` channels that ``channel`` gathers most from, and their weights."""
        weights = self.weights(call)
        if not 0 <= channel < weights.shape[1]:
            raise UserError(
                f"block '{self.name}' has channels 0 to {weights.shape[1] - 1}, not {channel}"
            )
        strongest = weights[:, channel].topk(min(count, weights.shape[2]))
        return _Partners(strongest.indices, strongest.values)


class GateMaps(BlockMaps):
    """A block that multiplies its input by gates (SE, CBAM)."""

    def gates(self, call: int = -1) -> Any:
        """The gates as the block returns them."""
        return self._evaluate(self.module.gates, call)


@dataclass(frozen=True)
class AttentionMaps:
    """The attention blocks of a model by their names.

    Attributes:
        positions: blocks in which pixels attend to pixels.
        channels: blocks in which channels attend to channels.
        gates: blocks that gate their input.
        gammas: the learned residual factor of every block that has one.
    """

    positions: dict[str, PositionMaps]
    channels: dict[str, ChannelMaps]
    gates: dict[str, GateMaps]
    gammas: dict[str, float]

    def blocks(self) -> dict[str, BlockMaps]:
        """All blocks."""
        return {**self.positions, **self.channels, **self.gates}


@contextmanager
def attention_maps(model: nn.Module, *, keep: int | None = 1) -> Iterator[AttentionMaps]:
    """Record the inputs of the attention blocks of ``model`` while the context is open.

    The hooks exist only inside the context, also after an error; attention is computed later, from
    the recorded inputs. A block is a module with a method ``weights(x, at=...)``, ``weights(x)`` or
    ``gates(x)``; blocks inside a block are not listed. Works with any model, batch and device, and
    with sliding windows: each call is recorded. A compiled model runs uncompiled inside the
    context, since compiled code does not call hooks that are added later.

    Args:
        model: may contain no block; then nothing is recorded.
        keep: number of latest calls kept for each block; None keeps all.

    Yields:
        The blocks with their recorded inputs; usable after the context as well.
    """
    maps = AttentionMaps({}, {}, {}, _gammas(model))
    with ExitStack() as hooks:
        for name, module, kind in _blocks(model):
            block = kind(name, module, deque(maxlen=keep))
            handle = module.register_forward_pre_hook(_recorder(block.calls))
            hooks.callback(handle.remove)
            if isinstance(block, PositionMaps):
                maps.positions[name] = block
            elif isinstance(block, ChannelMaps):
                maps.channels[name] = block
            elif isinstance(block, GateMaps):
                maps.gates[name] = block
        hooks.enter_context(uncompiled())
        yield maps


class _Uncompiled:
    """How many contexts are open in all threads, and PyTorch's setting, which they share."""

    lock = threading.Lock()
    count = 0
    stance: Any = None


@contextmanager
def uncompiled() -> Iterator[None]:
    """Inside, functions and modules of ``torch.compile`` run uncompiled, in all threads."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and its import takes seconds
        yield
        return
    with _Uncompiled.lock:
        if _Uncompiled.count == 0:
            _Uncompiled.stance = torch.compiler.set_stance("force_eager")
        _Uncompiled.count += 1
    try:
        yield
    finally:
        with _Uncompiled.lock:
            _Uncompiled.count -= 1
            if _Uncompiled.count == 0:
                _Uncompiled.stance.__exit__(None, None, None)


def cell(pixel: Place, image: Place, cells: Place, *, align_corners: bool) -> Place:
    """The cell of a feature map that is nearest to a pixel of the image.

    Args:
        pixel: (row, column) in the image.
        image: its (height, width).
        cells: (height, width) of the feature map.
        align_corners: as the model upsamples: whether the centres of the corner pixels coincide.

    >>> cell((0, 63), (48, 64), (6, 8), align_corners=True)
    (0, 7)
    >>> cell((8, 63), (48, 64), (6, 8), align_corners=False)
    (1, 7)
    """
    if align_corners:
        triples = zip(pixel, image, cells, strict=True)
        return tuple(int(i * (n - 1) / max(1, size - 1) + 0.5) for i, size, n in triples)
    return tuple(i * n // size for i, size, n in zip(pixel, image, cells, strict=True))


def _rows(module: PositionAttention, x: Tensor, at: Sequence[Place]) -> Tensor:
    """Rows of several places, with queries and keys computed once: (B, P, H, W)."""
    for row, column in at:
        pixel(x, (row, column))  # raises ValueError if outside
    index = torch.tensor([row * x.shape[3] + column for row, column in at], device=x.device)
    query = pixels(module.query(x))[:, index]  # (B, N, D) -> (B, P, D)
    weights = attention_map(query, pixels(module.key(x)), x, None)  # (B, P, N)
    return weights.view(*weights.shape[:2], *x.shape[2:])  # (B, P, H, W)


def modules_by_name(model: nn.Module) -> dict[str, nn.Module]:
    """All modules, by the names they have where nothing is compiled."""
    return {_written(name): module for name, module in model.named_modules()}


def _written(name: str) -> str:
    """The name of a module or parameter, without the wrappers of ``torch.compile``.

    >>> _written("_orig_mod.head._orig_mod.position"), _written("_orig_mod")
    ('head.position', '')
    """
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module, type[BlockMaps]]]:
    """Name, module and kind of the outermost blocks."""
    inside = "\0"  # no name starts with it
    for name, module in modules_by_name(model).items():
        if name.startswith(inside):
            continue
        kind = _kind(module)
        if kind is not None:
            inside = f"{name}." if name else ""
            yield name, module, kind


def _kind(module: nn.Module) -> type[BlockMaps] | None:
    weights = getattr(module, "weights", None)
    if callable(weights):
        return PositionMaps if "at" in inspect.signature(weights).parameters else ChannelMaps
    return GateMaps if callable(getattr(module, "gates", None)) else None


def _recorder(calls: deque[tuple[Any, ...]]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def record(_: nn.Module, args: tuple[Any, ...]) -> None:
        calls.append(tuple(_detached(arg) for arg in args))

    return record


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    return [_detached(part) for part in value] if isinstance(value, list | tuple) else value


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    return [_cast(part, dtype) for part in value] if isinstance(value, list | tuple) else value


def main_input(args: tuple[Any, ...]) -> Tensor:
    """The features that a block processes: its first argument, of a list of layers the last."""
    main: Tensor = args[0] if isinstance(args[0], Tensor) else args[0][-1]
    return main


def _gammas(model: nn.Module) -> dict[str, float]:
    return {
        _written(name).rpartition(".")[0]: float(value.detach())
        for name, value in model.named_parameters()
        if name.rpartition(".")[2] == "gamma" and value.numel() == 1
    }
