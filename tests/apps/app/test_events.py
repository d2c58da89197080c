"""What each event changes on the page, and the command, without a browser."""

import asyncio
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise.apps import app as command
from scenewise.apps.app.explorer import Explorer
from scenewise.apps.app.state import MAX_VISITORS
from scenewise.apps.cli import main
from scenewise.data import Scenes
from scenewise.errors import UserError

gr = pytest.importorskip("gradio", reason="gradio is not installed")

from scenewise.apps.app.events import _Handlers, _PanelHandlers, build_page  # noqa: E402
from scenewise.apps.app.layout import lay_out  # noqa: E402

ANNA, BERT = (SimpleNamespace(session_hash=name) for name in ("anna", "bert"))


def inside_a_loop(build):
    """What ``build`` makes; outside a loop Gradio would leave new loops open."""

    async def run():
        return build()

    return asyncio.run(run())


class Page:
    """The handlers of a page, called as Gradio calls them."""

    def __init__(self, *networks):
        self.explorer = Explorer({network.name: network for network in networks})
        self.parts = inside_a_loop(self.build)
        self.all = _Handlers(self.explorer, self.parts)
        self.panels = [_PanelHandlers(self.explorer, self.parts, p) for p in self.parts.panels]
        p = self.parts
        choosers = [part for panel in p.panels for part in panel.choosers()]
        self.data = {part: part.value for part in (p.state, p.upload, p.row, p.column, *choosers)}

    def build(self):
        with gr.Blocks(analytics_enabled=False):
            return lay_out(self.explorer)

    def do(self, handler, *args, **inputs):
        """The answer to an event, kept as the browser and Gradio keep it."""
        for name, value in inputs.items():
            self.data[getattr(self.parts, name)] = value
        answer = handler(self.data, *args)
        for part, value in answer.items():
            update = isinstance(value, dict) and value.get("__type__") == "update"
            if part in self.data:
                self.data[part] = value.get("value", self.data[part]) if update else value
        return answer

    def open(self, name="scene 1", visitor=ANNA, progress=lambda *a, **k: None):
        return self.do(self.all.take, SimpleNamespace(name=name), visitor, progress)

    def pick(self, row, column):
        return self.do(self.all.pick, SimpleNamespace(row=row, column=column), ANNA)

    def message(self, answer):
        return answer[self.parts.message]


@pytest.fixture
def page(danet, fcn):
    return Page(danet, fcn)


def test_sample_fills_every_panel(page):
    answer = page.open()
    for panel in page.parts.panels:
        message = answer[panel.viewer]
        assert message["scene"]["height"] == 64
        assert message["heat"] is None
    assert "scene 1, 64 x 192 pixels." in page.message(answer)
    assert torch.equal(page.data[page.parts.state].image, Scenes(6).read(1)[0])


def test_click_turns_classes_into_attention(page):
    page.open()
    answer = page.pick(20, 30)
    first, second = page.parts.panels
    assert answer[first.viewer]["heat"]["unit"] == "x the average"
    assert answer[first.viewer]["scene"] is None
    assert page.data[first.show] == "Attention"
    assert "no attention" in answer[second.viewer]["caption"]
    assert (answer[page.parts.row], answer[page.parts.column]) == (20, 30)


def test_click_at_channels_stays_there(page):
    page.open()
    panel = page.parts.panels[0]
    page.data[panel.show] = "Channel"
    answer = page.pick(20, 30)
    assert answer[panel.viewer]["heat"]["unit"] == "activation"
    assert page.data[panel.show] == "Channel"


def test_row_and_column_do_what_a_click_does(page):
    page.open()
    clicked = page.pick(20, 30)
    typed = page.do(page.all.go, ANNA, row=20, column=30)
    assert typed[page.parts.panels[0].viewer] == clicked[page.parts.panels[0].viewer]
    assert "outside the image" in page.message(page.do(page.all.go, ANNA, row=64, column=0))
    assert "The pixel is missing" in page.message(page.do(page.all.go, ANNA, row=None))


def test_without_an_image(page):
    panel = page.panels[0]
    for answer in (page.pick(1, 2), page.do(panel.save_labels), page.do(panel.save_figure)):
        assert 'role="alert"' in page.message(answer)
        assert "No image is open" in page.message(answer)
    assert page.parts.panels[0].viewer not in page.do(panel.change)


def test_bad_upload_keeps_the_image(page, tmp_path):
    page.open()
    before = page.data[page.parts.state]
    path = tmp_path / "<b>notes.png"
    path.write_text("hello")
    answer = page.do(page.all.upload, ANNA, None, upload=str(path))
    assert list(answer) == [page.parts.message]
    assert "&#x27;&lt;b&gt;notes.png&#x27; is not a readable image" in page.message(answer)
    assert page.data[page.parts.state] is before


def test_another_model_in_a_panel(page):
    page.open()
    page.pick(20, 30)
    first = page.panels[0]
    page.data[first.panel.network] = "fcn"
    answer = page.do(first.change_network, ANNA, None)
    assert "no attention" in answer[first.panel.viewer]["caption"]
    assert page.data[first.panel.show] == "Classes"
    assert answer[first.panel.branch]["visible"] is False
    page.data[first.panel.network] = "danet"
    answer = page.do(first.change_network, ANNA, None)
    assert answer[first.panel.block]["choices"] == ["head.position.1", "head.channel.1"]
    assert answer[first.panel.branch]["visible"] is True


