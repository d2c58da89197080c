"""The Gradio components of the page and their layout."""

import html
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import gradio as gr

from scenewise.apps.app.explorer import Explorer, controls, first_choice
from scenewise.apps.app.render import MOMENTS, SHOWN, Choice
from scenewise.apps.app.state import FORMATS, MAX_BYTES, MAX_PIXELS, MAX_SECONDS

Data = dict[Any, Any]
_HEADER = (
    "<h1>What does the network attend to?</h1><p>Upload an image or choose a sample, then click a "
    "pixel: the heat map shows which pixels it attends to.</p>"
)
_LIMITS = (
    f"{', '.join(FORMATS)} of up to {MAX_BYTES // 2**20} MiB and {MAX_PIXELS / 1e6:.1f} million "
    "pixels. Images stay on this server."
)


@dataclass(frozen=True)
class PanelParts:
    """The components of one panel; the first ones are the fields of a :class:`Choice`."""

    network: gr.Dropdown
    branch: gr.Radio
    show: gr.Radio
    block: gr.Dropdown
    rounds: gr.Radio
    channel: gr.Number
    moment: gr.Radio
    viewer: gr.HTML
    labels: gr.Button
    figure: gr.Button

    def choosers(self) -> list[Any]:
        """The components that hold a choice, in the order of its fields."""
        return [getattr(self, name) for name in Choice._fields]

    def choice(self, data: Data) -> Choice:
        """The choice that they hold."""
        return Choice(*(data[part] for part in self.choosers()))

    def updates(self, explorer: Explorer, choice: Choice) -> Data:
        """The changes that make them show ``choice``."""
        values = choice._asdict()
        return {
            getattr(self, name): gr.update(**{"value": values[name], **properties})
            for name, properties in controls(explorer.networks[choice.network], choice).items()
        }


@dataclass(frozen=True)
class Parts:
    """All components of the page."""

    state: gr.State
    message: gr.HTML
    upload: gr.File
    samples: gr.HTML
    stop: gr.Button
    row: gr.Number
    column: gr.Number
    go: gr.Button
    saver: gr.HTML
    panels: list[PanelParts]


def lay_out(explorer: Explorer) -> Parts:
    """All components, inside the open ``gr.Blocks``."""
    state = gr.State(None, time_to_live=MAX_SECONDS)
    gr.HTML(_HEADER, elem_id="title")
    with gr.Row():
        with gr.Column(scale=0, min_width=300, elem_id="side"):
            upload = gr.File(show_label=False, label="Upload an image", height=90, elem_id="upload")
            samples = _scripted("samples", explorer.sample_buttons(), _asset("samples.html"))
            message = gr.HTML(message_html(_LIMITS), elem_id="message")
            stop = gr.Button("Stop", elem_id="stop", size="sm")
            _opacity()
            with gr.Row():
                row = gr.Number(0, label="Row", precision=0, minimum=0, min_width=80)
                column = gr.Number(0, label="Column", precision=0, minimum=0, min_width=80)
            go = gr.Button("Show what this pixel attends to", elem_id="go", size="md")
            saver = _scripted("saver", None, "")
        with gr.Column(), gr.Row():
            names = list(explorer.networks)  # the first two; the others are in each panel's list
            panels = [_panel(explorer, name, f"panel{k}") for k, name in enumerate(names[:2])]
    return Parts(state, message, upload, samples, stop, row, column, go, saver, panels)


def message_html(text: str, *, error: bool = False) -> str:
    """A message to the visitor, as HTML."""
    role, kind = ("alert", "bad") if error else ("status", "good")
    return f'<p role="{role}" class="{kind}">{html.escape(text)}</p>'


def _opacity() -> None:
    slider = gr.Slider(0, 1, 0.6, step=0.05, label="Opacity of the overlay", elem_id="opacity")
    # a CSS variable: the browser changes the opacity without asking the server
    script = "v => { document.documentElement.style.setProperty('--layer', v); }"
    slider.change(None, slider, js=script, api_visibility="private")


def _panel(explorer: Explorer, name: str, place: str) -> PanelParts:
    """One panel, at first with the model called ``name``."""
    choice = first_choice(explorer.networks[name])
    fit = controls(explorer.networks[name], choice)
    names = list(explorer.networks)
    with gr.Column(min_width=320, elem_id=place, elem_classes="panel"):
        with gr.Row():
            network = gr.Dropdown(names, value=name, label="Model", min_width=130)
            show = gr.Radio(SHOWN, label="Show", value=choice.show, min_width=350, **fit["show"])
        viewer = _scripted("viewer", None, _asset("viewer.html"))
        with gr.Row():
            block = gr.Dropdown(
                label="Block", value=choice.block, min_width=190, scale=1, **fit["block"]
            )
            branch = gr.Radio(
                label="Scores", value=choice.branch, min_width=300, scale=4, **fit["branch"]
            )
            rounds = gr.Radio(label="Rounds", min_width=140, **fit["rounds"])
            channel = gr.Number(
                0, label="Channel", precision=0, minimum=0, min_width=140, **fit["channel"]
            )
            moment = gr.Radio(
                MOMENTS, value=choice.moment, label="Features", min_width=330, **fit["moment"]
            )
        with gr.Row():
            labels = gr.Button("Save labels (PNG)", size="sm")
            figure = gr.Button("Save figure (PDF)", size="sm")
    return PanelParts(network, branch, show, block, rounds, channel, moment, viewer, labels, figure)


def _scripted(name: str, value: Any, template: str) -> gr.HTML:
    """A component that ``assets/name.js`` draws."""
    return gr.HTML(
        value, html_template=template, js_on_load=_asset(f"{name}.js"), apply_default_css=False
    )


def _asset(name: str) -> str:
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8")
