"""The page in a real browser. Skipped where Chromium, Playwright or FastAPI is not installed."""

import io
import os
import re
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import matplotlib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from bench.browser import browser as chromium_browser
from bench.browser import chromium
from scenewise import Predictor
from scenewise.apps.app.explorer import Explorer
from scenewise.apps.app.server import build_application, listening, serve
from scenewise.apps.app.state import Network
from scenewise.data import Scenes
from scenewise.visualize import attention_maps
from scenewise.visualize.attention_maps import cell
from scenewise.visualize.statistics import switched_off
from tests.apps.app import conftest

pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")
if chromium() is None:
    pytest.skip("no Chromium here; apt-get install chromium", allow_module_level=True)

AXE = Path(__file__).parents[3] / ".cache/axe/node_modules/axe-core/axe.min.js"
SCREENSHOTS = Path(__file__).parent / "screenshots"
SIZE = (64, 192)
PLACES = [(9, 11), (50, 180)]
BLOCK = "head.position.1"
CANVAS = """canvas => {
  const {width, height} = canvas;
  return [height, width, ...canvas.getContext("2d").getImageData(0, 0, width, height).data];
}"""
BUDGET = """
window.shifts = 0;
new PerformanceObserver(list => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
}).observe({type: "layout-shift", buffered: true});
"""
CAMERA = """
navigator.mediaDevices.getUserMedia = async () => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [160, 120];
  const draw = () => canvas.getContext("2d").fillRect(0, 0, 80, 120);
  setInterval(draw, 30);
  draw();
  return window.stream = canvas.captureStream(30);
};
"""


@pytest.fixture(scope="module")
def models():
    return {"danet": conftest.random_danet(conftest.CLASSES), "fcn": conftest.random("fcn")}


@pytest.fixture(scope="module")
def address(models):
    """The page, served by a thread of this process."""
    networks = [Network(name, model) for name, model in models.items()]
    application = build_application(Explorer(networks))
    with listening("127.0.0.1", 0) as sock:
        threading.Thread(target=serve, args=(application, sock), daemon=True).start()
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/"


@pytest.fixture(scope="module")
def browser():
    with chromium_browser() as opened:
        yield opened


@pytest.fixture
def page(browser, address):
    with visit(browser, address) as opened:
        yield opened


@contextmanager
def visit(browser, address, size=(1400, 900), script="", **options):
    """A new visitor, whose page must make no error and send no request to another host."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
    context.set_default_timeout(20_000)
    context.add_init_script(BUDGET + script)
    page = context.new_page()
    requested, errors = [], []
    page.on("request", lambda request: requested.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.locator("html[data-started]").wait_for()
    settled(page)
    yield page
    context.close()
    assert errors == []
    hosts = {urlsplit(url).hostname for url in requested if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}


def settled(page) -> None:
    """Wait until the image is segmented and what the pin shows is complete."""
    page.locator("html[data-state=ready]").wait_for()
    until(page, "!document.querySelector('#cards').textContent.includes('…')")
    until(page, "document.getAnimations().every(a => a.playState !== 'running')")


def until(page, condition: str, arg=None) -> None:
    """Wait for a condition; Playwright's own waiting needs eval, which the page forbids."""
    end = time.monotonic() + 20
    while not page.evaluate(condition, arg):
        assert time.monotonic() < end, condition
        time.sleep(0.02)


def scene(index: int) -> torch.Tensor:
    return Scenes(6, SIZE, seed=index).read(index)[0]


def sample(index: int) -> torch.Tensor:
    return Scenes(6).read(index)[0]


def upload(page, *files: tuple[str, bytes]) -> None:
    page.locator("#files").set_input_files(
        [{"name": name, "mimeType": "image/png", "buffer": content} for name, content in files]
    )


