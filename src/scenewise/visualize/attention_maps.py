"""What the attention blocks of a network do to a picture.

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
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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


class Partners(NamedTuple):
    """Channels that one channel gathers from, the strongest first: both (B, count)."""

    channels: Tensor
    weights: Tensor


@dataclass(frozen=True)
class BlockMaps:
    """One block, and what went into it at its latest calls; all is computed when asked for.

    Attributes:
        name: of the block inside the model.
        module: the block itself.
        calls: the arguments of its latest calls, the latest last.
    """

    name: str
    module: nn.Module
    calls: deque[tuple[Any, ...]]

    def before(self, call: int = -1) -> Tensor:
        """The block's input, (B, C, H, W); of several layers the last, of two inputs the first.

        Args:
            call: which of the kept calls; -1 is the latest. A sliding window makes a call for
                each window, in reading order.

        Raises:
            UserError: the block did not run inside ``attention_maps``, or not so often.
        """
        return main_input(self._arguments(call))

    def after(self, call: int = -1) -> Tensor:
        """The block's output, (B, C, H, W)."""
        out: Tensor = self._ask(self.module.forward, call)  # not (): no hook runs
        return out

    def _arguments(self, call: int) -> tuple[Any, ...]:
        try:
            return self.calls[call]
        except IndexError:
            raise UserError(
                f"block '{self.name}' has {len(self.calls)} recorded calls, so call {call} is not "
                "there; run the model inside attention_maps, with keep as large as the calls needed"
            ) from None

    def _ask(self, method: Any, call: int, **options: Any) -> Any:
        arguments = self._arguments(call)
        with torch.no_grad(), evaluating(self.module):
            try:
                return method(*arguments, **options)
            except ValueError as error:
                raise UserError(f"block '{self.name}' cannot tell: {error}") from error


@dataclass(frozen=True)
class PositionMaps(BlockMaps):
    """A block in which pixels attend to pixels.

    Attributes:
        kept: what all pixels of a criss-cross block share, with its input, by rounds.
    """

    kept: dict[int, tuple[Tensor, list[Tensor]]] = field(default_factory=dict)

    def rows(self, at: Sequence[Place], *, call: int = -1, rounds: int | None = None) -> Tensor:
        """What each of the places ``at`` gathers from.

        Args:
            at: (row, column) in the block's input, or (frame, row, column) for frames.
            call: see :meth:`before`.
            rounds: for criss-cross attention, the number of its rounds instead of all.

        Returns:
            (B, P, H, W), computed row by row, never all pairs. The size is that of the keys, which
            some blocks pool. Rows of softmax attention sum to 1.

        Raises:
            UserError: a place outside, or rounds of a block that has none.
        """
        module = self.module if rounds is None else self._after_rounds(rounds)
        if isinstance(module, PositionAttention):
            found: Tensor = self._ask(partial(_rows, module), call, at=at)
            return found
        options = {}
        if isinstance(module, CrissCrossAttention):
            options["crosses"] = self._crosses(module, call)
        rows = [self._ask(module.weights, call, at=place, **options) for place in at]
        return torch.stack(rows, dim=1)

    def _crosses(self, module: CrissCrossAttention, call: int) -> list[Tensor]:
        x = self.before(call)
        known, crosses = self.kept.get(module.recurrence, (None, []))
        if known is not x:
            crosses = self._ask(module.crosses, call)
            self.kept[module.recurrence] = x, crosses
        return crosses

    def _after_rounds(self, rounds: int) -> nn.Module:
        most = getattr(self.module, "recurrence", None)
        if most is None or not 1 <= rounds <= most:
            raise UserError(
                f"block '{self.name}' has {most or 'no'} rounds, not {rounds}; leave rounds out"
            )
        fewer = copy.copy(self.module)  # shares all weights
        fewer.recurrence = rounds  # type: ignore[assignment]
        return fewer


class ChannelMaps(BlockMaps):
    """A block in which channels attend to channels."""

    def weights(self, call: int = -1) -> Tensor:
        """What each channel gathers from: (B, C, C), rows sum to 1."""
        found: Tensor = self._ask(self.module.weights, call)
        return found

    def partners(self, channel: int, count: int = 5, call: int = -1) -> Partners:
        """The channels that ``channel`` gathers most from."""
        weights = self.weights(call)
        if not 0 <= channel < weights.shape[1]:
            raise UserError(
                f"block '{self.name}' has channels 0 to {weights.shape[1] - 1}, not {channel}"
            )
        strongest = weights[:, channel].topk(min(count, weights.shape[2]))
        return Partners(strongest.indices, strongest.values)


