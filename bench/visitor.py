"""A visitor of the page without a browser: sends the HTTP requests that the browser would send."""

import json
import uuid
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

_SECONDS = 120


class Visitor:
    """One visitor of the page at ``address``, with their own image."""

    def __init__(self, address: str) -> None:
        self.place = urlsplit(address).netloc
        self.name = uuid.uuid4().hex
        config = json.loads(self._ask("GET", "/config"))
        self.components = {c["id"]: c for c in config["components"]}
        self.events = config["dependencies"]

    def take(self, name: str) -> list[Any]:
        """Open a sample and return the page's answer."""
        event = self._event("take")
        body = {**self._body(event), "event_data": {"name": name}}
        self._ask("POST", "/gradio_api/queue/join", body)
        return self._result()

    def pick(self, row: int, column: int) -> list[Any]:
        """Click a pixel of the first panel and return the page's answer."""
        body = {**self._body(self._event("pick")), "event_data": {"row": row, "column": column}}
        return list(json.loads(self._ask("POST", "/gradio_api/run/predict", body))["data"])

    def _event(self, trigger: str) -> dict[str, Any]:
        return next(e for e in self.events if any(t[1] == trigger for t in e["targets"]))

    def _body(self, event: dict[str, Any]) -> dict[str, Any]:
        values = [self.components[i].get("props", {}).get("value") for i in event["inputs"]]
        trigger = event["targets"][0][0]
        return {
            "data": values,
            "fn_index": event["id"],
            "session_hash": self.name,
            "trigger_id": trigger,
        }

    def _result(self) -> list[Any]:
        """The last message of this visitor's event stream: the result of the work."""
        connection = HTTPConnection(self.place, timeout=_SECONDS)
        try:
            connection.request("GET", f"/gradio_api/queue/data?session_hash={self.name}")
            for line in connection.getresponse():
                if line.startswith(b"data:"):
                    message = json.loads(line[5:])
                    if message["msg"] == "process_completed":
                        if not message["success"]:
                            raise RuntimeError(f"the page failed: {message['output']}")
                        return list(message["output"]["data"])
            raise RuntimeError("the stream ended before the answer")
        finally:
            connection.close()

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