def png(image: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def open_scene(page, index: int, name: str = "street.png") -> None:
    shown = page.locator("#film [aria-current]").get_attribute("data-image")
    upload(page, (name, png(scene(index))))
    until(page, "id => document.querySelector('#film [aria-current]')?.dataset.image !== id", shown)
    settled(page)


def position(page, row: int, column: int, number: int = 0) -> tuple[float, float]:
    box = page.locator(".stage").nth(number).bounding_box()
    return (column + 0.5) / SIZE[1] * box["width"], (row + 0.5) / SIZE[0] * box["height"]


def click(page, row: int, column: int, number: int = 0, **options) -> None:
    x, y = position(page, row, column, number)
    page.locator(".stage").nth(number).click(position={"x": x, "y": y}, **options)
    page.mouse.move(2, 300)  # away, so that no preview is drawn
    until(page, "pin => location.hash.includes(pin)", f"{row},{column}")
    settled(page)


def canvas(page, name: str, number: int = 0) -> np.ndarray:
    height, width, *data = page.locator(f".layer.{name}").nth(number).evaluate(CANVAS)
    return np.array(data, np.uint8).reshape(height, width, 4)


def level_of(model, image, at) -> torch.Tensor:
    """The attention of a pixel on the page's scale: log10 of times the average, 0..2, over 2."""
    with attention_maps(model) as maps:
        Predictor(model, fast=False)(image)
    block = maps.positions[BLOCK]
    cells = tuple(block.before().shape[2:])
    row = block.rows([cell(at, SIZE, cells, align_corners=model.align_corners)])[0, 0]
    return (row / row.mean()).clamp(min=1).log10().div(2).clamp(max=1)


def assert_map(page, level: torch.Tensor, name: str = "magma") -> None:
    """The canvas shows ``level`` in the colours of matplotlib, transparent at the average."""
    drawn = canvas(page, "map").astype(float)
    zoom = drawn.shape[0] // level.shape[0]
    fine = F.interpolate(level[None, None], scale_factor=zoom, mode="bilinear")[0, 0].numpy()
    assert np.abs(drawn[..., 3] - 255 * np.minimum(1, fine / 0.3)).max() < 6
    solid = fine > 0.31  # elsewhere the canvas keeps colours times their opacity
    expected = 255 * matplotlib.colormaps[name](fine)[..., :3]
    assert np.abs(drawn[..., :3] - expected)[solid].max(initial=0) < 12  # 17 anchors, not 256


def test_starts_with_a_segmented_sample_and_a_pin(page, models):
    labels = Predictor(models["danet"], fast=False)(sample(0)).labels
    colors = np.array(conftest.CLASSES.colors)
    assert np.array_equal(canvas(page, "classes")[..., :3], colors[labels.numpy()])
    names = page.locator("#legend li span").all_inner_texts()
    assert set(names) == {conftest.CLASSES.names[k] for k in labels.unique()}
    pin = re.search(r"#model=0&image=sample-0&pin=(\d+),(\d+)$", page.url)
    at = int(pin[1]), int(pin[2])
    assert_map(page, level_of(models["danet"], sample(0), at))
    caption = page.locator("#caption").inner_text()
    assert f"“{conftest.CLASSES.names[labels[at]]}”" in caption
    assert caption.endswith("Click any other pixel.")
    assert page.locator(".base").evaluate("e => getComputedStyle(e).imageRendering") == "pixelated"


FULL_LEGEND = """
const legend = document.querySelector("#legend"), line = legend.firstElementChild;
legend.replaceChildren(...Array.from({length: 19}, () => line.cloneNode(true)));
"""


def test_the_image_takes_most_of_a_desktop_window(page):
    """60 % of its width, up to 4:3 and with 19 classes, whose legend does not scroll sideways."""
    shapes = page.locator("#film img").evaluate_all(
        "images => images.map(each => each.naturalWidth / each.naturalHeight)"
    )
    assert shapes == [3.0] * 6  # the samples: one measurement is that of all
    assert page.locator(".stage").bounding_box()["width"] >= 0.6 * 1400
    upload(page, ("four_to_three.png", png(torch.zeros(3, 480, 640, dtype=torch.uint8))))
    page.locator("#film [aria-current] img[alt='four_to_three.png']").wait_for()
    settled(page)
    page.evaluate(FULL_LEGEND)
    box = page.locator(".stage").bounding_box()
    assert box["width"] >= 0.6 * 1400
    assert abs(box["width"] / box["height"] - 4 / 3) < 0.01
    for part in ("#legend", ".controls", "body"):
        sizes = "e => [e.scrollWidth - e.clientWidth, e.getBoundingClientRect().bottom]"
        overflow, bottom = page.locator(part).evaluate(sizes)
        assert overflow <= 0
        assert bottom <= 900


def test_click_shows_attention_and_whether_it_matters(page, models):
    model = models["danet"]
    levels = []
    for at in PLACES:
        click(page, *at)
        levels.append(level_of(model, sample(0), at))
        assert_map(page, levels[-1])
        labels, confidence = Predictor(model, fast=False)(sample(0))
        with switched_off(model, BLOCK):
            without = Predictor(model, fast=False)(sample(0)).labels
        sides = page.locator(".side strong").all_inner_texts()
        assert sides == [conftest.CLASSES.names[int(x[at])] for x in (labels, without)]
        badge = page.locator(".badge").inner_text()
        assert (badge == "It decides here") == bool(labels[at] != without[at])
        assert f"{100 * float(confidence[at]):.0f}" in page.locator(".verdict small").inner_text()
    assert (levels[0] - levels[1]).abs().max() > 0.05
    page.get_by_role("button", name="Show what changes").click()
    page.locator(".stage.changed").wait_for()
    dimmed = canvas(page, "changes")[..., 3] < 255
    assert np.array_equal(dimmed, (labels == without).numpy())
    page.get_by_role("button", name="Hide the changes").click()
    page.locator(".stage:not(.changed)").wait_for()


def test_hover_names_the_class_and_previews_attention(page, models):
    click(page, *PLACES[0])
    labels, confidence = Predictor(models["danet"], fast=False)(sample(0))
    box, (x, y) = page.locator(".stage").bounding_box(), position(page, *PLACES[1])
    turn = page.locator(".stage").get_attribute("data-turn")
    page.mouse.move(box["x"] + x, box["y"] + y)
    percent = round(100 * float(confidence[PLACES[1]]))
    name = conftest.CLASSES.names[int(labels[PLACES[1]])]
    tip = page.locator(".tip").inner_text()
    assert tip.startswith(name)
    assert abs(int(re.search(r"(\d+)[.\d]* %", tip)[1]) - percent) <= 1
    until(page, "t => document.querySelector('.stage').dataset.turn !== t", turn)
    assert_map(page, level_of(models["danet"], sample(0), PLACES[1]))
    page.mouse.move(2, 300)
    page.locator(".tip").wait_for(state="hidden")
    assert_map(page, level_of(models["danet"], sample(0), PLACES[0]))
    assert page.url.endswith(f"pin={PLACES[0][0]},{PLACES[0][1]}")


def test_pins_are_dragged_added_and_kept_in_the_address(browser, address, page):
    click(page, 20, 40)
    box = page.locator(".stage").bounding_box()
    (x, y), (to_x, to_y) = position(page, 20, 40), position(page, 50, 90)
    page.mouse.move(box["x"] + x, box["y"] + y)
    page.mouse.down()
    page.mouse.move(box["x"] + to_x, box["y"] + to_y, steps=3)
    page.mouse.up()
    click(page, 10, 170, modifiers=["Shift"])
    assert page.url.endswith("pin=50,90;10,170")
    assert page.locator(".pin").count() == 2
    page.get_by_role("button", name="Pin 1 at 50, 90").click()
    with visit(browser, page.url) as other:
        assert other.locator("#pins [aria-pressed=true]").inner_text() == "50, 90"
        assert other.locator(".pin").count() == 2
        assert other.url == page.url


def test_keyboard_alone(page, models):
    tab_to(page, "#film button:focus")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    until(page, "location.hash.includes('image=sample-1')")
    settled(page)
    page.keyboard.press("Control+Home")
    page.locator(".stage").focus()
    page.keyboard.press("ArrowDown")  # the first arrow sets a pin in the middle
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "Shift+ArrowUp"):
        page.keyboard.press(key)
    settled(page)
    assert page.url.endswith("image=sample-1&pin=23,98")
    assert_map(page, level_of(models["danet"], sample(1), (23, 98)))
    page.keyboard.press("n")
    assert page.locator(".pin").count() == 2
    page.keyboard.press("Escape")
    assert page.locator(".pin").count() == 0
    assert "Click any pixel" in page.locator("#caption").inner_text()
    page.locator("#tab-pixel").focus()
    page.keyboard.press("ArrowRight")
    page.locator("#grid .channel").first.wait_for()


