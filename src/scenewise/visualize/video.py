"""Overlays of videos, frame by frame: reading, averaging scores over time, writing.

Needs the extra ``video`` (PyAV): ``pip install 'scenewise[video]'``. Each frame is read, labelled
and written before the next one, so memory does not grow with the length of the video.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scenewise.errors import UserError
from scenewise.files import atomic_write
from scenewise.inference.auto_window import AutoWindowPredictor
from scenewise.inference.predictor import Predictor, layout_of
from scenewise.visualize.overlay import overlay

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.video.stream import VideoStream

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
_ENCODERS = ("libx264", "mpeg4")  # the first available one is used
_TIME_BASE = Fraction(1, 60000)  # seconds; the finest usual one that both encoders accept

Path = str | os.PathLike[str]
Image = NDArray[np.uint8]


class _Frame(NamedTuple):
    """One frame: (H, W, 3), uint8, RGB, and its time in seconds."""

    image: Image
    time: Fraction


class _Video(NamedTuple):
    """An open video.

    Attributes:
        rate: mean frames per second.
        length: number of frames according to the file; None if it does not say.
        frames: read one by one; can be iterated once.
    """

    rate: Fraction
    length: int | None
    frames: Iterator[_Frame]


def overlay_video(
    predictor: Predictor | AutoWindowPredictor,
    source: Path,
    target: Path,
    *,
    decay: float = 0.0,
    opacity: float = 0.5,
    progress: Callable[[int, int | None], object] | None = None,
    note: str = "",
) -> int:
    """Write a video blended with the colours of its labels, whole or not at all.

    The overlay keeps size, frame rate and frame times, not the sound. An odd height or width is
    made even by repeating the last row or column, which the codec requires.

    Args:
        predictor: labels each frame by itself.
        source: the video.
        target: ``.mp4``: H.264 if that encoder is available, else MPEG-4.
        decay: d of the average of the scores p, s_t = d s_(t-1) + (1 - d) p_t; 0 uses each frame by
            itself.
        opacity: of the colours, 0..1.
        progress: called with the number of frames done and the total, None if unknown.
        note: stored in the file, see :func:`comment`.

    Returns:
        The number of frames.

    Raises:
        UserError: PyAV is missing, the video cannot be read to its end, or the overlay cannot be
            written.
    """
    check_decay(decay)
    taken = layout_of(predictor.model)
    if taken.wide or not taken.rgb:
        raise UserError(f"the model takes {taken}, but frames of a video are RGB of 8 bits")
    scores, count = None, 0
    with _open_video(source) as video, _write_video(target, video.rate, note) as write:
        for image, time in video.frames:
            scores = _moving_average(scores, predictor.scores(image), decay)
            drawn = overlay(image, predictor.decide(scores)[0], predictor.model.classes, opacity)
            write(np.asarray(drawn), time)
            count += 1
            if progress is not None:
                progress(count, video.length)
    return count


def _moving_average(before: Tensor | None, now: Tensor, decay: float) -> Tensor:
    r"""Exponential average over time.

    .. math:: s_0 = p_0, \quad s_t = d \, s_{t-1} + (1 - d) \, p_t

    Args:
        before: s_{t-1}, of any shape; None at the first frame.
        now: p_t.
        decay: d, from 0 (no memory) to below 1.

    >>> import torch
    >>> _moving_average(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.75)
    tensor([0.7500, 0.2500])
    """
    return now if before is None or decay == 0 else decay * before + (1 - decay) * now


def check_decay(decay: float) -> None:
    """Raise a UserError for a decay outside 0 to below 1."""
    if not 0 <= decay < 1:
        raise UserError(f"the decay must be from 0 to below 1, not {decay:g}; 0.6 is usual")


def check_available() -> None:
    """Raise a UserError if PyAV is missing."""
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise UserError("videos need PyAV; run: pip install 'scenewise[video]'") from error


@contextmanager
def _open_video(path: Path) -> Iterator[_Video]:
    """Open a video for one pass over its frames, rotated as the file specifies.

    Raises:
        UserError: PyAV is missing, the file is not found or has no video, or (while frames are
            read) it is broken or truncated. A truncated GIF looks like a short one.
    """
    check_available()
    import av

    try:
        container = av.open(os.fspath(path))
    except FileNotFoundError as error:
        raise UserError(f"video '{os.fspath(path)}' not found; check the path") from error
    except (av.FFmpegError, OSError) as error:
        raise _broken(path, error.strerror or str(error)) from error
    with container:
        if not container.streams.video:
            raise UserError(
                f"'{os.fspath(path)}' has no video stream, only sound or text; give another"
            )
        stream = container.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        yield _Video(Fraction(rate), stream.frames or None, _frames(container, stream, rate, path))


def _frames(
    container: "InputContainer", stream: "VideoStream", rate: Fraction, path: Path
) -> Iterator[_Frame]:
    import av

    shape, count, time = None, 0, Fraction(0)
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise _broken(path, "it is truncated")
            for frame in packet.decode():
                step = frame.time_base
                time = count / rate if frame.pts is None or not step else frame.pts * step
                image = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                if image.shape != (shape or image.shape):
                    raise _broken(path, "its frames differ in size")
                shape, count = image.shape, count + 1
                yield _Frame(np.ascontiguousarray(image), time)
    except (av.FFmpegError, OSError) as error:
        raise _broken(path, error.strerror or str(error)) from error
    if count == 0 or time + 2 / rate < _stated_duration(stream):  # two frames of tolerance
        raise _broken(path, "it is truncated")


def _stated_duration(stream: "VideoStream") -> float:
    """The stream's length in seconds as Matroska and WebM files state it; else 0."""
    parts = stream.metadata.get("DURATION", "0").split(":")  # hours, minutes, seconds
    try:
        return sum(float(part) * 60.0**place for place, part in enumerate(reversed(parts)))
    except ValueError:
        return 0.0


