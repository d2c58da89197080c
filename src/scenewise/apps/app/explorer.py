"""What happens when a visitor does something. There is no Gradio here."""

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
    Session,
    Stopped,
    Tell,
    read_picture,
    windows,
)
from scenewise.data.images import SUFFIXES
from scenewise.data.scenes import Scenes
from scenewise.errors import UserError

MAX_SAMPLES = 24
NO_PICTURE = (
    "there is no picture; drop one or take a sample (pictures are put away after "
    f"{MAX_SECONDS // 60} minutes, or sooner when many visitors come)"
)


@dataclass
class Job:
    """Long work of a visitor."""

    stopped: bool = False


@dataclass(frozen=True)
class Explorer:
    """The models that the page offers, and the work under way.

    Attributes:
        networks: by name.
        folder: of pictures to start with; None offers generated scenes.
        jobs: the work under way, by visitor.
    """

    networks: dict[str, Network]
    folder: Path | None = None
    jobs: dict[str, Job] = field(default_factory=dict)

    @contextmanager
    def job(self, visitor: str, tell: Tell) -> Iterator[Tell]:
        """New work of ``visitor`` instead of an older one: ``tell``, which raises once stopped."""
        self.stop(visitor)
        job = self.jobs[visitor] = Job()

        def told(done: float) -> None:
            if job.stopped:
                raise Stopped("stopped; what was there before is still there")
            tell(done)

        try:
            yield told
        finally:
            if self.jobs.get(visitor) is job:
                del self.jobs[visitor]

    def stop(self, visitor: str) -> None:
        """End the work of ``visitor`` before its next layer."""
        if visitor in self.jobs:
            self.jobs[visitor].stopped = True

    def looked(self, session: Session, choices: Sequence[Choice], tell: Tell) -> Session:
        """The session with all that is needed to draw ``choices``."""
        for choice in choices:
            network = self.networks[choice.network]
            session = session.seen(network, choice.branch, tell).viewed(network, tell)
        return session

    def panel(self, session: Session | None, choice: Choice) -> Panel:
        """A panel of a session that has a picture."""
        if session is None:
            raise UserError(NO_PICTURE)
        return Panel(session, self.networks[choice.network], choice)

    def sample_names(self) -> list[str]:
        """Names of the samples.

        Raises:
            UserError: the folder is not there or holds no picture.
        """
        if self.folder is None:
            return [f"scene {k}" for k in range(6)]
        if not self.folder.is_dir():
            raise UserError(f"no folder '{self.folder}'; give --samples a folder of pictures")
        names = sorted(p.name for p in self.folder.iterdir() if p.suffix.lower() in SUFFIXES)
        if not names:
            raise UserError(f"no picture in '{self.folder}'; give --samples a folder of pictures")
        return names[:MAX_SAMPLES]

    def sample(self, name: str) -> Session:
        """A session with the sample called ``name``.

        Raises:
            UserError: there is no such sample, or it cannot be read.
        """
        names = self.sample_names()
        if name not in names:
            raise UserError(f"no sample '{name}'; take one of {', '.join(names)}")
        if self.folder is None:
            return Session(name, Scenes(len(names)).read(names.index(name))[0])
        return Session(name, read_picture(self.folder / name, name))

    def sample_buttons(self) -> list[Message]:
        """Names and small pictures of the samples that can be read."""
        found = []
        for name in self.sample_names():
            try:
                found.append({"name": name, "url": thumbnail(self.sample(name).picture)})
            except UserError:
                continue
        return found


def thumbnail(picture: Tensor) -> str:
    """A small JPEG of (3, H, W), as a data URL."""
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    image.thumbnail((320, 320))
    return data_url(image, "JPEG")


def greeting(session: Session) -> str:
    """What to say about a new picture."""
    height, width = session.size
    told = f"{session.name}, {height} x {width} pixels."
    if session.window is not None:
        why = "The memory is short" if session.side else "It is large"
        told += (
            f" {why}, so it was predicted in {len(windows(session.size, session.window))} windows "
            f"of {session.window} x {session.window}; attention reaches to the edge of a window."
        )
    return told


def first_choice(network: Network) -> Choice:
    """What a panel shows at first: classes; the block is one with attention between pixels."""
    maps = network.maps
    block = next(iter([*maps.positions, *maps.blocks()]), None)
    rounds = most_rounds(maps.blocks()[block]) if block else 1
    return Choice(network.name, FUSED, CLASSES, block, rounds, 0, BEFORE)


def on_click(network: Network, choice: Choice) -> Choice:
    """The choice after a click on a pixel: attention instead of classes, where there is any."""
    shows = choice.show == CLASSES and network.maps.blocks()
    return choice._replace(show=ATTENTION) if shows else choice


def controls(network: Network, choice: Choice) -> dict[str, dict[str, Any]]:
    """How the controls of a panel look for a choice: properties of each by its name."""
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
