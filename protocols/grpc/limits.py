"""What one gRPC client may take, and how much nonsense is put up with. (P)"""

from __future__ import annotations

import math

import msgspec

from gateway.wire.grpc import MAX_MESSAGE


class Limits(msgspec.Struct, frozen=True):
    """Sizes in bytes, times in seconds.

    ``max_message``: one request message, inflated too. ``max_unfinished``: what all messages of one connection that are
    still arriving may take together beyond the windows. ``max_headers``: a request's fields, as HTTP/2 counts them; at
    four times that the connection ends. ``window`` and ``connection_window``: what a client may send before a handler
    has consumed anything.

    ``ping_after``: a connection that has been silent for so long is asked for a sign of life, and closed when there is
    none within ``ping_timeout``. A client may ping every ``min_ping_interval``, and whenever it has been sent
    something; more than ``max_ping_strikes`` beyond that end the connection.

    ``max_nuisance`` malformed requests, calls reset within a second and before any reply, settings and empty frames may
    come at once, and ``nuisance_rate`` a second. ``handshake_timeout`` runs over TLS and the first frame;
    ``message_timeout`` is time in which nothing comes of a message that has begun or is the only one of its call,
    ``write_timeout`` time in which nothing is taken.

    ``max_age``, give or take a tenth, is when a connection is asked to go; after ``age_grace`` more seconds it is cut.
    """

    max_message: int = MAX_MESSAGE
    max_unfinished: int = 4 * MAX_MESSAGE
    max_headers: int = 65536
    max_streams: int = 1024
    window: int = 1024 * 1024
    connection_window: int = 8 * 1024 * 1024
    max_connections: int = 16384
    message_timeout: float = 30.0
    handshake_timeout: float = 10.0
    write_timeout: float = 60.0
    idle_timeout: float = 3600.0
    ping_after: float = 30.0
    ping_timeout: float = 20.0
    min_ping_interval: float = 10.0
    max_ping_strikes: int = 5
    max_nuisance: float = 1000.0
    nuisance_rate: float = 200.0
    max_age: float = math.inf
    age_grace: float = 300.0


class Patience:
    """How much more of what costs us and gains nobody anything is put up with: a bucket that leaks at ``rate``."""

    __slots__ = ("_level", "_most", "_rate", "_since")

    def __init__(self, most: float, rate: float, now: float) -> None:
        self._most = most
        self._rate = rate
        self._level = 0.0
        self._since = now

    def lost(self, now: float) -> bool:
        """Count one more nuisance; whether that is one too many."""
        self._level = max(0.0, self._level - (now - self._since) * self._rate) + 1.0
        self._since = now
        return self._level > self._most


class Pings:
    """Which of a client's pings are too many: sooner than ``interval`` after the last, with nothing sent since."""

    __slots__ = ("_interval", "_last", "_most", "_strikes")

    def __init__(self, interval: float, most: int) -> None:
        self._interval = interval
        self._most = most
        self._last = -math.inf
        self._strikes = 0

    def sent(self) -> None:
        """Headers or a message went to the client: it may measure the way again."""
        self._last = -math.inf
        self._strikes = 0

    def too_many(self, now: float) -> bool:
        """Count a ping; whether the client has sent too many."""
        if now - self._last < self._interval:
            self._strikes += 1
        self._last = now
        return self._strikes > self._most