def _broken(path: Path, reason: str) -> UserError:
    return UserError(f"cannot read video '{os.fspath(path)}' ({reason}); replace or remove it")


@contextmanager
def _write_video(
    path: Path, rate: Fraction, note: str = ""
) -> Iterator[Callable[[Image, Fraction], None]]:
    """Write an ``.mp4``, whole or not at all: yields ``write(image, time)``, times increasing.

    Images are (H, W, 3), uint8, RGB, all of one size; times are relative to the first one's.

    Raises:
        UserError: PyAV is missing or the file cannot be written.
    """
    check_available()
    import av

    with atomic_write(path) as temporary:
        try:
            with av.open(str(temporary), "w", format="mp4") as container:
                container.metadata["comment"] = note
                stream = _new_stream(container, rate)
                yield _writer(container, stream)
                container.mux(stream.encode())  # flush what the encoder still holds
        except av.FFmpegError as error:
            raise UserError(f"cannot write '{os.fspath(path)}': {error.strerror}") from error


def comment(path: Path) -> str:
    """The note that :func:`overlay_video` stored in a file; empty if none."""
    import av

    with av.open(os.fspath(path)) as container:
        return container.metadata.get("comment", "")


def _new_stream(container: "OutputContainer", rate: Fraction) -> "VideoStream":
    import av
    from av.video.reformatter import Colorspace

    encoder = next(name for name in _ENCODERS if name in av.codecs_available)
    stream = cast("VideoStream", container.add_stream(encoder, rate.limit_denominator(1001)))
    codec = stream.codec_context
    codec.pix_fmt, codec.time_base = "yuv420p", _TIME_BASE
    codec.colorspace, codec.color_range = Colorspace.ITU601, 1  # limited range
    # visually lossless for H.264; about the same for MPEG-4
    codec.options = {"crf": "18"} if encoder == "libx264" else {"qmin": "2", "qmax": "4"}
    return stream


def _writer(
    container: "OutputContainer", stream: "VideoStream"
) -> Callable[[Image, Fraction], None]:
    import av
    from av.video.reformatter import Colorspace

    start: Fraction | None = None
    ticks = -1

    def write(image: Image, time: Fraction) -> None:
        nonlocal start, ticks
        even = np.pad(image, [(0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)], "edge")
        if start is None:
            start = time
            stream.height, stream.width = even.shape[:2]
        frame = av.VideoFrame.from_ndarray(even, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU601)
        ticks = max(ticks + 1, round((time - start) / _TIME_BASE))  # strictly increasing
        frame.pts, frame.time_base = ticks, _TIME_BASE
        container.mux(stream.encode(frame))

    return write
