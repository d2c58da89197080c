"""Images in, predictions and recorded blocks out, without Gradio."""

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
    Stopped,
    VisitorState,
    _Box,
    _nearest_window,
    _only_branch,
    _reporting,
    read_upload,
    windows,
)
from scenewise.errors import UserError
from scenewise.inference import auto_window
from scenewise.visualize import ablate, attention_maps


def noise(seed: int = 0, size: tuple[int, int] = (37, 53)) -> torch.Tensor:
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
        image = read_upload(self.save(tmp_path, array, kind), "a")
        assert np.array_equal(image.permute(1, 2, 0).numpy(), array)

    def test_too_many_bytes(self, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "MAX_BYTES", 2**20)
        path = tmp_path / "x"
        path.write_bytes(bytes(3 * 2**19))
        with pytest.raises(UserError, match=r"'big.png' has 1.5 MiB, more than the limit of 1;"):
            read_upload(path, "big.png")

    def test_too_many_pixels(self, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "MAX_PIXELS", 34)
        path = self.save(tmp_path, np.zeros((5, 7, 3), np.uint8))
        with pytest.raises(UserError, match=r"'a.png' has 5 x 7 pixels"):
            read_upload(path, "a.png")
        monkeypatch.setattr(module, "MAX_PIXELS", 35)
        assert read_upload(path, "a.png").shape == (3, 5, 7)

    def test_bomb(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        with pytest.raises(UserError, match="claims far too many pixels"):
            read_upload(self.save(tmp_path, np.zeros((5, 7, 3), np.uint8)), "a.png")

    def test_not_an_image(self, tmp_path):
        (tmp_path / "x").write_text("hello")
        with pytest.raises(
            UserError, match=r"'notes.png' is not a readable image.* PNG, JPEG, WEBP"
        ):
            read_upload(tmp_path / "x", "notes.png")

    def test_other_kind(self, tmp_path):
        path = self.save(tmp_path, np.zeros((5, 7, 3), np.uint8), "GIF")
        with pytest.raises(UserError, match="not a readable image"):
            read_upload(path, "a.gif")

    def test_cut_off(self, tmp_path):
        array = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
        path = self.save(tmp_path, array)
        path.write_bytes(path.read_bytes()[:5000])
        with pytest.raises(UserError, match=r"^'a.png' is damaged; supported"):
            read_upload(path, "a.png")


class TestPrediction:
    def test_is_that_of_the_predictor(self, danet):
        result = VisitorState("a", noise()).predicted(danet, "fused", silent).results["danet"]
        labels, confidence = Predictor(danet.model)(noise())
        assert torch.equal(result.predictions["fused"].labels, labels.byte())
        assert torch.equal(result.predictions["fused"].confidence, confidence)

    @pytest.mark.parametrize("branch", ["position", "channel"])
    def test_branch_has_its_own_classifier(self, danet, branch):
        model = danet.model
        result = VisitorState("a", noise()).predicted(danet, branch, silent).results["danet"]
        with torch.no_grad():
            x = model.backbone(model.normalize(noise()[None]))[-1]
            scores = model.head.get_submodule(f"classify_{branch}")(
                model.head.get_submodule(branch)(x)
            )
            scores = model.upsample(scores, (37, 53)).softmax(1)[0]
        torch.testing.assert_close(result.predictions[branch].confidence, scores.amax(0))
        assert hooks(model) == 0

    def test_is_made_once(self, danet):
        state = VisitorState("a", noise()).predicted(danet, "fused", silent)
        assert state.predicted(danet, "fused", silent) is state
        both = state.predicted(danet, "channel", silent)
        assert set(both.results["danet"].predictions) == {"fused", "channel"}
        assert set(state.results["danet"].predictions) == {"fused"}

    def test_branches(self, danet, ccnet, fcn):
        blocks = ("without head.position.1", "without head.channel.1")
        assert danet.branches == ("fused", "position", "channel", *blocks)
        assert ccnet.branches == ("fused", "without head.context.join.branch.block")
        assert fcn.branches == ("fused",)

    def test_a_block_is_switched_off(self, danet):
        state = VisitorState("a", noise()).predicted(danet, "fused", silent)
        without = state.predicted(danet, "without head.position.1", silent).results["danet"]
        ablation = ablate(Predictor(danet.model), noise(), "head.position.1")
        assert torch.equal(without.predictions["fused"].labels, ablation.labels.byte())
        labels = without.predictions["without head.position.1"].labels
        assert torch.equal(labels, ablation.without.byte())
        assert not torch.equal(ablation.labels, ablation.without)
        assert without.view is state.results["danet"].view
        assert hooks(danet.model) == 0

    def test_records_the_blocks(self, danet):
        view = VisitorState("a", noise()).predicted(danet, "fused", silent).results["danet"].view
        with attention_maps(danet.model) as maps:
            Predictor(danet.model)(noise())
        assert view.box == _Box(0, 0, 37, 53)
        for name, block in maps.blocks().items():
            assert torch.equal(view.maps.blocks()[name].before(), block.before())


class TestWindows:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        monkeypatch.setattr(module, "_WHOLE_PIXELS", 37 * 53 - 1)
        monkeypatch.setattr(module, "_WINDOW", 24)

    def test_labels(self, danet):
        state = VisitorState("a", noise()).predicted(danet, "fused", silent)
        assert state.window == 24
        labels = Predictor(danet.model, window=24)(noise()).labels
        assert torch.equal(state.results["danet"].predictions["fused"].labels, labels.byte())
        assert state.results["danet"].view is None

    def test_attention_is_that_of_the_nearest_window(self, danet):
        state = VisitorState("a", noise()).predicted(danet, "fused", silent).marked(30, 3)
        view = state.recorded(danet, silent).results["danet"].view
        assert view.box == _nearest_window((30, 3), (37, 53), 24) == _Box(13, 0, 37, 24)
        with attention_maps(danet.model) as maps:
            Predictor(danet.model)(noise()[:, 13:37, 0:24])
        name = "head.position.1"
        assert torch.equal(view.maps.positions[name].before(), maps.positions[name].before())

    def test_window_is_run_once(self, danet):
        state = VisitorState("a", noise()).predicted(danet, "fused", silent)
        state = state.marked(30, 3).recorded(danet, silent)
        assert state.marked(31, 4).recorded(danet, silent).results is state.results
        moved = state.marked(2, 50).recorded(danet, silent).results["danet"].view
        assert moved.box == _Box(0, 29, 24, 53)

    def test_cover_every_pixel(self):
        seen = torch.zeros(37, 53)
        for box in windows((37, 53), 24):
            box.of(seen).fill_(1)
        assert seen.all()


class TestMarked:
    @pytest.mark.parametrize("at", [(-1, 0), (37, 0), (0, 53), (0, -1)])
    def test_outside(self, at):
        with pytest.raises(UserError, match=r"outside the image; rows are 0 to 36, columns 0 to"):
            VisitorState("a", noise()).marked(*at)

    def test_inside(self):
        assert VisitorState("a", noise()).marked(36, 52).at == (36, 52)


class TestReporting:
    def test_reports_the_share_that_is_done(self, danet):
        reported: list[float] = []
        VisitorState("a", noise()).predicted(danet, "fused", reported.append)
        assert reported == sorted(reported)
        assert reported[0] == 0
        assert 0.5 < reported[-1] <= 1

    def test_stopping_leaves_the_model_and_the_state(self, danet):
        def stop(done: float) -> None:
            if done > 0.3:
                raise Stopped("stopped")

        state = VisitorState("a", noise())
        with pytest.raises(Stopped):
            state.predicted(danet, "position", stop)
        assert hooks(danet.model) == 0
        assert not danet.lock.locked()
        assert state.results == {}

    def test_other_threads_are_not_stopped(self, danet):
        """A click computes with the layers of a model that another visitor's work reports on."""

        def stop(done: float) -> None:
            raise Stopped("stopped")

        with _reporting(danet.model, 1, stop):
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
        with pytest.raises(ZeroDivisionError), _only_branch(danet.model, "channel"):
            raise ZeroDivisionError
        assert hooks(danet.model) == 0


def test_visitors_at_once_do_not_mix(danet):
    alone = [VisitorState("a", noise(k)).predicted(danet, "fused", silent) for k in range(6)]
    start, together = threading.Barrier(6), {}

    def visit(k: int) -> None:
        start.wait()
        together[k] = VisitorState("a", noise(k)).predicted(danet, "fused", silent)

    threads = [threading.Thread(target=visit, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    name = "head.position.1"
    for k in range(6):
        result, reference = together[k].results["danet"], alone[k].results["danet"]
        assert torch.equal(
            result.predictions["fused"].labels, reference.predictions["fused"].labels
        )
        assert torch.equal(
            result.view.maps.positions[name].before(), reference.view.maps.positions[name].before()
        )
    assert hooks(danet.model) == 0


class TestShortMemory:
    """The image is 300 x 420; the backbone has memory for a window of 256 x 256."""

    @pytest.fixture
    def short(self, danet):
        def check(layer, inputs):
            if not isinstance(inputs[0], FakeTensor) and inputs[0][0, 0].numel() > 256 * 256:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        handle = danet.model.backbone.register_forward_pre_hook(check)
        yield danet
        handle.remove()

    def test_smaller_windows_are_used(self, short):
        before = hooks(short.model)
        state = VisitorState("a", noise(size=(300, 420))).predicted(short, "fused", silent)
        assert state.window == state.side == 256
        expected = Predictor(short.model, window=256)(noise(size=(300, 420))).labels
        assert torch.equal(state.results["danet"].predictions["fused"].labels, expected.byte())
        assert "Memory is short" in greeting(state)
        assert "windows of 256 x 256" in greeting(state)
        marked = state.marked(290, 3).recorded(short, silent)
        assert marked.results["danet"].view.box == _Box(44, 0, 300, 256)
        assert hooks(short.model) == before

    def test_the_estimate_is_used(self, danet, monkeypatch):
        monkeypatch.setattr(auto_window, "free_bytes", lambda device: 17e6)
        state = VisitorState("a", noise(size=(300, 420))).predicted(danet, "fused", silent)
        assert state.side == 256
        assert VisitorState("a", noise()).predicted(danet, "fused", silent).side is None

    def test_nothing_fits(self, danet):
        def check(layer, inputs):
            raise MemoryError

        handle = danet.model.head.register_forward_pre_hook(check)
        state = VisitorState("a", noise(size=(300, 420)))
        with pytest.raises(UserError, match="even in windows of 128 x 128; upload a smaller"):
            state.predicted(danet, "fused", silent)
        handle.remove()
        assert state.predicted(danet, "fused", silent).side is None
