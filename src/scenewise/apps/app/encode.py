"""Images of the page as files: for the screen, as layers, and to save."""

import base64
import io
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from torch import Tensor

from scenewise.apps.app.panel import Panel
from scenewise.apps.app.state import ImageState, Network
from scenewise.inference.predictor import display
from scenewise.visualize.figure import explain_figure
from scenewise.visualize.overlay import colorize, overlay

_THUMBNAIL = (320, 320)
_SMALL = 2**18  # pixels up to which an image is sent without loss


def grey(values: Tensor, low: float, high: float) -> Image.Image:
    """Values (h, w) as grey, black at ``low`` and white at ``high``."""
    grey = 255 * (values - low) / max(high - low, 1e-12)  # 1e-12: a constant map is black
    return Image.fromarray(grey.round().clamp(0, 255).byte().numpy())


def data_url(image: Image.Image) -> str:
    """The encoded image as a data URL, the ``src`` of an ``img`` element.

    >>> data_url(Image.new("L", (2, 1)))[:30]
    'data:image/png;base64,iVBORw0K'
    """
    return f"data:image/png;base64,{base64.b64encode(encoded(image, 'PNG')).decode()}"


def encoded(image: Image.Image, kind: str) -> bytes:
    """The file of an image, quickly compressed."""
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=90, compress_level=1)
    return buffer.getvalue()


def shown(state: ImageState, network: Network) -> tuple[bytes, str]:
    """An image for the page, and its media type: PNG of a small one, JPEG of others."""
    image = _as_seen(state, network)
    kind = "PNG" if image.width * image.height <= _SMALL else "JPEG"
    return encoded(image, kind), f"image/{kind.lower()}"


def thumbnail(state: ImageState, network: Network) -> bytes:
    """A JPEG of an image, at most 320 pixels wide and high."""
    image = _as_seen(state, network)
    image.thumbnail(_THUMBNAIL)
    return encoded(image, "JPEG")


def _as_seen(state: ImageState, network: Network) -> Image.Image:
    pixels = display(state.image, network.model).permute(1, 2, 0)  # (3, H, W) -> (H, W, 3)
    return Image.fromarray(pixels.numpy())


def labels_png(panel: Panel, without: str | None) -> bytes:
    """The class ids as grey values."""
    labels = panel.result.predictions[without].labels
    return encoded(Image.fromarray(labels.numpy()), "PNG")


def confidence_png(panel: Panel, without: str | None) -> bytes:
    """The confidence as grey values; 255 is 1."""
    return encoded(grey(panel.result.predictions[without].confidence, 0, 1), "PNG")


def indexed_labels(panel: Panel) -> bytes:
    """The labels as an indexed PNG with the colours of the classes."""
    return encoded(colorize(panel.prediction.labels, panel.classes), "PNG")


def overlay_png(panel: Panel) -> bytes:
    """The image under the colours of its labels."""
    image = display(panel.state.image, panel.network.model)
    return encoded(overlay(image, panel.prediction.labels, panel.classes), "PNG")


def figure_pdf(panel: Panel) -> bytes:
    """The figure of ``scenewise explain``; of a large image, its window.

    Raises:
        UserError: no pixel is marked, or the model has no attention.
    """
    at, view = panel.at, panel.view
    with TemporaryDirectory() as folder, panel.network.lock:
        path = Path(folder, "figure.pdf")
        crop = view.box.of(panel.state.image)
        explain_figure(panel.network.model, crop, [view.inside(at)], path)
        return path.read_bytes()
