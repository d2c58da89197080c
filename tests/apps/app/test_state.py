"""Images in, predictions and recorded blocks out."""

import threading
from contextlib import ExitStack

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from scenewise import Predictor
from scenewise.apps.app import state as module
from scenewise.apps.app.render import window_note
from scenewise.apps.app.state import ImageState, _reporting
from scenewise.apps.app.windows import Box, nearest_window, windows
from scenewise.apps.app.work import Stopped
from scenewise.errors import UserError
from scenewise.inference import auto_window
from scenewise.visualize import ablate, attention_maps
from scenewise.visualize.statistics import switched_off

POSITION = "head.position.1"


def noise(seed: int = 0, size: tuple[int, int] = (37, 53)) -> torch.Tensor:
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=seeded(seed))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class TestPrediction:
    def test_is_that_of_the_predictor(self, danet):
        result = ImageState("a", noise()).computed(danet).results["danet"]
        labels, confidence = Predictor(danet.model, fast=False)(noise())
        assert torch.equal(result.predictions[None].labels, labels.byte())
        assert torch.equal(result.predictions[None].confidence, confidence)

    def test_is_made_once(self, danet):
        state = ImageState("a", noise()).computed(danet)
        assert state.has(danet)
        assert not state.has(danet, POSITION)
        assert state.computed(danet) is state
        both = state.computed(danet, POSITION)
        assert set(both.results["danet"].predictions) == {None, POSITION}
        assert set(state.results["danet"].predictions) == {None}

    def test_a_block_is_switched_off(self, danet):
        state = ImageState("a", noise()).computed(danet)
        without = state.computed(danet, POSITION).results["danet"]
        ablation = ablate(Predictor(danet.model, fast=False), noise(), POSITION)
        assert torch.equal(without.predictions[None].labels, ablation.labels.byte())
        assert torch.equal(without.predictions[POSITION].labels, ablation.without.byte())
        assert not torch.equal(ablation.labels, ablation.without)
        assert without.view.maps is state.results["danet"].view.maps
        assert hooks(danet.model) == 0

    def test_records_the_blocks(self, danet):
        view = ImageState("a", noise()).computed(danet).results["danet"].view
        with attention_maps(danet.model) as maps:
            Predictor(danet.model, fast=False)(noise())
        assert view.box == Box(0, 0, 37, 53)
        for name, block in maps.blocks().items():
            assert torch.equal(view.maps.blocks()[name].before(), block.before())

    @pytest.mark.parametrize("off", [None, POSITION])
    def test_scores_of_a_pixel(self, danet, off):
        view = ImageState("a", noise()).computed(danet, off).results["danet"].view
        with ExitStack() as stack:
            if off:
                stack.enter_context(switched_off(danet.model, off))
            scores = Predictor(danet.model, fast=False).scores(noise())
        for at in ((0, 0), (36, 52), (20, 11)):
            found = view.scores(danet.model, at, off)
            torch.testing.assert_close(found, scores[:, at[0], at[1]])

    def test_states_of_an_image_are_joined(self, danet, ccnet):
        """Two visitors' work on one sample ends one after the other."""
        start = ImageState("a", noise())
        first, second = start.computed(danet, POSITION), start.computed(ccnet)
        third = start.computed(danet)
        joined = start.merged(first).merged(second).merged(third)
        assert joined.has(danet, POSITION)
        assert joined.has(ccnet)
        view = joined.results["danet"].view
        assert set(view.logits) == {None, POSITION}

    def test_the_latest_gradient_maps_are_kept(self, fcn):
        start = state = ImageState("a", noise()).computed(fcn)
        box = state.results["fcn"].view.box
        for column in range(module._GRADIENTS + 3):
            step = state.with_gradient(fcn, ((0, column), box), torch.full((5, 7), float(column)))
            state = state.merged(step)
        kept = state.merged(start).results["fcn"].gradients
        assert [at[1] for at, _ in kept] == list(range(3, module._GRADIENTS + 3))
        assert all(row.unique() == at[1] for (at, _), row in kept.items())


