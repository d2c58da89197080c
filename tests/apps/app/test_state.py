"""Pictures in, predictions and recorded blocks out, without Gradio."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensor

from scenewise import Predictor
from scenewise.apps.app import state as module
from scenewise.apps.app.explorer import greeting
from scenewise.apps.app.state import (
    Box,
    Session,
    Stopped,
    nearest_window,
    only_branch,
    read_picture,
    watched,
    windows,
)
from scenewise.errors import UserError
from scenewise.inference import auto_window
from scenewise.visualize import ablate, attention_maps


def picture(seed: int = 0, size: tuple[int, int] = (37, 53)) -> torch.Tensor:
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=seeded(seed))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def silent(done: float) -> None:
    pass


def hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class TestReadPicture:
    def save(self, tmp_path, array, kind="PNG"):
        path = tmp_path / "0a1b2c"
        Image.fromarray(array).save(path, kind)
        return path

    @pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
    def test_reads(self, tmp_path, kind):
        array = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
        found = read_picture(self.save(tmp_path, array, kind), "a")
        assert np.array_equal(found.permute(1, 2, 0).numpy(), array)

    def test_too_many_bytes(self, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "MAX_BYTES", 2**20)
        path = tmp_path / "x"
        path.write_bytes(bytes(3 * 2**19))
        with pytest.raises(UserError, match=r"'big.png' has 1.5 MiB and a picture here at most 1"):
            read_picture(path, "big.png")

    def test_too_many_pixels(self, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "MAX_PIXELS", 34)
        path = self.save(tmp_path, np.zeros((5, 7, 3), np.uint8))
        with pytest.raises(UserError, match=r"'a.png' has 5 x 7 pixels"):
            read_picture(path, "a.png")
        monkeypatch.setattr(module, "MAX_PIXELS", 35)
        assert read_picture(path, "a.png").shape == (3, 5, 7)

    def test_bomb(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        with pytest.raises(UserError, match="too many pixels"):
            read_picture(self.save(tmp_path, np.zeros((5, 7, 3), np.uint8)), "a.png")

    def test_no_picture(self, tmp_path):
        (tmp_path / "x").write_text("hello")
        with pytest.raises(UserError, match=r"'notes.png' is no picture .* PNG, JPEG, WEBP"):
            read_picture(tmp_path / "x", "notes.png")

    def test_other_kind(self, tmp_path):
        path = self.save(tmp_path, np.zeros((5, 7, 3), np.uint8), "GIF")
        with pytest.raises(UserError, match="no picture"):
            read_picture(path, "a.gif")

    def test_cut_off(self, tmp_path):
        array = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
        path = self.save(tmp_path, array)
        path.write_bytes(path.read_bytes()[:5000])
        with pytest.raises(UserError, match=r"^'a.png' is damaged; take"):
            read_picture(path, "a.png")


class TestPrediction:
    def test_is_that_of_the_predictor(self, danet):
        found = Session("a", picture()).seen(danet, "fused", silent).looks["danet"]
        labels, confidence = Predictor(danet.model)(picture())
        assert torch.equal(found.predictions["fused"].labels, labels.byte())
        assert torch.equal(found.predictions["fused"].confidence, confidence)

    @pytest.mark.parametrize("branch", ["position", "channel"])
    def test_branch_has_its_own_classifier(self, danet, branch):
        model = danet.model
        found = Session("a", picture()).seen(danet, branch, silent).looks["danet"]
        with torch.no_grad():
            x = model.backbone(model.normalize(picture()[None]))[-1]
            scores = model.head.get_submodule(f"classify_{branch}")(
                model.head.get_submodule(branch)(x)
            )
            scores = model.upsample(scores, (37, 53)).softmax(1)[0]
        torch.testing.assert_close(found.predictions[branch].confidence, scores.amax(0))
        assert hooks(model) == 0

    def test_is_made_once(self, danet):
        session = Session("a", picture()).seen(danet, "fused", silent)
        assert session.seen(danet, "fused", silent) is session
        both = session.seen(danet, "channel", silent)
        assert set(both.looks["danet"].predictions) == {"fused", "channel"}
        assert set(session.looks["danet"].predictions) == {"fused"}

    def test_branches(self, danet, ccnet, fcn):
        blocks = ("without head.position.1", "without head.channel.1")
        assert danet.branches == ("fused", "position", "channel", *blocks)
        assert ccnet.branches == ("fused", "without head.context.join.branch.block")
        assert fcn.branches == ("fused",)

    def test_a_block_is_switched_off(self, danet):
        session = Session("a", picture()).seen(danet, "fused", silent)
        without = session.seen(danet, "without head.position.1", silent).looks["danet"]
        found = ablate(Predictor(danet.model), picture(), "head.position.1")
        assert torch.equal(without.predictions["fused"].labels, found.labels.byte())
        labels = without.predictions["without head.position.1"].labels
        assert torch.equal(labels, found.without.byte())
        assert not torch.equal(found.labels, found.without)
        assert without.view is session.looks["danet"].view
        assert hooks(danet.model) == 0

    def test_records_the_blocks(self, danet):
        view = Session("a", picture()).seen(danet, "fused", silent).looks["danet"].view
        with attention_maps(danet.model) as maps:
            Predictor(danet.model)(picture())
        assert view.box == Box(0, 0, 37, 53)
        for name, block in maps.blocks().items():
            assert torch.equal(view.maps.blocks()[name].before(), block.before())


class TestWindows:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        monkeypatch.setattr(module, "WHOLE_PIXELS", 37 * 53 - 1)
        monkeypatch.setattr(module, "WINDOW", 24)

    def test_labels(self, danet):
        session = Session("a", picture()).seen(danet, "fused", silent)
        assert session.in_windows
        labels = Predictor(danet.model, window=24)(picture()).labels
        assert torch.equal(session.looks["danet"].predictions["fused"].labels, labels.byte())
        assert session.looks["danet"].view is None

    def test_attention_is_that_of_the_nearest_window(self, danet):
        session = Session("a", picture()).seen(danet, "fused", silent).marked(30, 3)
        view = session.viewed(danet, silent).looks["danet"].view
        assert view.box == nearest_window((30, 3), (37, 53), 24) == Box(13, 0, 37, 24)
        with attention_maps(danet.model) as maps:
            Predictor(danet.model)(picture()[:, 13:37, 0:24])
        name = "head.position.1"
        assert torch.equal(view.maps.positions[name].before(), maps.positions[name].before())

    def test_window_is_run_once(self, danet):
        session = Session("a", picture()).seen(danet, "fused", silent)
        session = session.marked(30, 3).viewed(danet, silent)
        assert session.marked(31, 4).viewed(danet, silent).looks is session.looks
        moved = session.marked(2, 50).viewed(danet, silent).looks["danet"].view
        assert moved.box == Box(0, 29, 24, 53)

    def test_cover_every_pixel(self):
        seen = torch.zeros(37, 53)
        for box in windows((37, 53), 24):
            box.of(seen).fill_(1)
        assert seen.all()


class TestMarked:
    @pytest.mark.parametrize("at", [(-1, 0), (37, 0), (0, 53), (0, -1)])
    def test_outside(self, at):
        with pytest.raises(UserError, match=r"outside the picture; rows are 0 to 36, columns 0 to"):
            Session("a", picture()).marked(*at)

    def test_inside(self):
        assert Session("a", picture()).marked(36, 52).at == (36, 52)


class TestWatched:
    def test_tells_how_far_it_is(self, danet):
        told: list[float] = []
        Session("a", picture()).seen(danet, "fused", told.append)
        assert told == sorted(told)
        assert told[0] == 0
        assert 0.5 < told[-1] <= 1

    def test_stopping_leaves_the_model_and_the_session(self, danet):
        def tell(done: float) -> None:
            if done > 0.3:
                raise Stopped("stopped")

        session = Session("a", picture())
        with pytest.raises(Stopped):
            session.seen(danet, "position", tell)
        assert hooks(danet.model) == 0
        assert not danet.lock.locked()
        assert session.looks == {}

    def test_other_threads_are_not_stopped(self, danet):
        """A click computes with the layers of a model that another visitor's work may watch."""

        def tell(done: float) -> None:
            raise Stopped("stopped")

        with watched(danet.model, 1, tell):
            done = []
            x = torch.randn(1, 64, 5, 7)
            block = danet.model.head.position[1]
            thread = threading.Thread(target=lambda: done.append(block.query(x)))
            thread.start()
            thread.join()
            assert done
            with pytest.raises(Stopped):
                block.query(x)

    def test_branch_ends_after_an_error(self, danet):
        with pytest.raises(ZeroDivisionError), only_branch(danet.model, "channel"):
            raise ZeroDivisionError
        assert hooks(danet.model) == 0


