"""Event handlers of the page: which component calls which, and what each answer changes."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import gradio as gr

from scenewise.apps.app.explorer import Explorer, first_choice, greeting, on_click
from scenewise.apps.app.layout import Data, PanelParts, Parts, lay_out, message_html
from scenewise.apps.app.render import (
    CLASSES,
    Choice,
    Message,
    figure_file,
    labels_file,
    most_rounds,
)
from scenewise.apps.app.state import MAX_SECONDS, MAX_VISITORS, VisitorState, read_upload
from scenewise.errors import UserError

_TITLE = "Scenewise: what a network attends to"
_PROGRESS = gr.Progress()
_Handler = TypeVar("_Handler", bound=Callable[..., Data])


def build_page(explorer: Explorer) -> gr.Blocks:
    """The page for the models of ``explorer``."""
    page = gr.Blocks(
        analytics_enabled=False,
        title=_TITLE,
        fill_width=True,
        delete_cache=(600, MAX_SECONDS),  # every ten minutes, uploaded files older than an hour
    )
    with page:
        parts = lay_out(explorer)
        handlers = _Handlers(explorer, parts)
        handlers.connect()
        for panel in parts.panels:
            _PanelHandlers(explorer, parts, panel).connect()
        page.unload(handlers.stop)
    page.state_session_capacity = MAX_VISITORS
    page.queue(max_size=2 * MAX_VISITORS)  # of waiting work; more is refused
    return page


def _answering(method: _Handler) -> _Handler:
    """A decorator that turns a handler's UserError into a message on the page."""

    @functools.wraps(method)
    def answer(self: "_Handlers", *args: Any, **kwargs: Any) -> Data:
        try:
            return method(self, *args, **kwargs)
        except UserError as error:
            text = str(error)
            return {self.parts.message: message_html(f"{text[0].upper()}{text[1:]}.", error=True)}

    return cast(_Handler, answer)


@dataclass(frozen=True)
class _Handlers:
    """Handlers of the whole page. Each gets all inputs and returns the changes by component."""

    explorer: Explorer
    parts: Parts

    def connect(self) -> None:
        """Attach the handlers to their components."""
        p = self.parts
        self.listen(p.upload.upload, self.upload, slow=True)
        self.listen(p.samples.take, self.take, slow=True)
        self.listen(p.go.click, self.go)
        for panel in p.panels:
            self.listen(panel.viewer.pick, self.pick)
        p.stop.click(self.stop, queue=False, api_visibility="private")

    def listen(self, event: Any, handler: Callable[..., Data], *, slow: bool = False) -> None:
        """Call ``handler`` on ``event``; one slow handler runs at a time, for all visitors."""
        p = self.parts
        choosers = [part for panel in p.panels for part in panel.choosers()]
        viewers = [panel.viewer for panel in p.panels]
        event(
            handler,
            {p.state, p.upload, p.row, p.column, *choosers},
            [p.state, p.message, p.upload, p.row, p.column, p.saver, *viewers, *choosers],
            concurrency_id="work",
            concurrency_limit=1,  # two predictions at once would compete for memory
            queue=slow,
            show_progress_on=p.message,
            api_visibility="private",
        )

    @_answering
    def upload(self, data: Data, request: gr.Request, progress: gr.Progress = _PROGRESS) -> Data:
        """An image was uploaded."""
        path = Path(data[self.parts.upload])
        state = VisitorState(path.name, read_upload(path, path.name, self.explorer.layout))
        return self._open(state, data, request, progress)

    @_answering
    def take(
        self,
        data: Data,
        event: gr.EventData,
        request: gr.Request,
        progress: gr.Progress = _PROGRESS,
    ) -> Data:
        """A sample was chosen."""
        state = self.explorer.sample(str(event.name))
        return self._open(state, data, request, progress)

    @_answering
    def pick(self, data: Data, event: gr.EventData, request: gr.Request) -> Data:
        """A pixel was clicked."""
        return self._mark(data, int(event.row), int(event.column), request)

    @_answering
    def go(self, data: Data, request: gr.Request) -> Data:
        """A pixel was entered by row and column."""
        row, column = data[self.parts.row], data[self.parts.column]
        if row is None or column is None:
            raise UserError("the pixel is missing; fill in its row and column")
        return self._mark(data, int(row), int(column), request)

    def stop(self, request: gr.Request) -> None:
        """The visitor pressed Stop, or closed the page."""
        self.explorer.stop(request.session_hash or "")

    def work(
        self,
        state: VisitorState,
        choices: list[Choice],
        request: gr.Request,
        progress: gr.Progress | None = None,
    ) -> VisitorState:
        """The state with all that ``choices`` need; ``progress`` shows the percentage done."""
        last = -1

        def report(done: float) -> None:
            nonlocal last
            if progress is not None and int(100 * done) > last:  # not a message per layer
                last = int(100 * done)
                progress(done, desc="Predicting")

        with self.explorer.job(request.session_hash or "", report) as stoppable:
            return self.explorer.computed(state, choices, stoppable)

    def draw(
        self, state: VisitorState, panel: PanelParts, choice: Choice, data: Data, *, scene: bool
    ) -> Data:
        """The message to the panel's viewer, and its controls unless they show ``choice``."""
        drawn = self.explorer.panel(state, choice)
        message = {**drawn.draw(), "scene": drawn.scene() if scene else None}
        fits = choice == panel.choice(data) and not scene  # a scene may bring other branches
        return {panel.viewer: message, **({} if fits else panel.updates(self.explorer, choice))}

    def _open(
        self, state: VisitorState, data: Data, request: gr.Request, progress: gr.Progress
    ) -> Data:
        p = self.parts
        choices = [panel.choice(data)._replace(show=CLASSES) for panel in p.panels]  # no pixel yet
        state = self.work(state, choices, request, progress)
        answer = {
            p.state: state,
            p.message: message_html(greeting(state)),
            p.upload: None,
        }  # takes the next file
        for panel, choice in zip(p.panels, choices, strict=True):
            answer |= self.draw(state, panel, choice, data, scene=True)
        return answer

    def _narrowed(self, before: VisitorState, after: VisitorState) -> Data:
        """A message if memory was too short for the previous windows."""
        same = before.side == after.side
        return {} if same else {self.parts.message: message_html(greeting(after))}

    def _mark(self, data: Data, row: int, column: int, request: gr.Request) -> Data:
        p = self.parts
        choices = [
            on_click(self.explorer.networks[choice.network], choice)
            for choice in (panel.choice(data) for panel in p.panels)
        ]
        before = self.explorer.panel(data[p.state], choices[0]).state.marked(row, column)
        state = self.work(before, choices, request)
        answer = {
            p.state: state,
            p.row: row,
            p.column: column,
            **self._narrowed(before, state),
        }
        for panel, choice in zip(p.panels, choices, strict=True):
            answer |= self.draw(state, panel, choice, data, scene=False)
        return answer


