"""Videos frame by frame: reading, averaging over time, and writing overlays.

Needs the extra ``video`` (PyAV): ``pip install 'scenewise[video]'``. A frame is read, labelled and
written before the next is read, so memory does not grow with the length of the video.
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
from scenewise.inference.predictor import Predictor
from scenewise.visualize.overlay import overlay

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.video.stream import VideoStream

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
ENCODERS = ("libx264", "mpeg4")  # the first that is there
CLOCK = Fraction(1, 60000)  # the finest common one that both encoders take

Path = str | os.PathLike[str]
Image = NDArray[np.uint8]


class Frame(NamedTuple):
    """One frame: (H, W, 3), uint8, RGB, and its time in seconds."""

    image: Image
    time: Fraction


class Video(NamedTuple):
    """An open video.

    Attributes:
        rate: frames a second, on average.
        length: number of frames, as the file says; None where it does not.
        frames: read one by one, once.
    """

    rate: Fraction
    length: int | None
    frames: Iterator[Frame]


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
    """Write a video under the colours of its labels, whole or not at all.

    The overlay has the size, the frame rate and the times of the video, without its sound. An odd
    height or width is made even by repeating the last row or column, as the codec asks for.

    Args:
        predictor: labels each frame alone.
        source: the video.
        target: ``.mp4``, H.264 where the encoder is there, else MPEG-4.
        decay: of :func:`moving_average` over the frames' scores; 0 takes each frame alone.
        opacity: of the colours, 0..1.
        progress: called with the number of frames done and the number of all, if known.
        note: kept in the file, see :func:`comment`.

    Returns:
        The number of frames.

    Raises:
        UserError: PyAV is missing, the video cannot be read to its end, the overlay not written.
    """
    check_decay(decay)
    scores, count = None, 0
    with open_video(source) as video, write_video(target, video.rate, note) as write:
        for image, time in video.frames:
            now = predictor.scores(image)
            scores = moving_average(scores, now, decay)
            drawn = overlay(image, scores.argmax(0), predictor.model.classes, opacity)
            write(np.asarray(drawn), time)
            count += 1
            if progress is not None:
                progress(count, video.length)
    return count


def moving_average(before: Tensor | None, now: Tensor, decay: float) -> Tensor:
    r"""Exponential average over time.

    .. math:: s_0 = p_0, \quad s_t = d \, s_{t-1} + (1 - d) \, p_t

    Args:
        before: s_{t-1}, of any shape; None at the first frame.
        now: p_t.
        decay: d, from 0 (no memory) to below 1.

    >>> import torch
    >>> moving_average(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.75)
    tensor([0.7500, 0.2500])
    """
    return now if before is None or decay == 0 else decay * before + (1 - decay) * now


def check_decay(decay: float) -> None:
    """Raise a UserError for a decay that is no average's."""
    if not 0 <= decay < 1:
        raise UserError(f"a decay is from 0 to below 1, not {decay:g}; 0.6 is a usual one")


def check_available() -> None:
    """Raise a UserError where PyAV is missing."""
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise UserError("videos need PyAV; run: pip install 'scenewise[video]'") from error


@contextmanager
def open_video(path: Path) -> Iterator[Video]:
    """Open a video for one pass over its frames, turned as the file says they are shown.

    Raises:
        UserError: PyAV is missing, no such file, no video in it, or (while frames are read) broken
            or cut off. A cut GIF cannot be told from a short one.
    """
    check_available()
    import av

    try:
        container = av.open(os.fspath(path))
    except FileNotFoundError as error:
        raise UserError(f"no such video: '{os.fspath(path)}'; check the path") from error
    except (av.FFmpegError, OSError) as error:
        raise _broken(path, error.strerror or str(error)) from error
    with container:
        if not container.streams.video:
            raise UserError(f"'{os.fspath(path)}' holds no video, only sound or text; give another")
        stream = container.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        yield Video(Fraction(rate), stream.frames or None, _frames(container, stream, rate, path))


def _frames(
    container: "InputContainer", stream: "VideoStream", rate: Fraction, path: Path
) -> Iterator[Frame]:
    import av

    shape, count, time = None, 0, Fraction(0)
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise _broken(path, "it is cut off")
            for frame in packet.decode():
                step = frame.time_base
                time = count / rate if frame.pts is None or not step else frame.pts * step
                image = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                if image.shape != (shape or image.shape):
                    raise _broken(path, "its frames change their size")
                shape, count = image.shape, count + 1
                yield Frame(np.ascontiguousarray(image), time)
    except (av.FFmpegError, OSError) as error:
        raise _broken(path, error.strerror or str(error)) from error
    if count == 0 or time + 2 / rate < _told_duration(stream):
        raise _broken(path, "it is cut off")


def _told_duration(stream: "VideoStream") -> float:
    """The stream's length in seconds as Matroska and WebM tell it; 0 where it is not told."""
    parts = stream.metadata.get("DURATION", "0").split(":")
    try:
        return sum(float(part) * 60.0**place for place, part in enumerate(reversed(parts)))
    except ValueError:
        return 0.0


def _broken(path: Path, reason: str) -> UserError:
    return UserError(f"cannot read video '{os.fspath(path)}' ({reason}); replace or remove it")


@contextmanager
def write_video(
    path: Path, rate: Fraction, note: str = ""
) -> Iterator[Callable[[Image, Fraction], None]]:
    """Write an ``.mp4`` whole or not at all: yields ``write(image, time)``, times rising.

    Images are (H, W, 3), uint8, RGB, all of one size; times count from the first one's.

    Raises:
        UserError: PyAV is missing, the file cannot be written.
    """
    check_available()
    import av

    with atomic_write(path) as temporary:
        try:
            with av.open(str(temporary), "w", format="mp4") as container:
                container.metadata["comment"] = note
                stream = _new_stream(container, rate)
                yield _writer(container, stream)
                container.mux(stream.encode())
        except av.FFmpegError as error:
            raise UserError(f"cannot write '{os.fspath(path)}' ({error.strerror})") from error


def comment(path: Path) -> str:
    """The note that :func:`write_video` left in a file; empty where there is none."""
    import av

    with av.open(os.fspath(path)) as container:
        return container.metadata.get("comment", "")


def _new_stream(container: "OutputContainer", rate: Fraction) -> "VideoStream":
    import av
    from av.video.reformatter import Colorspace

    encoder = next(name for name in ENCODERS if name in av.codecs_available)
    stream = cast("VideoStream", container.add_stream(encoder, rate.limit_denominator(1001)))
    codec = stream.codec_context
    codec.pix_fmt, codec.time_base = "yuv420p", CLOCK
    codec.colorspace, codec.color_range = Colorspace.ITU601, 1
    codec.options = {"crf": "18"} if encoder == "libx264" else {"qmin": "2", "qmax": "4"}
    return stream


def _writer(
    container: "OutputContainer", stream: "VideoStream"
) -> Callable[[Image, Fraction], None]:
    import av
    from av.video.reformatter import Colorspace

    first: list[Fraction] = []
    ticks = -1

    def write(image: Image, time: Fraction) -> None:
        nonlocal ticks
        even = np.pad(image, [(0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)], "edge")
        if not first:
            first.append(time)
            stream.height, stream.width = even.shape[:2]
        frame = av.VideoFrame.from_ndarray(even, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU601)
        ticks = max(ticks + 1, round((time - first[0]) / CLOCK))
        frame.pts, frame.time_base = ticks, CLOCK
        container.mux(stream.encode(frame))

    return write
