"""The routes of the page: JSON, images and streams of progress."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from scenewise.apps.app import encode, render
from scenewise.apps.app.explorer import Explorer
from scenewise.apps.app.limits import visitor_of
from scenewise.apps.app.panel import Panel
from scenewise.apps.app.state import Network
from scenewise.apps.app.work import Job, Work
from scenewise.errors import UserError
from scenewise.visualize.attention_maps import Place

_T = TypeVar("_T")
_Whole = Annotated[int, Query(ge=-(2**31), le=2**31)]
_SECONDS = 0.05  # between two looks at the progress


class Task(BaseModel):
    """The body of a request to predict."""

    image: str
    model: str
    without: str | None = None


class Routes:
    """The handlers, and what they share."""

    def __init__(self, explorer: Explorer, work: Work) -> None:
        self.explorer, self.work = explorer, work
        self.router = APIRouter(prefix="/api")
        self._examples: list[Place | None] = []  # once known, one
        for path, handler in (
            ("/models", self.models),
            ("/samples", self.samples),
            ("/images/{image}", self.image),
            ("/images/{image}/info", self.info),
            ("/images/{image}/thumbnail", self.thumbnail),
            ("/labels", self.labels),
            ("/confidence", self.confidence),
            ("/attention", self.attention),
            ("/effect", self.effect),
            ("/channels", self.channels),
            ("/gradient", self.gradient),
            ("/download/{name}", self.download),
        ):
            self.router.add_api_route(path, handler, methods=["GET"], response_model=None)
        self.router.add_api_route("/images", self.upload, methods=["POST"], response_model=None)
        self.router.add_api_route("/predict", self.predict, methods=["POST"], response_model=None)

    def models(self) -> list[dict[str, Any]]:
        """All models."""
        return self.explorer.models

    async def samples(self) -> list[dict[str, Any]]:
        """All samples; of the first one, a pixel that shows attention which decides."""
        names = await run_in_threadpool(lambda: self.explorer.images.samples)
        if not self._examples:
            self._examples.append(await self.work.run(self.explorer.example))
        return [
            {
                "id": image,
                "name": name,
                "thumbnail": f"/api/images/{image}/thumbnail",
                "at": self._examples[0] if image == "sample-0" else None,
            }
            for image, name in names.items()
        ]

    async def upload(self, request: Request) -> dict[str, Any]:
        """Keep an image."""
        name = unquote(request.headers.get("x-name", "image"))[:200]
        content = await request.body()
        images = self.explorer.images
        image = await run_in_threadpool(images.add, content, name, visitor_of(request.scope))
        return render.info(image, images.get(image))

    def info(self, image: str) -> dict[str, Any]:
        """Name and size of an image."""
        return render.info(image, self.explorer.images.get(image))

    def image(self, image: str) -> Response:
        """The image itself."""
        content, kind = encode.shown(self.explorer.images.get(image), self.explorer.networks[0])
        return Response(content, media_type=kind)

    def thumbnail(self, image: str) -> Response:
        """A small one."""
        state = self.explorer.images.get(image)
        content = encode.thumbnail(state, self.explorer.networks[0])
        return Response(content, media_type="image/jpeg")

    async def predict(self, task: Task) -> StreamingResponse:
        """Predict an image; the progress is a stream of JSON lines."""
        network, without = self._asked(task.model, task.without)
        await run_in_threadpool(self.explorer.images.get, task.image)  # is it there?

        def answer(report: Callable[[float], None]) -> dict[str, Any]:
            panel = self.explorer.panel(task.image, network, None, without, report)
            return render.summary(panel, without)

        lines = _progress(lambda: self.work.start(answer))
        return StreamingResponse(lines, media_type="application/x-ndjson")

    async def labels(self, image: str, model: str, without: str | None = None) -> Response:
        """The labels."""
        return await self._layer(image, model, without or None, encode.labels_png)

    async def confidence(self, image: str, model: str, without: str | None = None) -> Response:
        """The confidence."""
        return await self._layer(image, model, without or None, encode.confidence_png)

    async def attention(
        self,
        image: str,
        model: str,
        block: str,
        row: _Whole,
        column: _Whole,
        round: Annotated[int | None, Query(ge=1, le=99)] = None,
    ) -> dict[str, Any]:
        """What a pixel attends to."""
        network, name = self._asked(model, block)
        panel = await self._panel(image, network, (row, column))
        return await run_in_threadpool(render.attention, panel, name or "", round)

    async def effect(
        self, image: str, model: str, block: str, row: _Whole, column: _Whole
    ) -> dict[str, Any]:
        """A pixel with a block and without it."""
        network, name = self._asked(model, block)
        panel = await self._panel(image, network, (row, column), name)
        return await run_in_threadpool(render.block_effect, panel, name or "")

    async def channels(
        self,
        image: str,
        model: str,
        block: str,
        count: Annotated[int, Query(ge=1, le=64)] = 12,
        row: _Whole | None = None,
        column: _Whole | None = None,
    ) -> list[dict[str, Any]]:
        """The strongest channels of a block."""
        network, name = self._asked(model, block)
        panel = await self._panel(image, network, await self._place(image, row, column))
        return await run_in_threadpool(render.channels, panel, name or "", count)

    async def gradient(self, image: str, model: str, row: _Whole, column: _Whole) -> dict[str, Any]:
        """Where the image moves the score of a pixel."""
        network, at = self.explorer.network(model), (row, column)
        panel = await self._panel(image, network, at)
        kept = panel.gradient
        if kept is not None:
            return await run_in_threadpool(render.gradient, panel, kept)
        computed = await self.work.run(
            lambda report: self.explorer.gradient(image, network, at, report)
        )
        return await run_in_threadpool(render.gradient, *computed)

    async def download(
        self,
        name: str,
        image: str,
        model: str,
        block: str = "",
        row: _Whole | None = None,
        column: _Whole | None = None,
    ) -> Response:
        """A file to save."""
        network, asked = self._asked(model, block or None)
        at = None if row is None or column is None else (row, column)
        panel = await self._panel(image, network, at)
        content, kind = await self._file(panel, name, asked)
        stem = "".join(c if c.isalnum() and c.isascii() else "_" for c in _stem(panel.state.name))
        headers = {"content-disposition": f'attachment; filename="{stem}_{name}"'}
        return Response(content, media_type=kind, headers=headers)

    async def _file(self, panel: Panel, name: str, block: str | None) -> tuple[bytes, str]:
        if name == "labels.png":
            return await run_in_threadpool(encode.indexed_labels, panel), "image/png"
        if name == "overlay.png":
            return await run_in_threadpool(encode.overlay_png, panel), "image/png"
        if name == "figure.pdf":
            return await self.work.run(lambda _: encode.figure_pdf(panel)), "application/pdf"
        if name == "attention.json":
            if block is None:
                raise UserError("no block is chosen; give block=")
            return await run_in_threadpool(render.attention_json, panel, block), "application/json"
        raise UserError(
            f"unknown file '{name}'; choose labels.png, overlay.png, figure.pdf or attention.json"
        )

    async def _layer(
        self,
        image: str,
        model: str,
        without: str | None,
        draw: Callable[[Panel, str | None], bytes],
    ) -> Response:
        network, name = self._asked(model, without)
        panel = await self._panel(image, network, None, name)
        content = await run_in_threadpool(draw, panel, name)
        return Response(content, media_type="image/png")

    def _asked(self, model: str, block: str | None) -> tuple[Network, str | None]:
        network = self.explorer.network(model)
        return network, self.explorer.checked(network, block)

    async def _place(self, image: str, row: int | None, column: int | None) -> Place:
        """The pixel, by default that in the middle."""
        if row is not None and column is not None:
            return row, column
        height, width = (await run_in_threadpool(self.explorer.images.get, image)).size
        return height // 2, width // 2

    async def _panel(
        self, image: str, network: Network, at: Place | None, without: str | None = None
    ) -> Panel:
        """The panel at once if all is computed, else after waiting in the queue."""
        state = await run_in_threadpool(self.explorer.state, image, at)
        if state.has(network, without):
            return Panel(state, network)
        return await self.work.run(
            lambda report: self.explorer.panel(image, network, at, without, report)
        )


def _stem(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[0] or name


async def _progress(start: Callable[[], Job[dict[str, Any]]]) -> AsyncIterator[str]:
    """JSON lines: how much is done whenever that changes, then the result or an error.

    If nobody reads on, the work is stopped.
    """
    try:
        job = start()
    except UserError as error:
        yield _line({"error": sentence(error)})
        return
    last, future = -1, asyncio.wrap_future(job.future)
    try:
        while not future.done():
            if int(100 * job.done) > last:
                last = int(100 * job.done)
                yield _line({"progress": last / 100})
            await asyncio.wait([future], timeout=_SECONDS)
        yield _line({"done": future.result()})
    except UserError as error:
        yield _line({"error": sentence(error)})
    finally:
        future.cancel()  # else the end of stopped work is logged as an error that nobody handled
        job.stop()


def _line(message: dict[str, Any]) -> str:
    return json.dumps(message) + "\n"


def sentence(error: UserError) -> str:
    """An error as a sentence that starts with a capital letter and ends with a full stop."""
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith(".") else ".")