@dataclass(frozen=True)
class _PanelHandlers(_Handlers):
    """Handlers of one panel."""

    panel: PanelParts

    def connect(self) -> None:
        """Attach the handlers to their components."""
        panel = self.panel
        self.listen(panel.network.input, self.change_network, slow=True)
        self.listen(panel.branch.input, self.change_branch, slow=True)
        self.listen(panel.block.input, self.change_block)
        for part in (panel.show, panel.rounds, panel.channel, panel.moment):
            self.listen(part.input, self.change)
        self.listen(panel.labels.click, self.save_labels)
        self.listen(panel.figure.click, self.save_figure, slow=True)

    @_answering
    def change_network(
        self, data: Data, request: gr.Request, progress: gr.Progress = _PROGRESS
    ) -> Data:
        """Another model was chosen."""
        network = self.explorer.networks[data[self.panel.network]]
        choice = first_choice(network)
        if data[self.parts.state] is None:
            return self.panel.updates(self.explorer, choice)
        if network.maps.blocks():
            choice = choice._replace(show=data[self.panel.show])
        return self._predict(choice, data, request, progress)

    @_answering
    def change_branch(
        self, data: Data, request: gr.Request, progress: gr.Progress = _PROGRESS
    ) -> Data:
        """The scores of another branch were chosen."""
        return self._predict(self.panel.choice(data), data, request, progress)

    @_answering
    def change_block(self, data: Data) -> Data:
        """Another block was chosen; criss-cross attention is shown after all rounds at first."""
        choice = self.panel.choice(data)
        block = self.explorer.networks[choice.network].maps.blocks()[choice.block or ""]
        return self._redraw(choice._replace(rounds=most_rounds(block)), data)

    @_answering
    def change(self, data: Data) -> Data:
        """Another heat map was chosen."""
        return self._redraw(self.panel.choice(data), data)

    def _redraw(self, choice: Choice, data: Data) -> Data:
        if data[self.parts.state] is None:
            return self.panel.updates(self.explorer, choice)
        drawn = self.draw(data[self.parts.state], self.panel, choice, data, scene=False)
        return {**drawn, **self.panel.updates(self.explorer, choice)}

    @_answering
    def save_labels(self, data: Data) -> Data:
        """Download the labels."""
        drawn = self.explorer.panel(data[self.parts.state], self.panel.choice(data))
        return self._saved(labels_file(drawn))

    @_answering
    def save_figure(self, data: Data) -> Data:
        """Download the figure."""
        drawn = self.explorer.panel(data[self.parts.state], self.panel.choice(data))
        return self._saved(figure_file(drawn))

    def _saved(self, file: Message) -> Data:
        # Gradio only sends changed values: the same file twice needs another ``turn``
        return {self.parts.saver: {**file, "turn": time.monotonic_ns()}}

    def _predict(
        self, choice: Choice, data: Data, request: gr.Request, progress: gr.Progress
    ) -> Data:
        p = self.parts
        before = self.explorer.panel(data[p.state], choice).state
        state = self.work(before, [choice], request, progress)
        drawn = self.draw(state, self.panel, choice, data, scene=True)
        return {p.state: state, **drawn, **self._narrowed(before, state)}
