"""Which component calls which callback, and what each answer changes on the page."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import gradio as gr

from scenewise.apps.app.explorer import Explorer, first_choice, greeting, on_click
from scenewise.apps.app.layout import Data, PanelParts, Parts, lay_out, told
from scenewise.apps.app.render import (
    CLASSES,
    Choice,
    Message,
    figure_file,
    labels_file,
    most_rounds,
)
from scenewise.apps.app.state import (
    MAX_SECONDS,
    MAX_SESSIONS,
    Session,
    read_picture,
)
from scenewise.errors import UserError

TITLE = "Scenewise: what a network attends to"
PROGRESS = gr.Progress()
Handler = TypeVar("Handler", bound=Callable[..., Data])


def build_page(explorer: Explorer) -> gr.Blocks:
    """The page for the models of ``explorer``."""
    page = gr.Blocks(
        analytics_enabled=False, title=TITLE, fill_width=True, delete_cache=(600, MAX_SECONDS)
    )
    with page:
        parts = lay_out(explorer)
        handlers = Handlers(explorer, parts)
        handlers.connect()
        for panel in parts.panels:
            PanelHandlers(explorer, parts, panel).connect()
        page.unload(handlers.stop)
    page.state_session_capacity = MAX_SESSIONS
    page.queue(max_size=2 * MAX_SESSIONS)
    return page


def answering(method: Handler) -> Handler:
    """A handler whose UserError becomes a message on the page."""

    @functools.wraps(method)
    def answer(self: "Handlers", *args: Any, **kwargs: Any) -> Data:
        try:
            return method(self, *args, **kwargs)
        except UserError as error:
            text = str(error)
            return {self.parts.message: told(f"{text[0].upper()}{text[1:]}.", bad=True)}

    return cast(Handler, answer)


@dataclass(frozen=True)
class Handlers:
    """For what concerns all panels. Each handler gets all inputs and answers with changes."""

    explorer: Explorer
    parts: Parts

    def connect(self) -> None:
        """Attach them to their components."""
        p = self.parts
        self.listen(p.upload.upload, self.upload, slow=True)
        self.listen(p.samples.take, self.take, slow=True)
        self.listen(p.go.click, self.go)
        for panel in p.panels:
            self.listen(panel.viewer.pick, self.pick)
        p.stop.click(self.stop, queue=False, api_visibility="private")

    def listen(self, event: Any, handler: Callable[..., Data], *, slow: bool = False) -> None:
        """Call ``handler`` on ``event``; one slow one runs at a time, for all visitors."""
        p = self.parts
        choosers = [part for panel in p.panels for part in panel.choosers()]
        viewers = [panel.viewer for panel in p.panels]
        event(
            handler,
            {p.session, p.upload, p.row, p.column, *choosers},
            [p.session, p.message, p.upload, p.row, p.column, p.saver, *viewers, *choosers],
            concurrency_id="work",
            concurrency_limit=1,
            queue=slow,
            show_progress_on=p.message,
            api_visibility="private",
        )

    @answering
    def upload(self, data: Data, request: gr.Request, progress: gr.Progress = PROGRESS) -> Data:
        """A picture was dropped."""
        path = Path(data[self.parts.upload])
        session = Session(path.name, read_picture(path, path.name))
        return self._open(session, data, request, progress)

    @answering
    def take(
        self,
        data: Data,
        event: gr.EventData,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> Data:
        """A sample was taken."""
        session = self.explorer.sample(str(event.name))
        return self._open(session, data, request, progress)

    @answering
    def pick(self, data: Data, event: gr.EventData, request: gr.Request) -> Data:
        """A pixel was clicked."""
        return self._mark(data, int(event.row), int(event.column), request)

    @answering
    def go(self, data: Data, request: gr.Request) -> Data:
        """A pixel was given by its numbers."""
        row, column = data[self.parts.row], data[self.parts.column]
        if row is None or column is None:
            raise UserError("no pixel is given; fill in its row and its column")
        return self._mark(data, int(row), int(column), request)

    def stop(self, request: gr.Request) -> None:
        """The visitor wants no more, or has left."""
        self.explorer.stop(request.session_hash or "")

    def work(
        self,
        session: Session,
        choices: list[Choice],
        request: gr.Request,
        progress: gr.Progress | None = None,
    ) -> Session:
        """The session with all that ``choices`` need; ``progress`` shows how far it is."""
        last = -1

        def tell(done: float) -> None:
            nonlocal last
            if progress is not None and int(100 * done) > last:
                last = int(100 * done)
                progress(done, desc="The network is looking")

        with self.explorer.job(request.session_hash or "", tell) as watched:
            return self.explorer.looked(session, choices, watched)

    def draw(
        self, session: Session, panel: PanelParts, choice: Choice, data: Data, *, scene: bool
    ) -> Data:
        """The panel's picture, and its controls where they do not show ``choice`` yet."""
        drawn = self.explorer.panel(session, choice)
        message = {**drawn.draw(), "scene": drawn.scene() if scene else None}
        fits = choice == panel.choice(data) and not scene
        return {panel.viewer: message, **({} if fits else panel.updates(self.explorer, choice))}

    def _open(
        self, session: Session, data: Data, request: gr.Request, progress: gr.Progress
    ) -> Data:
        p = self.parts
        choices = [panel.choice(data)._replace(show=CLASSES) for panel in p.panels]
        session = self.work(session, choices, request, progress)
        answer = {p.session: session, p.message: told(greeting(session)), p.upload: None}
        for panel, choice in zip(p.panels, choices, strict=True):
            answer |= self.draw(session, panel, choice, data, scene=True)
        return answer

    def _narrowed(self, before: Session, after: Session) -> Data:
        """A message where the memory was too short for the windows that were used before."""
        return {} if before.side == after.side else {self.parts.message: told(greeting(after))}

    def _mark(self, data: Data, row: int, column: int, request: gr.Request) -> Data:
        p = self.parts
        choices = [
            on_click(self.explorer.networks[choice.network], choice)
            for choice in (panel.choice(data) for panel in p.panels)
        ]
        before = self.explorer.panel(data[p.session], choices[0]).session.marked(row, column)
        session = self.work(before, choices, request)
        answer = {
            p.session: session,
            p.row: row,
            p.column: column,
            **self._narrowed(before, session),
        }
        for panel, choice in zip(p.panels, choices, strict=True):
            answer |= self.draw(session, panel, choice, data, scene=False)
        return answer


