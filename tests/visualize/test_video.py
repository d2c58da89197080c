"""Videos: every frame is labelled as an image, and overlays are written whole or not at all."""

import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from scenewise import Predictor, load_model
from scenewise.apps.cli import main
from scenewise.attention import InteractionAware, NonLocal
from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.visualize import explain_clip, frame_rows, overlay, video
from scenewise.visualize.video import _moving_average, _open_video, _write_video, overlay_video
from tests.attention.contract import randomise
from tests.toy_model import random_danet

av = pytest.importorskip("av")

STREET = Classes(("road", "sky", "car"), ((10, 20, 30), (40, 50, 60), (250, 0, 5)))
NTSC = Fraction(30000, 1001)


def smooth(index, size=(48, 64)):
    """A smooth image, which a codec preserves: (H, W, 3), uint8; it moves with ``index``."""
    rows, columns = np.mgrid[: size[0], : size[1]].astype(float)
    waves = [np.sin((rows + 5 * index) / 11), np.cos(columns / 13 + index), np.sin(columns / 17)]
    return np.stack([127 + 100 * wave for wave in waves], -1).astype(np.uint8)


def make(path, frames, codec="libx264", pix="yuv420p", rate=NTSC, **options):
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def read(path):
    with _open_video(path) as opened:
        return list(opened.frames)


@pytest.fixture(scope="module")
def predictor():
    return Predictor(random_danet(STREET))


@pytest.mark.parametrize(
    ("name", "codec", "pix"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mov", "mpeg4", "yuv420p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.mkv", "libx264", "yuv420p"),
        ("a.webm", "libvpx", "yuv420p"),
        ("a.gif", "gif", "rgb8"),
    ],
)
def test_overlays_keep_count_size_and_times(name, codec, pix, predictor, tmp_path):
    rate = Fraction(25) if codec == "gif" else NTSC
    source = make(tmp_path / name, [smooth(i) for i in range(7)], codec, pix, rate)
    assert overlay_video(predictor, source, tmp_path / "out.mp4") == 7
    before, after = read(source), read(tmp_path / "out.mp4")
    assert len(before) == len(after) == 7
    assert after[0].image.shape == (48, 64, 3)
    for one, other in zip(before, after, strict=True):
        assert abs(one.time - before[0].time - other.time) <= video._TIME_BASE
    with _open_video(tmp_path / "out.mp4") as opened:
        assert abs(opened.rate / rate - 1) < 0.02
        assert opened.length == 7


def test_an_overlay_is_the_one_of_the_frame_as_an_image(predictor, tmp_path):
    source = make(tmp_path / "a.mp4", [smooth(i) for i in range(4)])
    overlay_video(predictor, source, tmp_path / "out.mp4", opacity=0.3)
    for frame, drawn in zip(read(source), read(tmp_path / "out.mp4"), strict=True):
        labels = predictor(frame.image).labels
        expected = np.asarray(overlay(frame.image, labels, STREET, 0.3)).astype(float)
        assert np.abs(drawn.image - expected).mean() < 4


@pytest.mark.parametrize("encoder", ["libx264", "mpeg4"])
def test_colours_survive_writing_and_odd_sizes_are_padded(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_ENCODERS", (encoder,))
    flat = np.empty((47, 61, 3), np.uint8)
    flat[:] = (200, 40, 90)
    with _write_video(tmp_path / "a.mp4", NTSC) as write:
        write(flat, Fraction(5))
        write(flat, Fraction(6))
    first, second = read(tmp_path / "a.mp4")
    assert first.image.shape == (48, 62, 3)
    assert np.abs(first.image.astype(int) - flat[0, 0]).max() <= 4
    assert (first.time, second.time) == (0, 1)


def test_a_rotated_video_is_read_as_displayed(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.set_display_rotation(90)  # counter-clockwise
        frame = av.VideoFrame.from_ndarray(smooth(0), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    image = read(path)[0].image.astype(float)
    assert image.shape == (64, 48, 3)
    assert np.abs(image - np.rot90(smooth(0))).mean() < 4


def test_averages_over_time_by_hand():
    state = None
    for now in (1.0, 0.0, 0.5):
        state = _moving_average(state, torch.tensor([now, 1 - now]), 0.6)
    # 1; 0.6; 0.36 + 0.2
    assert_close(state, torch.tensor([0.56, 0.44]))
    assert _moving_average(torch.ones(2), torch.zeros(2), 0).tolist() == [0, 0]


def test_ema_labels_are_those_of_the_averaged_scores(predictor, tmp_path):
    source = make(tmp_path / "a.mp4", [smooth(9 * i) for i in range(3)])
    overlay_video(predictor, source, tmp_path / "out.mp4", decay=0.9, opacity=1)
    frames = [frame.image for frame in read(source)]
    first, second, third = (predictor.scores(frame) for frame in frames)
    labels = (0.81 * first + 0.09 * second + 0.1 * third).argmax(0)
    assert (labels != third.argmax(0)).any()
    expected = np.asarray(overlay(frames[2], labels, STREET, 1)).astype(float)
    alone = np.asarray(overlay(frames[2], third.argmax(0), STREET, 1)).astype(float)
    drawn = read(tmp_path / "out.mp4")[2].image
    assert np.abs(drawn - expected).mean() < np.abs(drawn - alone).mean()


def test_frames_are_read_lazily(tmp_path):
    """The file is truncated after its first frames: these are read before the error."""
    source = make(tmp_path / "a.mkv", [smooth(i) for i in range(90)], "mpeg4", g="1")
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    with _open_video(source) as opened:
        assert next(opened.frames).image.shape == (48, 64, 3)
        with pytest.raises(UserError, match=r"a\.mkv' \(it is truncated\)"):
            list(opened.frames)


def broken(path, kind):
    if kind == "noise":
        path.write_bytes(bytes(range(256)) * 20)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "sound":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=16000, layout="mono")
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            sound.rate = 16000
            container.mux(stream.encode(sound))
            container.mux(stream.encode())
    elif kind != "missing":
        codec = "mpeg4" if path.suffix == ".avi" else "libx264"
        options = {"movflags": "faststart"} if kind == "cut, index first" else {}
        noise = np.random.default_rng(0).integers(0, 256, (30, 48, 64, 3), np.uint8)
        make(path, list(noise), codec, **options)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("a.mp4", "noise", "cannot read video"),
        ("a.avi", "empty", "cannot read video"),
        ("a.mp4", "missing", "not found; check the path"),
        ("a.mp4", "sound", "has no video stream"),
        ("a.mp4", "cut", "cannot read video"),
        ("a.mp4", "cut, index first", "cannot read video"),
        ("a.mkv", "cut", "truncated"),
        ("a.avi", "cut", "truncated"),
    ],
)
def test_broken_videos_are_reported_and_nothing_is_written(
    name, kind, message, predictor, tmp_path
):
    source, out = tmp_path / name, tmp_path / "out"
    broken(source, kind)
    with pytest.raises(UserError, match=message):
        overlay_video(predictor, source, out / "o.mp4")
    assert not out.exists() or not list(out.iterdir())