def tab_to(page, selector: str) -> None:
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.locator(selector).count():
            return
    raise AssertionError(f"Tab does not reach {selector}")


def test_slider_and_what_is_remembered(page, models):
    page.get_by_role("button", name="Classes").click()
    settled(page)
    opacities = "e => [...e.children].map(c => Number(getComputedStyle(c).opacity).toFixed(2))"
    shown = page.locator(".stage").evaluate(opacities)[:4]
    assert shown == ["1.00", "0.65", "0.00", "0.00"]
    page.locator("#settings summary").click()
    page.locator("#opacity").fill("0.3")
    page.locator("#colormap").select_option("cividis")
    page.get_by_role("button", name="Switch between light and dark").click()
    page.reload()
    page.locator("html[data-started]").wait_for()
    settled(page)
    assert page.locator("html").get_attribute("data-theme") == "dark"
    assert page.locator("#opacity").input_value() == "0.3"
    at = tuple(int(x) for x in re.search(r"pin=(\d+),(\d+)", page.url).groups())
    assert_map(page, level_of(models["danet"], sample(0), at), "cividis")


def test_two_models_with_linked_pins_and_differences(page, models):
    page.locator("#compare").select_option(label=page.locator("#compare option").last.inner_text())
    until(page, "document.querySelectorAll('.stage').length === 2")
    settled(page)
    click(page, *PLACES[1], number=1)
    assert page.locator(".pin").count() == 2
    labels = [Predictor(model, fast=False)(sample(0)).labels for model in models.values()]
    for number, label in enumerate(labels):
        drawn = canvas(page, "classes", number)[..., :3]
        assert np.array_equal(drawn, np.array(conftest.CLASSES.colors)[label.numpy()])
    page.locator("#settings summary").click()
    page.get_by_label("Where the models differ").check()
    same = canvas(page, "changes", 1)[..., 3] < 255
    assert np.array_equal(same, (labels[0] == labels[1]).numpy())
    assert "They differ on" in page.locator("#caption").inner_text()
    assert "compare=1" in page.url


