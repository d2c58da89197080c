"""Requests and answers of the page, in process, and the command."""

import asyncio
import io
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise.apps import app as command
from scenewise.apps.app import explorer as explorer_module
from scenewise.apps.app.explorer import Explorer
from scenewise.apps.app.kept import MAX_KEPT
from scenewise.apps.app.state import ImageState
from scenewise.apps.cli import main
from scenewise.errors import UserError

pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("httpx2", reason="httpx2 is not installed")

from starlette.testclient import TestClient

from scenewise.apps.app.api import _progress
from scenewise.apps.app.server import build_application, guarded
from scenewise.apps.app.work import Work

POSITION = "head.position.1"


@pytest.fixture(scope="module")
def explorer(danet, ccnet, fcn):
    return Explorer([danet, ccnet, fcn])


@pytest.fixture(scope="module")
def page(explorer):
    application = guarded(build_application(explorer))
    with TestClient(application, base_url="http://127.0.0.1:7860") as client:
        yield client


def png(seed=0, size=(37, 53)) -> bytes:
    buffer = io.BytesIO()
    array = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def upload(page, content=None, name="street%20%C3%A9.png"):
    return page.post("/api/images", content=content or png(), headers={"x-name": name})


def lines(answer):
    return [json.loads(line) for line in answer.text.splitlines()]


def test_models(page):
    danet, ccnet, fcn = page.get("/api/models").json()
    assert (danet["id"], danet["title"]) == ("0", "DANet · tiny")
    assert [block["id"] for block in danet["blocks"]] == [POSITION, "head.channel.1"]
    assert ccnet["blocks"][0]["rounds"] == [1, 2]
    assert fcn["attention"] is False


def test_samples_and_the_pixel_of_the_first(page, explorer, danet):
    first, *others = page.get("/api/samples").json()
    assert (first["id"], first["name"]) == ("sample-0", "scene 0")
    assert len(others) == 5
    assert [sample["at"] for sample in others] == [None] * 5
    at = tuple(first["at"])
    state = ImageState("a", explorer.images.get("sample-0").image).computed(danet, POSITION)
    predictions = state.results["danet"].predictions
    assert predictions[None].labels[at] != predictions[POSITION].labels[at]
    assert Image.open(io.BytesIO(page.get(first["thumbnail"]).content)).size == (192, 64)


def test_no_pixel_where_no_block_decides(fcn):
    assert Explorer([fcn]).example() is None


def test_an_image_is_predicted_once(page, danet):
    about = upload(page).json()
    image = about.pop("id")
    assert about == {
        "name": "street é.png",
        "height": 37,
        "width": 53,
        "shrunk_from": None,
        "note": None,
    }
    assert page.get(f"/api/images/{image}/info").json()["name"] == "street é.png"
    task = {"image": image, "model": "0", "without": None}
    *progress, last = lines(page.post("/api/predict", json=task))
    assert progress[0] == {"progress": 0.0}
    assert sum(part["share"] for part in last["done"]["shares"]) == pytest.approx(1)
    runs = []
    handle = danet.model.register_forward_pre_hook(lambda *args: runs.append(args))
    backbone = danet.model.backbone.register_forward_pre_hook(lambda *args: runs.append(args))
    assert lines(page.post("/api/predict", json=task))[-1] == last
    query = {"image": image, "model": "0"}
    labels = Image.open(io.BytesIO(page.get("/api/labels", params=query).content))
    assert labels.size == (53, 37)
    pixel = {**query, "block": POSITION, "row": 20, "column": 11}
    answer = page.get("/api/attention", params=pixel).json()
    assert answer["class"] == labels.getpixel((11, 20))
    assert len(page.get("/api/channels", params=pixel | {"count": 4}).json()) == 4
    assert runs == []
    page.get("/api/effect", params=pixel)
    assert len(runs) == 1  # without the block
    page.get("/api/effect", params=pixel | {"row": 1})
    assert len(runs) == 1
    handle.remove()
    backbone.remove()


def test_attention_of_an_image_that_was_not_predicted_yet(page):
    image = upload(page, png(1)).json()["id"]
    query = {"image": image, "model": "1", "block": "head.context.join.branch.block"}
    answer = page.get("/api/attention", params={**query, "row": 36, "column": 52, "round": 1})
    assert (answer.json()["height"], answer.json()["width"]) == (5, 7)