def predict(*words):
    return main(["predict", *map(str, words), "--device", "cpu"])


@pytest.fixture(scope="module")
def model_folder(predictor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "danet"
    predictor.model.save_pretrained(folder)
    return folder


def test_predict_takes_images_and_videos(model_folder, tmp_path, capsys):
    inputs, out = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    make(inputs / "drive.mp4", [smooth(9 * i) for i in range(3)])
    (inputs / "cut.mkv").write_bytes(b"nothing")
    Image.fromarray(smooth(0)).save(inputs / "street.png")
    words = (inputs, "--model", model_folder, "--out", out, "--temporal", "ema")
    assert predict(*words, "--ema-decay", "0.9") == 2
    stderr = " ".join(capsys.readouterr().err.split())
    assert "2 of 3 images and videos labelled" in stderr
    assert "cut.mkv" in stderr
    files = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    assert files == [
        "classes.json",
        "labels/street.png",
        "overlays/drive.mp4",
        "overlays/street.jpg",
        "ranking.csv",
    ]
    again = Predictor(load_model(model_folder))
    overlay_video(again, inputs / "drive.mp4", tmp_path / "same.mp4", decay=0.9)
    for one, other in zip(
        read(out / "overlays/drive.mp4"), read(tmp_path / "same.mp4"), strict=True
    ):
        assert np.array_equal(one.image, other.image)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "a.mp4",
            ["--temporal", "ema", "--ema-decay", "1"],
            "the decay must be from 0 to below 1, not 1",
        ),
        ("a.mp4", ["--ema-decay", "0.5"], "--ema-decay needs --temporal ema"),
        ("a.mp4", ["--no-overlay"], "only the overlay is written"),
        ("a.png", ["--temporal", "ema"], "no input is one"),
    ],
)
def test_options_that_do_not_fit_are_reported(
    name, options, message, model_folder, tmp_path, capsys
):
    (tmp_path / name).touch()
    words = (tmp_path / name, "--model", model_folder, "--out", tmp_path / "out", *options)
    assert predict(*words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_extra_is_reported(model_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").touch()
    assert predict(tmp_path / "a.mp4", "--model", model_folder, "--out", tmp_path / "out") == 2
    assert "pip install 'scenewise[video]'" in capsys.readouterr().err


def test_rows_over_frames_are_rows_of_the_whole_map():
    block = randomise(NonLocal(8, dims=3).double()).eval()
    x = torch.randn(2, 8, 3, 5, 7, dtype=torch.float64)
    rows = frame_rows(block, x, (2, 4, 1))
    assert_close(rows.flatten(1), block.weights(x)[:, (2 * 5 + 4) * 7 + 1])
    clip = torch.randn(1, 3, 8, 5, 7)
    assert frame_rows(InteractionAware(8, (5, 7)), clip, (4, 1)).shape == (1, 3, 5, 7)


def test_a_clip_is_drawn_frame_by_frame(tmp_path):
    block, x = NonLocal(8, dims=3, subsample=True), torch.randn(1, 8, 6, 5, 7)
    explain_clip(block, x, [smooth(i) for i in range(6)], (4, 2, 3), tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text()
    assert all(f"frame {t}<" in drawn for t in range(6))
    assert "frame 6<" not in drawn


@pytest.mark.parametrize(
    ("size", "dims", "at", "count", "name", "message"),
    [
        ((1, 8, 3, 5, 7), 3, (3, 0, 0), 3, "a.png", "outside"),
        ((1, 8, 5, 7), 2, (0, 0), 1, "a.png", "5 axes"),
        ((1, 8, 3, 5, 7), 3, (0, 0, 0), 2, "a.png", "1 clips of 3 frames"),
        ((2, 8, 3, 5, 7), 3, (0, 0, 0), 3, "a.png", "2 clips"),
        ((1, 8, 3, 5, 7), 3, (0, 0, 0), 3, "a.bmp", "a figure is"),
    ],
)
def test_bad_clips_are_reported(size, dims, at, count, name, message, tmp_path):
    frames = [smooth(i) for i in range(count)]
    with pytest.raises(UserError, match=message):
        explain_clip(NonLocal(8, dims=dims), torch.randn(size), frames, at, tmp_path / name)