def test_channels(page):
    page.get_by_role("tab", name="Channels").click()
    cards = page.locator("#grid .channel")
    cards.first.wait_for()
    assert cards.count() == 12
    before = cards.first.locator("img").get_attribute("src")
    page.locator("#sides [data-side=before]").click()
    assert cards.first.locator("img").get_attribute("src") != before
    cards.first.click()
    assert page.locator("#dialog img").count() == 2
    page.keyboard.press("Escape")
    assert not page.locator("#dialog").is_visible()


def test_several_files_one_refused(page, models):
    before = page.locator("#film li").count()
    upload(page, ("notes.png", b"hello"), ("a.png", png(scene(1))), ("b.png", png(scene(2))))
    page.locator("#film img[alt='b.png']").wait_for()
    settled(page)
    alert = page.locator("#notices [role=alert]")
    assert "'notes.png' is not a readable image; supported are PNG, JPEG" in alert.inner_text()
    assert page.locator("#choose").is_visible()
    assert page.locator("#film li").count() == before + 2
    assert page.locator("#film [aria-current] img").get_attribute("alt") == "a.png"
    labels = Predictor(models["danet"], fast=False)(scene(1)).labels.numpy()
    drawn = canvas(page, "classes")[..., :3]
    assert np.array_equal(drawn, np.array(conftest.CLASSES.colors)[labels])
    alert.get_by_role("button", name="Close this message").click()
    assert page.locator("#notices p").count() == 0


def test_paste_and_camera(browser, address):
    with visit(browser, address, script=CAMERA) as page:
        page.evaluate(
            """async () => {
              const canvas = new OffscreenCanvas(48, 32);
              canvas.getContext("2d").fillRect(0, 0, 9, 9);
              const data = new DataTransfer();
              data.items.add(new File([await canvas.convertToBlob()], "pasted.png"));
              dispatchEvent(new ClipboardEvent("paste", {clipboardData: data}));
            }"""
        )
        page.locator("#film [aria-current] img[alt='pasted.png']").wait_for()
        settled(page)
        page.get_by_role("button", name="Take a photo with the camera").click()
        until(page, "document.querySelector('#dialog video')?.videoWidth > 0")
        page.get_by_role("button", name="Take photo").click()
        page.locator("#film [aria-current] img[alt='photo.jpg']").wait_for()
        settled(page)
        assert page.evaluate("window.stream.getTracks().every(t => t.readyState === 'ended')")


def test_downloads(page, models):
    open_scene(page, 0)
    click(page, *PLACES[0])
    page.locator("#download summary").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Labels, PNG").click()
    assert download.value.suggested_filename == "street_labels.png"
    saved = np.asarray(Image.open(download.value.path()))
    assert np.array_equal(saved, Predictor(models["danet"], fast=False)(scene(0)).labels.numpy())
    page.locator("#download summary").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Attention of the pin, JSON").click()
    assert download.value.suggested_filename == "street_attention.json"


def test_long_work_shows_progress_and_is_cancelled(page):
    buffer = io.BytesIO()
    Image.new("RGB", (3000, 1500), (90, 120, 60)).save(buffer, "PNG")
    upload(page, ("wide.png", buffer.getvalue()))
    page.get_by_text(re.compile(r"Segmenting \d+ %")).wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Cancelled.").wait_for()
    assert page.get_by_role("button", name="Cancel").count() == 0
    page.locator("#film button").first.click()
    until(page, "location.hash.includes('image=sample-0')")
    settled(page)