def test_branch(page):
    page.open()
    first = page.panels[0]
    page.data[first.panel.branch] = "position"
    answer = page.do(first.change_branch, ANNA, None)
    assert answer[first.panel.viewer]["scene"]["cells"].startswith("data:image/png")
    assert set(page.data[page.parts.state].results["danet"].predictions) == {"fused", "position"}


def test_rounds_are_offered_for_criss_cross_attention(ccnet, danet):
    page = Page(ccnet, danet)
    page.open()
    answer = page.pick(20, 30)
    first, second = page.parts.panels
    assert answer[first.rounds]["choices"] == [1, 2]
    assert answer[first.rounds]["value"] == 2
    assert answer[first.rounds]["visible"] is True
    assert answer[second.rounds]["visible"] is False
    page.data[first.rounds] = 1
    page.do(page.panels[0].change)
    changed = page.do(page.panels[0].change_block)
    assert changed[first.rounds]["value"] == 2


def test_progress_and_stop(page):
    reported = []

    def progress(done, desc):
        reported.append(done)
        if len(reported) == 3:
            page.all.stop(BERT)
        if len(reported) == 5:
            page.all.stop(ANNA)

    answer = page.open(progress=progress)
    assert "Stopped" in page.message(answer)
    assert len(reported) == 5
    assert page.data[page.parts.state] is None
    assert page.explorer.jobs == {}


def test_new_work_of_a_visitor_ends_the_old(page):
    job = page.explorer.job
    with job("anna", lambda done: None) as old, job("anna", lambda done: None) as new:
        new(0.5)
        with pytest.raises(UserError, match="stopped"):
            old(0.5)


def test_the_same_file_is_downloaded_twice(page):
    page.open()
    first = page.do(page.panels[0].save_labels)[page.parts.saver]
    second = page.do(page.panels[0].save_labels)[page.parts.saver]
    assert first != second
    assert first["url"] == second["url"]


def test_states_are_bounded(danet):
    page = inside_a_loop(lambda: build_page(Explorer({"danet": danet})))
    assert page.state_session_capacity == MAX_VISITORS
    states = [block for block in page.blocks.values() if isinstance(block, gr.State)]
    assert [state.time_to_live for state in states] == [3600]
    assert page.analytics_enabled is False


class TestSamples:
    def save(self, folder, name):
        Image.fromarray(np.full((5, 7, 3), 9, np.uint8)).save(folder / name)

    def test_of_a_folder(self, danet, tmp_path):
        for name in ("b.png", "a.bmp"):
            self.save(tmp_path, name)
        (tmp_path / "broken.png").write_text("hello")
        (tmp_path / "notes.txt").write_text("hello")
        explorer = Explorer({"danet": danet}, tmp_path)
        assert [s["name"] for s in explorer.sample_buttons()] == ["a.bmp", "b.png"]
        assert explorer.sample("b.png").image.shape == (3, 5, 7)

    def test_only_those_in_the_folder(self, danet, tmp_path):
        inner = tmp_path / "inner"
        inner.mkdir()
        self.save(tmp_path, "secret.png")
        self.save(inner, "a.png")
        with pytest.raises(UserError, match="unknown sample"):
            Explorer({"danet": danet}, inner).sample("../secret.png")

    @pytest.mark.parametrize("name", ["", "missing"])
    def test_without_images(self, danet, tmp_path, name):
        (tmp_path / "notes.txt").write_text("hello")
        with pytest.raises(UserError, match="give --samples a folder of images"):
            Explorer({"danet": danet}, tmp_path / name).sample_names()


class TestCommand:
    def test_without_gradio(self, danet, tmp_path, monkeypatch, capsys):
        danet.model.save_pretrained(tmp_path / "danet")
        monkeypatch.setitem(sys.modules, "gradio", None)
        assert main(["app", "--model", str(tmp_path / "danet"), "--device", "cpu"]) == 2
        assert "pip install 'scenewise[app]'" in capsys.readouterr().err

    def test_no_model(self, tmp_path, capsys):
        assert main(["app", "--model", str(tmp_path)]) == 2
        assert "no model in" in capsys.readouterr().err

    def test_port_taken(self):
        with command.listening("127.0.0.1", 0) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(UserError, match=f"cannot serve at 127.0.0.1:{port} .* --port"):
                command.listening("127.0.0.1", port)

    def test_model_given_twice(self):
        with pytest.raises(UserError, match="given twice"):
            command._names(["a/b", "a/b"])


def test_an_image_is_never_downloaded(danet, monkeypatch):
    """Gradio would, if a request gives a URL instead of an uploaded file."""
    monkeypatch.setattr(gr.processing_utils, "async_ssrf_protected_download", None)  # put back

    async def ask():
        command.build_application(Explorer({"danet": danet}))
        image = gr.Image(type="filepath")
        await image.async_move_resource_to_block_cache("https://example.org/street.png")

    with pytest.raises(ValueError, match="this page does not download images; upload them"):
        asyncio.run(ask())
