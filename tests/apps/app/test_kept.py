"""What is kept of images when visitors keep too many or too large ones."""

import pytest
import torch

from scenewise.apps.app import kept as module
from scenewise.apps.app.kept import MAX_KEPT, Kept, bytes_of
from scenewise.apps.app.state import ImageState
from tests.apps.app.test_state import noise

MIB = 2**20


def image(mebibytes: int = 1) -> ImageState:
    return ImageState("a", torch.zeros(1, mebibytes, MIB, dtype=torch.uint8))


@pytest.fixture
def kept(monkeypatch) -> Kept:
    monkeypatch.setattr(module, "_MAX_OWN", 10 * MIB)
    monkeypatch.setattr(module, "_MAX_ALL", 24 * MIB)
    return Kept()


def sizes(kept: Kept) -> dict[str, int]:
    return {key: entry.size // MIB for key, entry in kept.entries.items()}


def test_one_visitor_does_not_push_out_the_images_of_another(kept):
    kept.put("mine", image(), "ann")
    for k in range(40):
        kept.put(f"{k}", image(), "bob")
        kept.put(f"large {k}", image(4), "cem")
    assert kept.get("mine") is not None
    assert kept.get("39") is not None
    assert kept.get("29") is None
    assert sum(sizes(kept).values()) <= 24


def test_the_number_of_each_visitor_is_bounded():
    kept = Kept()
    for k in range(MAX_KEPT):
        kept.put(f"{k}", ImageState("a", noise()), "ann")
    kept.get("0")
    kept.put("more", ImageState("a", noise()), "ann")
    assert kept.get("0") is not None  # it was used last
    assert kept.get("1") is None
    kept.put("other", ImageState("a", noise()), "bob")
    assert len(kept.entries) == MAX_KEPT + 1


def test_who_has_most_loses_first(kept):
    for k in range(9):
        kept.put(f"ann {k}", image(), "ann")
    for visitor in ("bob", "cem"):
        for k in range(2):
            kept.put(f"{visitor} {k}", image(4), visitor)
    names = " ".join(kept.entries)
    assert "ann 0" not in names  # 9 + 8 + 8 is one more than 24
    assert names.count("ann") == 8
    assert (names.count("bob"), names.count("cem")) == (2, 2)


def test_the_image_in_use_is_kept_however_large(kept):
    kept.put("small", image(), "ann")
    kept.put("large", image(30), "ann")
    assert sizes(kept) == {"large": 30}


def test_results_go_before_images(danet, monkeypatch):
    """Results can be computed again; an image must be uploaded again."""
    monkeypatch.setattr(module, "_LEAST", 0)
    kept, state = Kept(), ImageState("a", noise())
    computed = state.computed(danet, "head.position.1")
    assert bytes_of(computed) > 3 * bytes_of(state)
    monkeypatch.setattr(module, "_MAX_OWN", 3 * bytes_of(state) + bytes_of(computed))
    for k in range(3):
        kept.put(f"{k}", state, "ann")
        kept.merge(f"{k}", computed)
    assert [bool(entry.state.results) for entry in kept.entries.values()] == [False, False, True]
    assert torch.equal(kept.get("0").image, state.image)


def test_all_tensors_count_once(danet):
    """Every tensor that a state refers to, found by the garbage collector."""
    import gc

    state = ImageState("a", noise(size=(370, 530))).computed(danet, "head.position.1")
    seen, waiting = {}, [state]
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, torch.nn.Module | type):
            continue
        seen[id(value)] = value
        if not isinstance(value, torch.Tensor):
            waiting += gc.get_referents(value)
    tensors = [value for value in seen.values() if isinstance(value, torch.Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    assert bytes_of(state) == sum(storages.values()) > 6 * state.image.nbytes
