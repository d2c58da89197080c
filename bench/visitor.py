"""A visitor of the page without a browser: sends the HTTP requests that the browser would send."""

import json
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import urlencode, urlsplit

_SECONDS = 120


class Visitor:
    """One visitor of the page at ``address``."""

    def __init__(self, address: str) -> None:
        self.place = urlsplit(address).netloc
        self.model = json.loads(self._ask("GET", "/api/models"))[0]
        self.image = ""

    def take(self, sample: int) -> list[Any]:
        """Open a sample; returns what its prediction shows."""
        self.image = f"sample-{sample}"
        body = {"image": self.image, "model": self.model["id"]}
        last = json.loads(self._ask("POST", "/api/predict", body).splitlines()[-1])
        if "done" not in last:
            raise RuntimeError(f"the page failed: {last}")
        return [last["done"], self._get("labels").hex()]

    def pick(self, row: int, column: int) -> dict[str, Any]:
        """Click a pixel; returns what it attends to in the first block."""
        block = self.model["blocks"][0]["id"]
        answer: dict[str, Any] = json.loads(
            self._get("attention", block=block, row=row, column=column)
        )
        return answer

    def _get(self, name: str, **options: object) -> bytes:
        query = urlencode({"image": self.image, "model": self.model["id"], **options})
        return self._ask("GET", f"/api/{name}?{query}")

    def _ask(self, method: str, path: str, body: object = None) -> bytes:
        connection = HTTPConnection(self.place, timeout=_SECONDS)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            answer: HTTPResponse = connection.getresponse()
            content = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{method} {path}: {answer.status} {content[:300]!r}")
            return content
        finally:
            connection.close()
