"""What the page computes: models, images, and what is kept of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from scenewise.apps.app.images import Images
from scenewise.apps.app.panel import Panel
from scenewise.apps.app.state import ImageState, Network, Report, silent
from scenewise.apps.app.titles import describe, titles
from scenewise.errors import UserError, choose
from scenewise.inference.predictor import layout_of
from scenewise.visualize.attention_maps import Place
from scenewise.visualize.effect import innermost
from scenewise.visualize.gradient import gradient_map

_FLIPPED = 0.5  # of the pixels around a pixel that is shown as an example of a changed class
_CELLS = 2**14  # of a gradient map; that of attention has the cells of its block


class UnknownModel(UserError):
    """An id that no model has."""


@dataclass(frozen=True)
class Explorer:
    """The models that the page offers, by their position, and the images.

    Attributes:
        networks: they take images of the same channels and bits.
        folder: of sample images; None offers generated scenes.
    """

    networks: Sequence[Network]
    folder: Path | None = None

    def __post_init__(self) -> None:
        first, *others = self.networks
        for network in others:
            if (taken := layout_of(network.model)) != layout_of(first.model):
                raise UserError(
                    f"model '{network.name}' takes {taken} and '{first.name}' "
                    f"{layout_of(first.model)}; show them on two pages"
                )

    @cached_property
    def images(self) -> Images:
        """The samples and the uploaded images."""
        return Images(layout_of(self.networks[0].model), self.folder)

    @cached_property
    def models(self) -> list[dict[str, Any]]:
        """The models as the page lists them."""
        named = titles(self.networks)
        return [describe(n, k, named[k]) for k, n in enumerate(self.networks)]

    def network(self, model: str) -> Network:
        """The model with an id.

        Raises:
            UnknownModel: there is none.
        """
        ids = [str(index) for index in range(len(self.networks))]
        if model not in ids:
            raise UnknownModel(f"unknown model '{model}'; {choose(model, ids)}")
        return self.networks[int(model)]

    def checked(self, network: Network, block: str | None) -> str | None:
        """The name of a block, if the network has it.

        Raises:
            UserError: it has not.
        """
        blocks = network.maps.blocks()
        if block is not None and block not in blocks:
            known = choose(block, blocks) if blocks else "the model has no attention blocks"
            raise UserError(f"unknown block '{block}'; {known}")
        return block

    def state(self, image: str, at: Place | None) -> ImageState:
        """An image with a marked pixel.

        Raises:
            UserError: there is no such image, or the pixel is outside.
        """
        state = self.images.get(image)
        return state if at is None else state.marked(at[0], at[1])

    def panel(
        self,
        image: str,
        network: Network,
        at: Place | None = None,
        without: str | None = None,
        report: Report = silent,
    ) -> Panel:
        """An image with all that was asked for; what is missing is computed and kept."""
        state = self.state(image, at)
        if not state.has(network, without):
            state = state.computed(network, without, report)
            self.images.keep(image, state)
        return Panel(state, network)

    def gradient(
        self, image: str, network: Network, at: Place, report: Report = silent
    ) -> tuple[Panel, Tensor]:
        """An image and the gradient map (h, w) of a pixel, which is computed once and kept.

        It is that of the class predicted at the pixel, averaged to a few thousand cells; of an
        image in windows, over the window that is nearest.

        Raises:
            UserError: Captum is not installed, or the pixel is outside the image.
        """
        panel = self.panel(image, network, at, None, report)
        if panel.gradient is not None:
            return panel, panel.gradient
        view, label = panel.view, int(panel.prediction.labels[at])
        with network.lock:
            crop = view.box.of(panel.state.image)
            row = _pooled(gradient_map(network.model, crop, view.inside(at), label))
        self.images.keep(image, panel.state.with_gradient(network, (at, view.box), row))
        return panel, row

    def example(self, report: Report = silent) -> Place | None:
        """A pixel of the first sample whose class a block over pixels decides in the first model.

        The middle of the largest region that has another class without the block; None where
        there is no such region.
        """
        network, best, most = self.networks[0], None, 0.0
        if not self.images.samples:
            return None
        for block in network.maps.positions:
            try:
                panel = self.panel("sample-0", network, None, block, report)
            except UserError:  # the block cannot be switched off
                continue
            other = panel.result.predictions[block].labels
            at, share = innermost(other != panel.prediction.labels)
            if share > max(most, _FLIPPED):
                best, most = at, share
        return best


def _pooled(whole: Tensor) -> Tensor:
    """The mean of (H, W) in at most ``_CELLS`` squares.

    >>> import torch
    >>> _pooled(torch.ones(1000, 2000)).shape
    torch.Size([90, 181])
    """
    factor = min(1.0, (_CELLS / whole.numel()) ** 0.5)
    height, width = (max(1, int(side * factor)) for side in whole.shape)
    return F.adaptive_avg_pool2d(whole[None], (height, width))[0]
