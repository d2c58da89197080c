"""The page in a real browser. Skipped where Chromium, Playwright or Gradio is not installed."""

import io
import re
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

from bench.browser import browser as chromium_browser
from bench.browser import chromium, served
from scenewise import Predictor
from scenewise.apps.app.render import _percent_of
from scenewise.apps.app.state import _only_branch
from scenewise.data import Scenes
from scenewise.visualize import attention_maps, shares
from scenewise.visualize.attention_maps import cell
from tests.apps.app import conftest

pytest.importorskip("gradio", reason="gradio is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")
if chromium() is None:
    pytest.skip("no Chromium here; apt-get install chromium", allow_module_level=True)

AXE = Path(__file__).parents[3] / ".cache/axe/node_modules/axe-core/axe.min.js"
SIZE = (64, 192)
PLACES = [(9, 11), (50, 180)]
CANVAS = """canvas => {
  const {width, height} = canvas;
  return [height, width, ...canvas.getContext("2d").getImageData(0, 0, width, height).data];
}"""


@pytest.fixture(scope="module")
def models():
    return {"danet": conftest.random_danet(conftest.CLASSES), "fcn": conftest.random("fcn")}


@pytest.fixture(scope="module")
def address(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, model in models.items():
        model.save_pretrained(folder / name)
    with served(*(folder / name for name in models)) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    with chromium_browser() as opened:
        yield opened


@pytest.fixture
def page(browser, address):
    with visit(browser, address) as opened:
        yield opened


@contextmanager
def visit(browser, address, **options):
    """A new visitor, whose page must make no error and send no request to another host."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, **options)
    context.set_default_timeout(30_000)
    page = context.new_page()
    requested, errors = [], []
    page.on("request", lambda request: requested.append(request.url))
    page.on("websocket", lambda socket: requested.append(socket.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.locator(".samples button").first.wait_for()
    page.wait_for_function("!document.querySelector('.loading')")
    yield page
    context.close()
    assert errors == []
    hosts = {urlsplit(url).hostname for url in requested if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}


def scene(index: int) -> torch.Tensor:
    return Scenes(6, SIZE, seed=index).read(index)[0]


def encoded(image: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def upload(page, content: bytes, name: str = "street.png") -> None:
    file = {"name": name, "mimeType": "image/png", "buffer": content}
    page.locator("#upload input[type=file]").set_input_files(file)


def open_image(page, image: torch.Tensor) -> None:
    upload(page, encoded(image))
    page.locator("#panel0 .viewer:not(.empty)").wait_for()
    page.locator("#panel1 .viewer:not(.empty)").wait_for()


def turn(page, panel: str = "#panel0") -> str:
    return page.locator(f"{panel} .stage").get_attribute("data-turn") or ""


@contextmanager
def redrawn(page, panel: str = "#panel0"):
    """Wait until the effect of the block has been drawn."""
    before = turn(page, panel)
    yield
    page.wait_for_function(
        "([panel, before]) => document.querySelector(panel + ' .stage').dataset.turn !== before",
        arg=[panel, before],
    )


def click(page, row: int, column: int, panel: str = "#panel0") -> None:
    stage = page.locator(f"{panel} .stage")
    box = stage.bounding_box()
    x = (column + 0.5) / SIZE[1] * box["width"]
    y = (row + 0.5) / SIZE[0] * box["height"]
    with redrawn(page, panel):
        stage.click(position={"x": x, "y": y})


def canvas(page, name: str, panel: str = "#panel0") -> np.ndarray:
    height, width, *data = page.locator(f"{panel} .{name}").evaluate(CANVAS)
    return np.array(data, np.uint8).reshape(height, width, 4)


def shown_attention(page) -> np.ndarray:
    """The weights in the heat map over their largest; its opacity is 100 + 155 sqrt(weight)."""
    return ((canvas(page, "heat")[..., 3] - 100.0) / 155) ** 2


def attention(model, image, at) -> np.ndarray:
    with attention_maps(model) as maps:
        Predictor(model)(image)
    block = maps.positions["head.position.1"]
    cells = tuple(block.before().shape[2:])
    row = block.rows([cell(at, SIZE, cells, align_corners=model.align_corners)])[0, 0]
    return (row / row.max()).numpy()


def test_upload_shows_labels_and_legend(page, models):
    open_image(page, scene(0))
    for k, model in enumerate(models.values()):
        labels = Predictor(model)(scene(0)).labels
        drawn = canvas(page, "labels", f"#panel{k}")[..., :3]
        assert np.array_equal(drawn, np.array(conftest.CLASSES.colors)[labels.numpy()])
        lines = page.locator(f"#panel{k} .legend li").all_inner_texts()
        expected = [f"{name}{_percent_of(s)}" for name, _, s in shares(labels, conftest.CLASSES)]
        assert [re.sub(r"\s*\n\s*", "", line) for line in lines] == expected
    assert page.locator("#message").inner_text() == "street.png, 64 x 192 pixels."


def test_click_shows_the_attention_of_the_pixel(page, models):
    open_image(page, scene(0))
    seen = []
    for at in PLACES:
        click(page, *at)
        seen.append(shown_attention(page))
        assert np.abs(seen[-1] - attention(models["danet"], scene(0), at)).max() < 0.02
        assert page.get_by_role("spinbutton", name="Row").input_value() == str(at[0])
        assert page.get_by_role("spinbutton", name="Column").input_value() == str(at[1])
    assert np.abs(seen[0] - seen[1]).max() > 0.05
    assert "no attention" in page.locator("#panel1 .caption").inner_text()


def test_hover_names_class_and_confidence(page, models):
    open_image(page, scene(0))
    labels, confidence = Predictor(models["danet"])(scene(0))
    box = page.locator("#panel0 .stage").bounding_box()
    for row, column in PLACES:
        page.mouse.move(
            box["x"] + (column + 0.5) / SIZE[1] * box["width"],
            box["y"] + (row + 0.5) / SIZE[0] * box["height"],
        )
        name = conftest.CLASSES.names[int(labels[row, column])]
        percent = round(100 * float(confidence[row, column]))
        assert page.locator("#panel0 .tip").inner_text() == f"{name} {percent}%"


def test_opacity(page):
    open_image(page, scene(0))
    slider = page.locator("#opacity input[type=range]")
    slider.focus()
    slider.press("Home")
    page.wait_for_function("getComputedStyle(document.querySelector('.labels')).opacity === '0'")


def test_branch_and_channel(page, models):
    open_image(page, scene(0))
    panel = page.locator("#panel0")
    with redrawn(page):
        panel.get_by_label("position", exact=True).check()
    with _only_branch(models["danet"], "position"):
        labels = Predictor(models["danet"])(scene(0)).labels
    drawn = canvas(page, "labels")[..., :3]
    assert np.array_equal(drawn, np.array(conftest.CLASSES.colors)[labels.numpy()])
    with redrawn(page):
        panel.get_by_label("Channel", exact=True).first.check()
    number = panel.get_by_role("spinbutton", name="Channel")
    with redrawn(page):
        number.fill("5")
        number.press("Tab")
    assert "Channel 5 of 64 before the block" in panel.locator(".caption").inner_text()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.png", b"hello", "'notes.png' is not a readable image; supported are PNG, JPEG"),
        ("wide.png", None, "'wide.png' has 2000 x 5000 pixels, more than the limit of 8.4"),
    ],
)
def test_bad_upload_gets_the_message(page, name, content, message):
    if content is None:
        buffer = io.BytesIO()
        Image.new("L", (5000, 2000)).save(buffer, "PNG")
        content = buffer.getvalue()
    upload(page, content, name)
    alert = page.locator("#message [role=alert]")
    alert.wait_for()
    assert message in alert.inner_text()
    assert page.locator("#panel0 .viewer.empty").count() == 1


def test_too_many_bytes(page, tmp_path):
    (tmp_path / "large.png").write_bytes(bytes(20 * 2**20 + 1))
    page.locator("#upload input[type=file]").set_input_files(tmp_path / "large.png")
    page.get_by_text('exceed the maximum allowed size of 20.0 Mb: "large.png"').wait_for()
    assert page.locator("#panel0 .viewer.empty").count() == 1


def test_two_visitors_do_not_mix(browser, address, models):
    with visit(browser, address) as anna, visit(browser, address) as bert:
        open_image(anna, scene(0))
        open_image(bert, scene(3))
        for page, image in ((anna, scene(0)), (bert, scene(3)), (anna, scene(0))):
            click(page, *PLACES[0])
            click(page, *PLACES[1])
            expected = attention(models["danet"], image, PLACES[1])
            assert np.abs(shown_attention(page) - expected).max() < 0.02
    other = attention(models["danet"], scene(3), PLACES[1])
    assert np.abs(other - attention(models["danet"], scene(0), PLACES[1])).max() > 0.05


def test_keyboard_alone(page, models):
    tab_to(page, ".samples button:focus")
    page.keyboard.press("Enter")
    page.locator("#panel0 .viewer:not(.empty)").wait_for()
    tab_to(page, "#panel0 .stage:focus")
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "Shift+ArrowUp"):
        page.keyboard.press(key)
    assert re.search(r"\d+%", page.locator("#panel0 .tip").inner_text())
    with redrawn(page):
        page.keyboard.press("Enter")
    image = Scenes(6).read(0)[0]
    expected = attention(models["danet"], image, (7, 16))
    assert np.abs(shown_attention(page) - expected).max() < 0.02
    page.keyboard.press("Escape")
    page.get_by_role("spinbutton", name="Row").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("33")
    tab_to(page, "#go:focus")
    with redrawn(page):
        page.keyboard.press("Enter")
    expected = attention(models["danet"], image, (33, 16))
    assert np.abs(shown_attention(page) - expected).max() < 0.02


def tab_to(page, selector: str) -> None:
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.locator(selector).count():
            return
    raise AssertionError(f"Tab does not reach {selector}")


def test_save(page, models):
    open_image(page, scene(0))
    with page.expect_download() as download:
        page.locator("#panel0").get_by_text("Save labels").click()
    assert download.value.suggested_filename == "street_labels.png"
    saved = np.asarray(Image.open(download.value.path()))
    assert np.array_equal(saved, Predictor(models["danet"])(scene(0)).labels.numpy())
    click(page, *PLACES[0])
    with page.expect_download() as download:
        page.locator("#panel0").get_by_text("Save figure").click()
    assert download.value.suggested_filename == "street_9_11.pdf"
    assert download.value.path().read_bytes().startswith(b"%PDF")


def test_long_work_shows_progress_and_stops(page):
    buffer = io.BytesIO()
    Image.new("RGB", (4096, 2048), (90, 120, 60)).save(buffer, "PNG")
    upload(page, buffer.getvalue())
    page.get_by_text(re.compile(r"Predicting - \d")).first.wait_for()
    page.locator("#stop").click()
    page.get_by_text("Stopped; the previous image is unchanged").wait_for()
    assert page.locator("#panel0 .viewer.empty").count() == 1


@pytest.mark.skipif(not AXE.exists(), reason="no axe-core here; see .ci/run")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_labels_and_contrast(browser, address, scheme):
    """Every rule of axe-core, on the empty page, with an image, and after a message."""
    with visit(browser, address, color_scheme=scheme) as page:
        page.evaluate(AXE.read_text(encoding="utf-8"))
        assert faults(page) == []
        open_image(page, scene(0))
        assert faults(page) == []
        click(page, *PLACES[0])
        page.locator("#panel0 .stage").hover()
        assert faults(page) == []
        upload(page, b"hello")
        page.locator("#message [role=alert]").wait_for()
        assert faults(page) == []


def faults(page) -> list[str]:
    page.locator("#message [data-testid=status-tracker].hide").wait_for(state="attached")
    page.wait_for_function("document.getAnimations().every(a => a.playState !== 'running')")
    violations = page.evaluate("axe.run()")["violations"]
    return [
        f"{f['id']}: {n['target']} {n['html'][:200]} {n['failureSummary']}"
        for f in violations
        for n in f["nodes"]
    ]
