"""An image on the page with what one network computed for it."""

from typing import NamedTuple

from torch import Tensor

from scenewise.apps.app.state import ImageState, Network, Result, View
from scenewise.classes import Classes
from scenewise.errors import UserError, choose
from scenewise.inference.predictor import Prediction
from scenewise.visualize.attention_maps import BlockMaps, Place


class Panel(NamedTuple):
    """An image with a marked pixel, and one network that has predicted it.

    Attributes:
        state: which holds the result of ``network``.
        network: the model.
    """

    state: ImageState
    network: Network

    @property
    def at(self) -> Place:
        """The marked pixel."""
        if self.state.at is None:
            raise UserError("no pixel is marked; give its row and column")
        return self.state.at

    @property
    def result(self) -> Result:
        """What the network computed."""
        return self.state.results[self.network.name]

    @property
    def prediction(self) -> Prediction:
        """With all blocks."""
        return self.result.predictions[None]

    @property
    def view(self) -> View:
        """The recorded blocks."""
        if self.result.view is None:
            raise UserError("this image is in windows; give a pixel, whose window is recorded")
        return self.result.view

    @property
    def gradient(self) -> Tensor | None:
        """The gradient map (h, w) of the marked pixel, if it is kept."""
        return self.result.gradients.get((self.at, self.view.box))

    @property
    def classes(self) -> Classes:
        """The network's classes."""
        return self.network.model.classes

    def block(self, name: str) -> BlockMaps:
        """The recorded block called ``name``."""
        blocks = self.view.maps.blocks()
        if name not in blocks:
            raise UserError(f"unknown block '{name}'; {choose(name, blocks)}")
        return blocks[name]