class GateMaps(BlockMaps):
    """A block that multiplies its input by gates (SE, CBAM)."""

    def gates(self, call: int = -1) -> Any:
        """The gates as the block gives them."""
        return self._ask(self.module.gates, call)


@dataclass(frozen=True)
class AttentionMaps:
    """The attention blocks of a model by their names in it.

    Attributes:
        positions: blocks in which pixels attend to pixels.
        channels: blocks in which channels attend to channels.
        gates: blocks that gate their input.
        gammas: the learned factor of every residual that has one.
    """

    positions: dict[str, PositionMaps]
    channels: dict[str, ChannelMaps]
    gates: dict[str, GateMaps]
    gammas: dict[str, float]

    def blocks(self) -> dict[str, BlockMaps]:
        """All of them."""
        return {**self.positions, **self.channels, **self.gates}


@contextmanager
def attention_maps(model: nn.Module, *, keep: int | None = 1) -> Iterator[AttentionMaps]:
    """Record what goes into the attention blocks of ``model`` while the context is open.

    The model is left as it was found, also after an error: the hooks are there only inside, and
    what is asked later is computed from the recorded inputs. A block is a module that has a
    method ``weights(x, at=...)``, ``weights(x)`` or ``gates(x)``; blocks inside a block are its own
    affair. Works with any model, batch, device, and with windows: each call is recorded.

    Args:
        model: may hold no block; then nothing is recorded.
        keep: how many of the latest calls of each block are kept; None keeps all.

    Yields:
        The maps. They stay usable after the context.
    """
    found = AttentionMaps({}, {}, {}, _gammas(model))
    handles = []
    try:
        for name, module, kind in _blocks(model):
            block = kind(name, module, deque(maxlen=keep))
            handles.append(module.register_forward_pre_hook(_recorder(block.calls)))
            if isinstance(block, PositionMaps):
                found.positions[name] = block
            elif isinstance(block, ChannelMaps):
                found.channels[name] = block
            elif isinstance(block, GateMaps):
                found.gates[name] = block
        yield found
    finally:
        for handle in handles:
            handle.remove()


def cell(pixel: Place, picture: Place, cells: Place, *, align_corners: bool) -> Place:
    """The cell of a feature map that is nearest to a pixel of the picture.

    Args:
        pixel: (row, column) in the picture.
        picture: its (height, width).
        cells: (height, width) of the feature map.
        align_corners: whether the corners of both lie on each other, as the model upsamples maps.

    >>> cell((0, 63), (48, 64), (6, 8), align_corners=True)
    (0, 7)
    >>> cell((8, 63), (48, 64), (6, 8), align_corners=False)
    (1, 7)
    """
    if align_corners:
        triples = zip(pixel, picture, cells, strict=True)
        return tuple(int(i * (n - 1) / max(1, size - 1) + 0.5) for i, size, n in triples)
    return tuple(i * n // size for i, size, n in zip(pixel, picture, cells, strict=True))


def _rows(module: PositionAttention, x: Tensor, at: Sequence[Place]) -> Tensor:
    """Rows of several places with the queries and keys of the map computed once."""
    for row, column in at:
        pixel(x, (row, column))  # raises ValueError outside
    index = torch.tensor([row * x.shape[3] + column for row, column in at], device=x.device)
    query = pixels(module.query(x))[:, index]
    weights = attention_map(query, pixels(module.key(x)), x, None)  # (B, P, N)
    return weights.view(*weights.shape[:2], *x.shape[2:])


def _blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module, type[BlockMaps]]]:
    """Name, module and kind of the outermost blocks."""
    inside = "\0"
    for name, module in model.named_modules():
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


def main_input(args: tuple[Any, ...]) -> Tensor:
    """The features that a block works on: its first argument, of a list of layers the last."""
    main: Tensor = args[0] if isinstance(args[0], Tensor) else args[0][-1]
    return main


def _gammas(model: nn.Module) -> dict[str, float]:
    return {
        name.rpartition(".")[0]: float(value.detach())
        for name, value in model.named_parameters()
        if name.rpartition(".")[2] == "gamma" and value.numel() == 1
    }