def test_unknown_image_in_the_address(browser, address):
    with visit(browser, address + "#image=no-longer-kept&pin=3,4") as page:
        assert "first sample instead" in page.locator("#notices [role=alert]").inner_text()
        assert "image=sample-0" in page.url


def test_phone(browser, address):
    options = {"has_touch": True, "is_mobile": True, "color_scheme": "dark"}
    with visit(browser, address, (390, 844), **options) as page:
        box = page.locator(".stage").bounding_box()
        assert box["width"] == 390
        assert box["y"] + box["height"] < 844
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        x, y = position(page, 30, 60)
        page.touchscreen.tap(box["x"] + x, box["y"] + y)
        until(page, "/pin=\\d+,\\d+$/.test(location.hash)")
        settled(page)
        row, column = (int(v) for v in re.search(r"pin=(\d+),(\d+)$", page.url).groups())
        assert abs(row - 30) <= 1
        assert abs(column - 60) <= 1
        assert_screenshot(page, "phone_dark")


def test_desktop_screenshots(browser, address):
    with visit(browser, address + "#pin=40,100") as page:
        assert_screenshot(page, "desktop_light")
        page.get_by_role("tab", name="How it works").click()
        assert_screenshot(page, "explanation")


def assert_screenshot(page, name: str) -> None:
    """The page looks as stored; small, so that fonts of other systems make no difference.

    ``SCENEWISE_SCREENSHOTS=1`` stores it anew.
    """
    settled(page)
    shot = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    small = shot.resize((shot.width // 5, shot.height // 5), Image.Resampling.BOX)
    path = SCREENSHOTS / f"{name}.png"
    if os.environ.get("SCENEWISE_SCREENSHOTS"):
        small.save(path)
    stored = np.asarray(Image.open(path).convert("RGB"), float)
    difference = np.abs(np.asarray(small, float) - stored)
    assert difference.shape == stored.shape
    assert difference.mean() < 4
    assert (difference.max(-1) > 60).mean() < 0.03


def test_paint_and_layout_budget(browser, address):
    """On the page alone, whose model is loaded: the first paint, and nothing jumps."""
    for size in ((1400, 900), (390, 844)):
        with visit(browser, address, size) as page:
            paints = page.evaluate("performance.getEntriesByName('first-contentful-paint')")
            assert paints[0]["startTime"] < 1000  # milliseconds
            assert page.evaluate("window.shifts") < 0.02


def test_no_motion_for_those_who_ask_for_none(browser, address):
    durations = "e => [...e.children].map(c => getComputedStyle(c).transitionDuration)"
    with visit(browser, address, reduced_motion="reduce") as page:
        assert set(page.locator(".stage").evaluate(durations)) == {"0s"}


def test_transitions(page):
    duration = page.locator(".map").evaluate("e => getComputedStyle(e).transitionDuration")
    seconds = {float(part.strip().removesuffix("s")) for part in duration.split(",")}
    assert min(seconds) >= 0.15
    assert max(seconds) <= 0.25


@pytest.mark.skipif(not AXE.exists(), reason="no axe-core here; see .ci/run")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_labels_and_contrast(browser, address, scheme):
    """Every rule of axe-core, in each state of the page."""
    with visit(browser, address, color_scheme=scheme) as page:
        page.evaluate(AXE.read_text(encoding="utf-8"))
        assert faults(page) == []
        upload(page, ("notes.png", b"hello"))
        page.locator("#notices [role=alert]").wait_for()
        page.locator("#download summary").click()
        assert faults(page) == []
        page.keyboard.press("Escape")
        page.get_by_role("tab", name="Channels").click()
        page.locator("#grid .channel").first.wait_for()
        page.locator("#settings summary").click()
        assert faults(page) == []
        page.get_by_role("tab", name="How it works").click()
        page.locator("#learn summary").first.click()
        page.locator("#compare").select_option("1")
        settled(page)
        assert faults(page) == []


def faults(page) -> list[str]:
    until(page, "document.getAnimations().every(a => a.playState !== 'running')")
    violations = page.evaluate("axe.run()")["violations"]
    return [
        f"{f['id']}: {n['target']} {n['html'][:200]} {n['failureSummary']}"
        for f in violations
        for n in f["nodes"]
    ]