def test_visitors_at_once_do_not_mix(danet):
    alone = [Session("a", picture(k)).seen(danet, "fused", silent) for k in range(6)]
    start, found = threading.Barrier(6), {}

    def visit(k: int) -> None:
        start.wait()
        found[k] = Session("a", picture(k)).seen(danet, "fused", silent)

    threads = [threading.Thread(target=visit, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    name = "head.position.1"
    for k in range(6):
        mine, reference = found[k].looks["danet"], alone[k].looks["danet"]
        assert torch.equal(mine.predictions["fused"].labels, reference.predictions["fused"].labels)
        assert torch.equal(
            mine.view.maps.positions[name].before(), reference.view.maps.positions[name].before()
        )
    assert hooks(danet.model) == 0


class TestShortMemory:
    """The picture is 300 x 420; the backbone has memory for a window of 256 x 256."""

    @pytest.fixture
    def short(self, danet):
        def look(layer, inputs):
            if not isinstance(inputs[0], FakeTensor) and inputs[0][0, 0].numel() > 256 * 256:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        handle = danet.model.backbone.register_forward_pre_hook(look)
        yield danet
        handle.remove()

    def test_windows_are_taken(self, short):
        before = hooks(short.model)
        session = Session("a", picture(size=(300, 420))).seen(short, "fused", silent)
        assert session.window == session.side == 256
        expected = Predictor(short.model, window=256)(picture(size=(300, 420))).labels
        assert torch.equal(session.looks["danet"].predictions["fused"].labels, expected.byte())
        assert "The memory is short" in greeting(session)
        assert "windows of 256 x 256" in greeting(session)
        marked = session.marked(290, 3).viewed(short, silent)
        assert marked.looks["danet"].view.box == Box(44, 0, 300, 256)
        assert hooks(short.model) == before

    def test_the_estimate_is_asked(self, danet, monkeypatch):
        monkeypatch.setattr(auto_window, "free_bytes", lambda device: 17e6)
        session = Session("a", picture(size=(300, 420))).seen(danet, "fused", silent)
        assert session.side == 256
        assert Session("a", picture()).seen(danet, "fused", silent).side is None

    def test_nothing_fits(self, danet):
        def look(layer, inputs):
            raise MemoryError

        handle = danet.model.head.register_forward_pre_hook(look)
        session = Session("a", picture(size=(300, 420)))
        with pytest.raises(UserError, match="even in windows of 128 x 128; take a smaller"):
            session.seen(danet, "fused", silent)
        handle.remove()
        assert session.seen(danet, "fused", silent).side is None