def test_gradient_of_a_model_without_attention(page, monkeypatch):
    query = {"image": "sample-2", "model": "2", "row": 20, "column": 30}
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    answer = page.get("/api/gradient", params=query)
    assert (answer.status_code, "pip install" in answer.json()["error"]) == (400, True)
    monkeypatch.undo()
    pytest.importorskip("captum", reason="captum is not installed")
    answer = page.get("/api/gradient", params=query).json()
    assert (answer["height"], answer["width"]) == (64, 192)


def test_gradients_are_computed_once(page, monkeypatch):
    """By image, model, pixel and window; a map that was kept is the same to the last bit."""
    computed = []

    def fake(model, crop, at, label):
        computed.append((id(model), at))
        return torch.rand(crop.shape[1:])

    monkeypatch.setattr(explorer_module, "gradient_map", fake)
    query = {"image": upload(page, png(9)).json()["id"], "model": "2", "row": 20, "column": 30}

    def ask(**changes):
        return page.get("/api/gradient", params=query | changes).json()["times"]

    first, other, of_another_model = ask(), ask(column=31), ask(model="0")
    assert len({first, other, of_another_model}) == len(computed) == 3
    assert (ask(), ask(column=31), ask(model="0")) == (first, other, of_another_model)
    page.get("/api/labels", params=query | {"model": "0", "without": POSITION})
    assert ask(model="0") == of_another_model  # further work on the image drops no map
    assert len(computed) == 3


def test_without_a_block(page):
    query = {"image": "sample-1", "model": "0"}
    task = {**query, "without": POSITION}
    with_block, without = (
        page.get("/api/labels", params=query | more).content for more in ({}, {"without": POSITION})
    )
    assert with_block != without
    assert "done" in lines(page.post("/api/predict", json=task))[-1]


def test_files(page):
    query = {"image": "sample-0", "model": "0", "block": POSITION, "row": 20, "column": 30}
    for name, start in (("labels.png", b"\x89PNG"), ("attention.json", b"{"), ("x.exe", None)):
        answer = page.get(f"/api/download/{name}", params=query)
        if start is None:
            assert "unknown file" in answer.json()["error"].lower()
            continue
        assert answer.content.startswith(start)
        expected = f'attachment; filename="scene_0_{name}"'
        assert answer.headers["content-disposition"] == expected


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/api/images/none", 404, "no longer here"),
        ("/api/images/..%2Fsecret.png", 404, "nothing at this address"),
        ("/api/labels?image=sample-0&model=3", 404, "Unknown model '3'"),
        ("/api/labels?image=sample-99&model=0", 404, "no longer here"),
        ("/api/labels?image=sample-0&model=0&without=head", 400, "Unknown block 'head'"),
        ("/api/labels?image=sample-0&model=2&without=head", 400, "has no attention blocks"),
        ("/api/attention?image=sample-0&model=0", 422, "block and column and row"),
        (
            f"/api/attention?image=sample-0&model=0&block={POSITION}&row=64&column=0",
            400,
            "outside the image; rows are 0 to 63",
        ),
        (
            "/api/attention?image=sample-0&model=0&block=head.channel.1&row=1&column=0",
            400,
            "does not attend to pixels",
        ),
        (f"/api/effect?image=sample-0&model=0&block={POSITION}&row=x&column=0", 422, "valid row"),
        ("/api/download/labels.png?image=sample-0&model=0&row=1&column=9999", 400, "outside"),
        ("/assets/..%2Fserver.py", 404, "nothing"),
        ("/nothing", 404, "nothing at this address"),
    ],
)
def test_errors_are_one_sentence(page, path, status, error):
    answer = page.get(path)
    assert answer.status_code == status
    assert error in answer.json()["error"]
    assert answer.json()["error"].endswith(".")


def test_a_refused_file(page):
    answer = upload(page, b"hello", "<b>notes.png")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("'<b>notes.png' is not a readable image; supported")


@pytest.mark.parametrize("body", [{}, {"image": "sample-0", "model": ["0"]}, [1], "x"])
def test_a_task_that_is_none(page, body):
    assert page.post("/api/predict", json=body).status_code == 422


