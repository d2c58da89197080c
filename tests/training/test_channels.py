"""Grey images and images of eight channels and 16 bits, from a folder to every result."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import Tensor

from scenewise import Predictor, create_model, fit, load_model
from scenewise.apps import cli
from scenewise.apps.app.encode import shown
from scenewise.apps.app.explorer import Explorer
from scenewise.apps.app.images import read_upload
from scenewise.apps.app.state import Network
from scenewise.classes import Classes
from scenewise.data import SegmentationData
from scenewise.data.images import read_image
from scenewise.data.layout import Layout
from scenewise.data.value_range import ImageFormat
from scenewise.errors import UserError
from scenewise.inference.predictor import layout_of
from scenewise.models.segmenter import Segmenter
from scenewise.training.fit import Run
from scenewise.training.task import SegmentationTask
from scenewise.visualize.figure import explain_figure
from tests.data.pngs import png

SIZE = (32, 48)


def discs(count: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Grey images, uint8, of a bright disc on noise, and their masks."""
    rng, pairs = np.random.default_rng(seed), []
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    for _ in range(count):
        row, column = rng.integers(8, 24), rng.integers(8, 40)
        mask = ((rows - row) ** 2 + (columns - column) ** 2 < 49).astype(np.uint8)
        pairs.append((rng.integers(20, 60, SIZE) + 90 * mask, mask))
    return [(image.astype(np.uint8), mask) for image, mask in pairs]


def save(root: Path, suffix: str, convert: object) -> Path:
    """A folder of two training and one validation image; ``convert`` makes a file's pixels."""
    for index, (image, mask) in enumerate(discs(3)):
        split = "train" if index < 2 else "val"
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        pixels = convert(image)  # type: ignore[operator]
        file = root / "images" / split / f"{index}{suffix}"
        if suffix == ".tif":
            tifffile.imwrite(file, pixels, photometric="minisblack", planarconfig="contig")
        elif pixels.ndim == 3 and pixels.dtype == np.uint16:
            file.write_bytes(png(pixels, 2))
        else:
            Image.fromarray(pixels).save(file)
        Image.fromarray(mask).save(root / "masks" / split / f"{index}.png")
    (root / "classes.json").write_text('{"names": ["background", "disc"]}')
    return root


def eight_bands(image: np.ndarray) -> np.ndarray:
    return np.dstack([image.astype(np.uint16) * (k + 2) + 300 for k in range(8)])


@pytest.fixture(scope="module", params=["grey", "eight"])
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Run]:
    """The folder and a run of two steps on grey images, or on eight channels of 16 bits."""
    folder = tmp_path_factory.mktemp("channels")
    suffix, convert = (".png", np.array) if request.param == "grey" else (".tif", eight_bands)
    root = save(folder / "data", suffix, convert)
    run = fit(
        root, format="folder", network="danet", backbone="tiny", max_steps=2, accelerator="cpu",
        root=folder / "runs", batch_size=2, enable_progress_bar=False, shown=[0, 0, 0],
    )  # fmt: skip
    return root, run


def test_a_run_keeps_what_its_images_are(trained: tuple[Path, Run]) -> None:
    root, run = trained
    model = load_model(run.folder)
    count = model.preprocessing.in_channels
    assert count in (1, 8)
    assert next(model.backbone.parameters()).shape[1] == count
    data = SegmentationData("folder", str(root))
    assert model.preprocessing.mean == data.images.mean
    assert model.preprocessing.input_range == data.images.value_range
    assert model.preprocessing.shown == (0, 0, 0)
    assert (count == 1) == (data.images.value_range is None)
    with Image.open(run.folder / "samples.png") as sheet:
        assert np.asarray(sheet.convert("L"))[40:200, 20:300].std() > 10  # not black


def test_every_way_of_prediction_gives_the_same_labels(
    trained: tuple[Path, Run], tmp_path: Path
) -> None:
    root, run = trained
    file = next((root / "images/val").iterdir())
    model = load_model(run.folder)
    expected = Predictor(model)(file).labels
    pixels = read_image(file, layout_of(model))
    with torch.no_grad():
        logits = model(model.normalize(pixels[None])).logits
    assert torch.equal(expected, logits[0].argmax(0))
    for image in (pixels, file.read_bytes(), pixels.permute(1, 2, 0).numpy()):
        assert torch.equal(Predictor(model)(image).labels, expected)
    tiled = Predictor(model, window=16, flip=True, scales=(1, 1.5))(file).labels
    assert tiled.shape == expected.shape
    cli.main(
        [
            "predict",
            str(file),
            "--model",
            str(run.folder),
            "--out",
            str(tmp_path),
            "--device",
            "cpu",
        ]
    )
    with Image.open(tmp_path / "labels/2.png") as labels:
        assert np.array_equal(np.asarray(labels), expected.numpy())
    with Image.open(tmp_path / "overlays/2.jpg") as drawn:
        assert np.asarray(drawn).max() > 60


