"""Connections that do not last: who sends half a request, or does not read the answer, holds an open file for ever."""

import asyncio
import resource

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE = 10.0
"""Seconds that a client may take for a header, and for a body: up to twice as long."""
_FILES = 1 << 16


class ImpatientProtocol(H11Protocol):
    """Uvicorn's protocol with a limit of time. Uvicorn itself has one only between two requests.

    It also has no limit of a header's size with its faster parser, so this is the slower one.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to watch."""
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        if self._timer:
            self._timer.cancel()
        super().connection_lost(exc)

    def _watch(self, before: object = None) -> None:
        """Close the connection if the client has not done since the last look what was waited for then."""
        is_waiting = self.conn.their_state in (h11.IDLE, h11.SEND_BODY) or self.flow.write_paused
        now = (self.conn.their_state, self.cycle) if is_waiting else None
        if is_waiting and now == before:
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(PATIENCE, self._watch, now)


def allow_more_files() -> None:
    """Raise the number of files, and so of connections, that this process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # below 0: no limit
    most = hard if 0 <= hard < _FILES else _FILES
    if 0 <= soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
