"""Connections that do not wait for ever for the head of a request."""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
CONNECTIONS = 256  # more are answered with 503


class PromptProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1, which closes a connection whose head is not there after a while."""

    head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first head."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Wait on for a head that has only begun, and no more for one that is there."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._wait()
        else:
            self._leave()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._leave()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self.head is None:
            self.head = self.loop.call_later(HEAD_SECONDS, self._late)

    def _leave(self) -> None:
        if self.head is not None:
            self.head.cancel()
            self.head = None

    def _late(self) -> None:
        self.head = None
        if self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None:
            self.transport.abort()
