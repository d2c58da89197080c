"""What the page computes for its visitors: predictions, samples, and the state of the controls.

Nothing in this module depends on Gradio.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from scenewise.apps.app.render import (
    ATTENTION,
    BEFORE,
    CHANNEL,
    CLASSES,
    Choice,
    Message,
    Panel,
    data_url,
    most_rounds,
)
from scenewise.apps.app.state import (
    FUSED,
    MAX_SECONDS,
    Network,
    Report,
    Stopped,
    VisitorState,
    read_upload,
    windows,
)
from scenewise.data.images import SUFFIXES
from scenewise.data.layout import RGB, Layout
from scenewise.data.scenes import Scenes
from scenewise.errors import UserError, choose
from scenewise.inference.predictor import display, layout_of

_MAX_SAMPLES = 24  # their thumbnails are part of the page that every visitor loads
_NO_IMAGE = (
    "no image is open; upload one or choose a sample (images are removed after "
    f"{MAX_SECONDS // 60} minutes, or sooner when there are many visitors)"
)


@dataclass
class _Job:
    stopped: bool = False


@dataclass(frozen=True)
class Explorer:
    """The models that the page offers, and the work in progress.

    Attributes:
        networks: by name; they take images of the same channels and bits.
        folder: of sample images; None offers generated scenes.
        jobs: the work in progress, by visitor.
    """

    networks: dict[str, Network]
    folder: Path | None = None
    jobs: dict[str, _Job] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, network in self.networks.items():
            if (taken := layout_of(network.model)) != self.layout:
                raise UserError(
                    f"model '{name}' takes {taken} and '{next(iter(self.networks))}' "
                    f"{self.layout}; show them on two pages"
                )

    @property
    def layout(self) -> Layout:
        """The channels and bits of the images that the networks take."""
        return layout_of(next(iter(self.networks.values())).model)

    @contextmanager
    def job(self, visitor: str, report: Report) -> Iterator[Report]:
        """New work of ``visitor``, which replaces older work: ``report``, which raises if stopped.

        Raises:
            Stopped: from ``report``, after :meth:`stop` or newer work of the same visitor.
        """
        self.stop(visitor)
        job = self.jobs[visitor] = _Job()

        def report_unless_stopped(done: float) -> None:
            if job.stopped:
                raise Stopped("stopped; the previous image is unchanged")
            report(done)

        try:
            yield report_unless_stopped
        finally:
            if self.jobs.get(visitor) is job:  # not replaced by newer work
                del self.jobs[visitor]

    def stop(self, visitor: str) -> None:
        """End the work of ``visitor`` before its next layer."""
        if visitor in self.jobs:
            self.jobs[visitor].stopped = True

    def computed(
        self, state: VisitorState, choices: Sequence[Choice], report: Report
    ) -> VisitorState:
        """The state with all that is needed to draw ``choices``."""
        for choice in choices:
            network = self.networks[choice.network]
            state = state.predicted(network, choice.branch, report).recorded(network, report)
        return state

    def panel(self, state: VisitorState | None, choice: Choice) -> Panel:
        """A panel of a state with an image.

        Raises:
            UserError: there is no state, so no image.
        """
        if state is None:
            raise UserError(_NO_IMAGE)
        return Panel(state, self.networks[choice.network], choice)

    def sample_names(self) -> list[str]:
        """Names of the samples.

        Raises:
            UserError: the folder does not exist or holds no image.
        """
        if self.folder is None:
            return [f"scene {k}" for k in range(6)] if self.layout == RGB else []
        if not self.folder.is_dir():
            raise UserError(f"folder '{self.folder}' not found; give --samples a folder of images")
        names = sorted(p.name for p in self.folder.iterdir() if p.suffix.lower() in SUFFIXES)
        if not names:
            raise UserError(f"no image in '{self.folder}'; give --samples a folder of images")
        return names[:_MAX_SAMPLES]

    def sample(self, name: str) -> VisitorState:
        """A state with the sample called ``name``.

        Raises:
            UserError: there is no sample of that name, or it cannot be read.
        """
        names = self.sample_names()
        if name not in names:  # also keeps "../" out: the name comes from the browser
            raise UserError(f"unknown sample '{name}'; {choose(name, names)}")
        if self.folder is None:
            return VisitorState(name, Scenes(len(names)).read(names.index(name))[0])
        return VisitorState(name, read_upload(self.folder / name, name, self.layout))

    def sample_buttons(self) -> list[Message]:
        """Names and thumbnails of the samples that can be read."""
        buttons = []
        for name in self.sample_names():
            try:
                image = display(self.sample(name).image, next(iter(self.networks.values())).model)
                buttons.append({"name": name, "url": _thumbnail(image)})
            except UserError:
                continue
        return buttons


def _thumbnail(pixels: Tensor) -> str:
    """A JPEG of (3, H, W), at most 320 pixels wide and high, as a data URL."""
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())  # (H, W, 3)
    image.thumbnail((320, 320))
    return data_url(image, "JPEG")


def greeting(state: VisitorState) -> str:
    """The message about a new image."""
    height, width = state.size
    text = f"{state.name}, {height} x {width} pixels."
    if state.window is None:
        return text
    return (
        f"{text} {'Memory is short' if state.side else 'The image is large'}, so it was predicted "
        f"in {len(windows(state.size, state.window))} windows of {state.window} x {state.window}; "
        "attention reaches to the edge of a window."
    )


def first_choice(network: Network) -> Choice:
    """What a panel shows at first: classes; the block is one with attention between pixels."""
    maps = network.maps
    block = next(iter([*maps.positions, *maps.blocks()]), None)  # else over channels
    rounds = most_rounds(maps.blocks()[block]) if block else 1
    return Choice(network.name, FUSED, CLASSES, block, rounds, 0, BEFORE)  # channel 0


def on_click(network: Network, choice: Choice) -> Choice:
    """The choice after a click on a pixel: attention instead of classes, if the model has any."""
    shows = choice.show == CLASSES and network.maps.blocks()
    return choice._replace(show=ATTENTION) if shows else choice


def controls(network: Network, choice: Choice) -> dict[str, dict[str, Any]]:
    """Properties of a panel's controls for a choice, by the name of the control."""
    blocks = network.maps.blocks()
    block = blocks.get(choice.block or "")
    most = most_rounds(block) if block else 1
    return {
        "branch": {"choices": list(network.branches), "visible": len(network.branches) > 1},
        "show": {"interactive": bool(blocks)},
        "block": {"choices": list(blocks), "visible": bool(blocks)},
        "rounds": {
            "choices": list(range(1, most + 1)),
            "value": min(choice.rounds, most),
            "visible": most > 1 and choice.show == ATTENTION,
        },
        "channel": {"visible": choice.show == CHANNEL},
        "moment": {"visible": choice.show == CHANNEL},
    }