class TestWindows:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        monkeypatch.setattr(module, "_WHOLE_PIXELS", 37 * 53 - 1)
        monkeypatch.setattr(module, "_WINDOW", 24)

    def test_labels(self, danet):
        state = ImageState("a", noise()).computed(danet)
        assert state.window == 24
        labels = Predictor(danet.model, fast=False, window=24)(noise()).labels
        assert torch.equal(state.results["danet"].predictions[None].labels, labels.byte())
        assert state.results["danet"].view is None

    def test_attention_is_that_of_thenearest_window(self, danet):
        state = ImageState("a", noise()).marked(30, 3)
        view = state.computed(danet).results["danet"].view
        assert view.box == nearest_window((30, 3), (37, 53), 24) == Box(13, 0, 37, 24)
        with attention_maps(danet.model) as maps:
            Predictor(danet.model, fast=False)(noise()[:, 13:37, 0:24])
        before = view.maps.positions[POSITION].before()
        assert torch.equal(before, maps.positions[POSITION].before())

    def test_window_is_run_once(self, danet):
        state = ImageState("a", noise()).marked(30, 3).computed(danet)
        assert state.marked(31, 4).computed(danet).results is state.results
        assert not state.marked(2, 50).has(danet)
        moved = state.marked(2, 50).computed(danet).results["danet"].view
        assert moved.box == Box(0, 29, 24, 53)

    def test_scores_are_those_of_the_window(self, danet):
        state = ImageState("a", noise()).marked(30, 3).computed(danet, POSITION)
        assert state.has(danet, POSITION)
        view = state.results["danet"].view
        scores = Predictor(danet.model, fast=False).scores(noise()[:, 13:37, 0:24])
        torch.testing.assert_close(view.scores(danet.model, (30, 3)), scores[:, 17, 3])
        assert not torch.equal(
            view.scores(danet.model, (30, 3)), view.scores(danet.model, (30, 3), POSITION)
        )

    def test_cover_every_pixel(self):
        seen = torch.zeros(37, 53)
        for box in windows((37, 53), 24):
            box.of(seen).fill_(1)
        assert seen.all()


class TestMarked:
    @pytest.mark.parametrize("at", [(-1, 0), (37, 0), (0, 53), (0, -1)])
    def test_outside(self, at):
        with pytest.raises(UserError, match=r"outside the image; rows are 0 to 36, columns 0 to"):
            ImageState("a", noise()).marked(*at)

    def test_inside(self):
        assert ImageState("a", noise()).marked(36, 52).at == (36, 52)


class TestReporting:
    def test_reports_the_share_that_is_done(self, danet):
        reported: list[float] = []
        ImageState("a", noise()).computed(danet, None, reported.append)
        assert reported == sorted(reported)
        assert reported[0] == 0
        assert 0.5 < reported[-1] <= 1

    def test_stopping_leaves_the_model_and_the_state(self, danet):
        def stop(done: float) -> None:
            if done > 0.3:
                raise Stopped("stopped")

        state = ImageState("a", noise())
        with pytest.raises(Stopped):
            state.computed(danet, None, stop)
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


def test_visitors_at_once_do_not_mix(danet):
    alone = [ImageState("a", noise(k)).computed(danet) for k in range(6)]
    start, together = threading.Barrier(6), {}

    def visit(k: int) -> None:
        start.wait()
        together[k] = ImageState("a", noise(k)).computed(danet)

    threads = [threading.Thread(target=visit, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    name = "head.position.1"
    for k in range(6):
        result, reference = together[k].results["danet"], alone[k].results["danet"]
        assert torch.equal(result.predictions[None].labels, reference.predictions[None].labels)
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
        state = ImageState("a", noise(size=(300, 420))).computed(short)
        assert state.window == state.side == 256
        expected = Predictor(short.model, fast=False, window=256)(noise(size=(300, 420))).labels
        assert torch.equal(state.results["danet"].predictions[None].labels, expected.byte())
        assert "Memory is short" in window_note(state)
        assert "windows of 256 x 256" in window_note(state)
        marked = state.marked(290, 3).computed(short)
        assert marked.results["danet"].view.box == Box(44, 0, 300, 256)
        assert hooks(short.model) == before

    def test_the_estimate_is_used(self, danet, monkeypatch):
        monkeypatch.setattr(auto_window, "free_bytes", lambda device: 17e6)
        state = ImageState("a", noise(size=(300, 420))).computed(danet)
        assert state.side == 256
        assert ImageState("a", noise()).computed(danet).side is None

    def test_nothing_fits(self, danet):
        def check(layer, inputs):
            raise MemoryError

        handle = danet.model.head.register_forward_pre_hook(check)
        state = ImageState("a", noise(size=(300, 420)))
        with pytest.raises(UserError, match="even in windows of 128 x 128; upload a smaller"):
            state.computed(danet)
        handle.remove()
        assert state.computed(danet).side is None