def test_figure_and_page_show_three_channels(trained: tuple[Path, Run], tmp_path: Path) -> None:
    root, run = trained
    file, model = next((root / "images/val").iterdir()), load_model(run.folder)
    explain_figure(model, file, [(3, 4)], tmp_path / "a.png")
    page = Explorer([Network("danet", model)])
    assert page.images.samples == {}  # generated scenes are RGB
    image = page.images.add(file.read_bytes(), "a")
    panel = page.panel(image, page.network("0"), (3, 4))
    content, kind = shown(panel.state, panel.network)
    assert kind == "image/png"
    with Image.open(io.BytesIO(content)) as seen:
        assert np.asarray(seen.convert("L")).std() > 20  # not black
    colors = np.random.default_rng(0).integers(0, 9, (32, 48, 3), np.uint8)
    Image.fromarray(colors).save(tmp_path / "rgb.png")
    with pytest.raises(UserError, match=r"^image 'rgb\.png': it h"):  # no path of the server
        read_upload((tmp_path / "rgb.png").read_bytes(), "rgb.png", page.images.layout)
    rgb = Network("fcn", create_model("fcn", num_classes=2, backbone="tiny", pretrained=False))
    with pytest.raises(
        UserError, match=r"model 'fcn' takes 3 channels \(RGB\) of 8 bits and 'danet'"
    ):
        Explorer([Network("danet", model), rgb])


def inputs(root: Path, **options: object) -> tuple[Tensor, Segmenter]:
    """What the network gets of the validation image, and the network."""
    data = SegmentationData("folder", str(root), **options)  # type: ignore[arg-type]
    torch.manual_seed(0)
    task = SegmentationTask(data.classes, data.images, network="fcn", backbone="tiny")
    image = data.dataset("val")[0]["image"]
    return task.model.normalize(torch.as_tensor(image)[None]), task.model


def test_the_same_grey_images_of_8_and_of_12_bits_are_the_same_to_the_network(
    tmp_path: Path,
) -> None:
    eight, _ = inputs(save(tmp_path / "8", ".png", np.array))
    twelve, _ = inputs(save(tmp_path / "12", ".png", lambda image: image.astype(np.uint16) * 16))
    assert (eight - twelve).abs().max() < 0.03  # of a standard deviation: what is clipped


def test_the_same_colours_of_8_and_of_12_bits_are_the_same_to_the_network(tmp_path: Path) -> None:
    colors = lambda image: np.dstack([image, image // 2, 255 - image])  # noqa: E731
    eight, model = inputs(save(tmp_path / "8", ".png", colors))
    root = save(tmp_path / "12", ".png", lambda image: colors(image).astype(np.uint16) * 16)
    twelve, other = inputs(root, value_range=(0, 255 * 16))
    assert (eight - twelve).abs().max() < 1e-5
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("images", "error"),
    [
        (ImageFormat(Layout(8, False)), "takes images of 1 channels but the data has 8"),
        (ImageFormat(Layout(1, False)), "on values from 0 to 4000 but the data has 8 bits"),
        (
            ImageFormat(Layout(1, False, True, (2,)), (0, 4000)),
            "trained with all channels of one p",
        ),
        (ImageFormat(Layout(1, False, True), (0, 60000)), ""),
    ],
)
def test_a_trained_model_is_checked_against_the_images(
    tmp_path: Path, images: ImageFormat, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    twelve = ImageFormat(Layout(1, False, True), (0, 4000), (0.5,), (0.2,))
    classes = Classes.numbered(2)
    SegmentationTask(classes, twelve, network="fcn", backbone="tiny").model.save_pretrained(
        tmp_path
    )
    if error:
        with pytest.raises(UserError, match=error):
            SegmentationTask(classes, images, weights=str(tmp_path))
        return
    task = SegmentationTask(classes, images, weights=str(tmp_path))
    assert task.model.preprocessing.input_range == (0, 4000)
    assert "which it keeps, but those of the data are from 0 to 60000" in caplog.text
    started = SegmentationTask(classes, images, start=str(tmp_path))
    assert started.model.preprocessing.input_range == (0, 60000)


def test_a_checkpoint_keeps_its_range(tmp_path: Path) -> None:
    classes, layout = Classes.numbered(2), Layout(1, False, True)
    parts: Sequence[SegmentationTask] = [
        SegmentationTask(
            classes, ImageFormat(layout, span, (0.5,), (0.2,)), network="fcn", backbone="tiny"
        )
        for span in ((0, 4000), (10, 3900))
    ]
    checkpoint = {"scenewise": parts[0].model.config(), "state_dict": parts[0].state_dict()}
    parts[1].on_load_checkpoint(checkpoint)
    assert parts[1].model.preprocessing.input_range == (0, 4000)


def test_grey_data_fits_a_model_of_rgb(tmp_path: Path) -> None:
    classes = Classes.numbered(2)
    SegmentationTask(classes, network="fcn", backbone="tiny").model.save_pretrained(
        tmp_path / "rgb"
    )
    data = SegmentationData("folder", str(save(tmp_path / "grey", ".png", np.array)))
    task = SegmentationTask(classes, data.images, weights=str(tmp_path / "rgb"))
    image = torch.as_tensor(data.dataset("val")[0]["image"])[None]  # (1, 1, H, W)
    same = task.model.normalize(image.expand(-1, 3, -1, -1))
    assert torch.equal(task.model.normalize(image), same)