def test_an_error_while_predicting_is_the_last_line(page, danet):
    def fail(*args):
        raise MemoryError

    handle = danet.model.head.register_forward_pre_hook(fail)
    task = {"image": "sample-3", "model": "0"}
    answer = lines(page.post("/api/predict", json=task))
    handle.remove()
    assert "Not enough memory" in answer[-1]["error"]
    assert "done" in lines(page.post("/api/predict", json=task))[-1]


def test_work_that_nobody_waits_for_is_stopped():
    work, seen = Work(), []

    def step(report):
        while True:
            report(0.5)
            seen.append(1)

    async def leave():
        stream = _progress(lambda: work.start(step))
        assert json.loads(await anext(stream))["progress"] in (0.0, 0.5)
        await stream.aclose()

    asyncio.run(leave())
    assert work.start(lambda report: "next").future.result(10) == "next"
    work.close()


def test_headers(page):
    for path in ("/api/models", "/nothing", "/api/images/none"):
        headers = page.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
    refused = page.get("/", headers={"host": "evil.example"})
    assert refused.status_code == 403
    assert "content-security-policy" in refused.headers


def test_urls_are_not_opened(page):
    """An image is its bytes; an address, a path or a form is not followed."""
    for content in (b"https://example.org/street.png", b"/etc/passwd", b"sample-0"):
        assert upload(page, content).status_code == 400
    for image in ("https://example.org/a.png", "/etc/passwd", "file:///etc/passwd"):
        assert page.get("/api/labels", params={"image": image, "model": "0"}).status_code == 404


def test_one_visitor_does_not_push_out_the_images_of_another(explorer, danet):
    application = guarded(build_application(explorer))
    ann, bob = (
        TestClient(application, base_url="http://127.0.0.1:7860", client=(address, 1))
        for address in ("2001:db8::7", "10.0.0.2")
    )
    mine = upload(ann).json()["id"]
    others = [upload(bob).json()["id"] for _ in range(MAX_KEPT + 1)]
    paths = (f"/api/images/{image}/info" for image in (mine, others[0], others[-1]))
    assert [ann.get(path).status_code for path in paths] == [200, 404, 200]


def test_visitors_at_once(page):
    """Six requests at one time for six images get the answers that each gets alone."""
    images = [upload(page, png(seed)).json()["id"] for seed in range(6)]
    query = {"model": "0", "block": POSITION, "row": 20, "column": 11}

    def ask(image):
        return page.get("/api/attention", params={**query, "image": image}).json()

    async def together():
        return await asyncio.gather(*(asyncio.to_thread(ask, image) for image in images))

    answers = asyncio.run(together())
    assert answers == [ask(image) for image in images]
    assert len({answer["times"] for answer in answers}) == 6


def test_models_of_other_channels_are_refused(danet, monkeypatch):
    with pytest.raises(UserError, match="unknown model 'x'; choose one of 0"):
        Explorer([danet]).network("x")
    assert torch.is_tensor(Explorer([danet]).images.get("sample-0").image)


class TestCommand:
    def test_without_fastapi(self, danet, tmp_path, monkeypatch, capsys):
        danet.model.save_pretrained(tmp_path / "danet")
        monkeypatch.setitem(sys.modules, "fastapi", None)
        assert main(["app", "--model", str(tmp_path / "danet"), "--device", "cpu"]) == 2
        assert "pip install 'scenewise[app]'" in capsys.readouterr().err

    def test_no_samples(self, danet, tmp_path, capsys):
        danet.model.save_pretrained(tmp_path / "danet")
        words = ["app", "--model", str(tmp_path / "danet"), "--device", "cpu", "--samples"]
        assert main([*words, str(tmp_path / "none")]) == 2
        assert "give --samples a folder of images" in capsys.readouterr().err

    def test_no_model(self, tmp_path, capsys):
        assert main(["app", "--model", str(tmp_path)]) == 2
        assert "no model in" in capsys.readouterr().err

    def test_port_taken(self):
        with command.listening("127.0.0.1", 0) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(UserError, match=f"cannot serve at 127.0.0.1:{port} .* --port"):
                command.listening("127.0.0.1", port)

    def test_model_given_twice(self):
        with pytest.raises(UserError, match="given twice"):
            command._names(["a/b", "a/b"])
