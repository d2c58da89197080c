"""Uploaded files and samples: what is read, kept and forgotten."""

import io
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise.apps.app import images as module
from scenewise.apps.app.images import Images, UnknownImage, read_upload
from scenewise.apps.app.kept import MAX_KEPT
from scenewise.apps.app.render import shrunk_note
from scenewise.apps.app.state import ImageState
from scenewise.data.layout import Layout
from scenewise.errors import UserError

RNG = np.random.default_rng(0)


def file(size: tuple[int, int] = (5, 7), kind: str = "PNG") -> bytes:
    return encoded(RNG.integers(0, 256, (*size, 3), np.uint8), kind)


def encoded(array: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


class TestReading:
    @pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
    def test_reads(self, kind):
        array = RNG.integers(0, 256, (5, 7, 3), np.uint8)
        state = read_upload(encoded(array, kind), "a")
        assert np.array_equal(state.image.permute(1, 2, 0).numpy(), array)
        assert state.shrunk_from is shrunk_note(state) is None

    def test_too_many_bytes(self, monkeypatch):
        monkeypatch.setattr(module, "MAX_BYTES", 2**20)
        with pytest.raises(UserError, match=r"'big.png' has 1.5 MiB, more than the limit of 1;"):
            read_upload(bytes(3 * 2**19), "big.png")

    def test_too_many_pixels(self, monkeypatch):
        monkeypatch.setattr(module, "_MAX_DECODED", 34)
        with pytest.raises(UserError, match=r"'a.png' has 5 x 7 pixels"):
            read_upload(file(), "a.png")
        monkeypatch.setattr(module, "_MAX_DECODED", 35)
        assert read_upload(file(), "a.png").size == (5, 7)

    def test_a_large_photograph_is_shrunk(self, monkeypatch):
        monkeypatch.setattr(module, "MAX_PIXELS", 300)
        ramp = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None] * 4, (60, 80))
        state = read_upload(encoded(np.dstack([ramp] * 3)), "phone.png")
        assert state.size == (15, 20)
        assert state.shrunk_from == (60, 80)
        assert shrunk_note(state) == (
            "phone.png was shrunk from 60 x 80 to 15 x 20 pixels, the most here."
        )
        middle = torch.arange(15) * 16 + 6.0  # means of four rows
        assert (state.image[0, 1:-1, 3] - middle[1:-1]).abs().max() <= 1

    def test_values_of_a_sensor_are_shrunk(self, monkeypatch):
        monkeypatch.setattr(module, "MAX_PIXELS", 400)
        wide = Layout(1, rgb=False, wide=True)
        buffer = io.BytesIO()
        Image.fromarray(np.full((40, 60), 3000, np.uint16)).save(buffer, "PNG")
        state = read_upload(buffer.getvalue(), "a.png", wide)
        assert state.image.shape == (1, 14, 21)
        assert (state.image - 3000).abs().max() < 0.01

    def test_bomb(self, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        with pytest.raises(UserError, match="claims far too many pixels"):
            read_upload(file(), "a.png")

    @pytest.mark.parametrize("content", [b"hello", b"", file(kind="GIF")])
    def test_not_an_image(self, content):
        with pytest.raises(
            UserError, match=r"'notes.png' is not a readable image.* PNG, JPEG, WEBP"
        ):
            read_upload(content, "notes.png")

    def test_cut_off(self):
        with pytest.raises(UserError, match=r"^'a.png' is damaged; supported"):
            read_upload(file((50, 70))[:5000], "a.png")


class TestKept:
    def test_ids_cannot_be_guessed(self):
        images = Images()
        ids = {images.add(file(), "a.png") for _ in range(4)}
        assert len(ids) == 4
        assert min(map(len, ids)) >= 22  # 128 bits
        assert all(images.get(k).name == "a.png" for k in ids)

    def test_samples_do_not_push_out_uploads(self, tmp_path):
        for k in range(MAX_KEPT + 2):
            (tmp_path / f"{k:02}.png").write_bytes(file())
        images = Images(folder=tmp_path)
        image = images.add(file(), "mine.png")
        for k in range(MAX_KEPT + 2):
            images.get(f"sample-{k}")
        assert images.get(image).name == "mine.png"
        assert len(images._opened.entries) == MAX_KEPT

    def test_images_are_forgotten_after_an_hour(self, monkeypatch):
        now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: now)
        images = Images()
        image = images.add(file(), "a.png")
        now += 3599
        images.get(image)
        now += 2  # being used does not make it younger
        images.forget()
        assert images._uploads.entries == {}
        with pytest.raises(UnknownImage):
            images.get(image)

    def test_results_of_a_dropped_image_are_not_kept(self):
        images = Images()
        images.keep("gone", ImageState("a", torch.zeros(3, 5, 7)))
        with pytest.raises(UnknownImage):
            images.get("gone")


class TestSamples:
    def test_of_a_folder(self, tmp_path: Path) -> None:
        for name in ("b.png", "a.bmp"):
            (tmp_path / name).write_bytes(file())
        (tmp_path / "broken.png").write_text("hello")
        (tmp_path / "notes.txt").write_text("hello")
        images = Images(folder=tmp_path)
        assert images.samples == {"sample-0": "a.bmp", "sample-1": "b.png"}
        assert images.get("sample-1").image.shape == (3, 5, 7)

    @pytest.mark.parametrize("image", ["../secret.png", "secret.png", "a.png", "sample-1", ""])
    def test_only_those_in_the_folder(self, tmp_path: Path, image: str) -> None:
        inner = tmp_path / "inner"
        inner.mkdir()
        (tmp_path / "secret.png").write_bytes(file())
        (inner / "a.png").write_bytes(file())
        with pytest.raises(UnknownImage):
            Images(folder=inner).get(image)

    @pytest.mark.parametrize("name", ["", "missing"])
    def test_without_images(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "notes.txt").write_text("hello")
        with pytest.raises(UserError, match="give --samples a folder of images"):
            _ = Images(folder=tmp_path / name).samples

    def test_scenes(self) -> None:
        images = Images()
        assert list(images.samples) == [f"sample-{k}" for k in range(6)]
        assert images.get("sample-1").size == (64, 192)