@dataclass(frozen=True)
class PanelHandlers(Handlers):
    """For what concerns one panel."""

    panel: PanelParts

    def connect(self) -> None:
        """Attach them to their components."""
        panel = self.panel
        self.listen(panel.network.input, self.change_network, slow=True)
        self.listen(panel.branch.input, self.change_branch, slow=True)
        self.listen(panel.block.input, self.change_block)
        for part in (panel.show, panel.rounds, panel.channel, panel.moment):
            self.listen(part.input, self.change)
        self.listen(panel.labels.click, self.save_labels)
        self.listen(panel.figure.click, self.save_figure, slow=True)

    @answering
    def change_network(
        self, data: Data, request: gr.Request, progress: gr.Progress = PROGRESS
    ) -> Data:
        """Another model was chosen."""
        network = self.explorer.networks[data[self.panel.network]]
        choice = first_choice(network)
        if data[self.parts.session] is None:
            return self.panel.updates(self.explorer, choice)
        if network.maps.blocks():
            choice = choice._replace(show=data[self.panel.show])
        return self._predict(choice, data, request, progress)

    @answering
    def change_branch(
        self, data: Data, request: gr.Request, progress: gr.Progress = PROGRESS
    ) -> Data:
        """The scores of another branch were chosen."""
        return self._predict(self.panel.choice(data), data, request, progress)

    @answering
    def change_block(self, data: Data) -> Data:
        """Another block was chosen; of criss-cross attention all rounds are shown at first."""
        choice = self.panel.choice(data)
        block = self.explorer.networks[choice.network].maps.blocks()[choice.block or ""]
        return self._redraw(choice._replace(rounds=most_rounds(block)), data)

    @answering
    def change(self, data: Data) -> Data:
        """Another map was chosen."""
        return self._redraw(self.panel.choice(data), data)

    def _redraw(self, choice: Choice, data: Data) -> Data:
        if data[self.parts.session] is None:
            return self.panel.updates(self.explorer, choice)
        drawn = self.draw(data[self.parts.session], self.panel, choice, data, scene=False)
        return {**drawn, **self.panel.updates(self.explorer, choice)}

    @answering
    def save_labels(self, data: Data) -> Data:
        """The labels are wanted as a file."""
        drawn = self.explorer.panel(data[self.parts.session], self.panel.choice(data))
        return self._saved(labels_file(drawn))

    @answering
    def save_figure(self, data: Data) -> Data:
        """A figure is wanted as a file."""
        drawn = self.explorer.panel(data[self.parts.session], self.panel.choice(data))
        return self._saved(figure_file(drawn))

    def _saved(self, file: Message) -> Data:
        return {self.parts.saver: {**file, "turn": time.monotonic_ns()}}  # also the same file again

    def _predict(
        self, choice: Choice, data: Data, request: gr.Request, progress: gr.Progress
    ) -> Data:
        p = self.parts
        before = self.explorer.panel(data[p.session], choice).session
        session = self.work(before, [choice], request, progress)
        drawn = self.draw(session, self.panel, choice, data, scene=True)
        return {p.session: session, **drawn, **self._narrowed(before, session)}
