"""Where trouble is made: what a gateway holds before and after, and somebody beside it who must not notice. (IO)

`unharmed` is what every fault has to pass: once it is over, nothing is held for requests any more, there are no more
tasks and descriptors than before, and a bystander, who asked all the time for a model of another pool, has got every
answer whole.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

from tests.process import InferGateway, eventually
from tests.whole import raw

CALM = "calm"
"""The model that the bystander asks for: serve it from an engine of its own, which nothing happens to."""
_PACE_S = 0.01
_GIVEN_BACK = (
    "calls", "inflight", "placed", "queued", "queued_bytes", "permits", "places", "upstream", "buffered_bytes",
    "unsent_bytes",
)  # fmt: skip


def admin(gateway: InferGateway) -> tuple[str, int]:
    host, _, port = gateway.ready["admin"].rpartition(":")
    return host.strip("[]"), int(port)


def held(gateway: InferGateway) -> dict[str, Any]:
    """What `/debug/statistics` says."""
    answer = raw.exchange(admin(gateway), raw.get("/debug/statistics", "connection: close"))
    assert answer is not None
    assert answer.status == 200, answer
    found: dict[str, Any] = json.loads(answer.body)
    return found


def at_rest(gateway: InferGateway, within_s: float = 15.0) -> dict[str, Any]:
    """What is held once nothing is held for requests. Fails if that does not come to be."""
    last: dict[str, Any] = {}

    def resting() -> bool:
        last.update(held(gateway))
        return not any(last[name] for name in _GIVEN_BACK)

    assert eventually(resting, within_s), {name: last[name] for name in _GIVEN_BACK if last[name]}
    return last


@contextmanager
def unharmed(
    gateway: InferGateway,
    *,
    bystander: bool = True,
    clients: int | None = None,
    within_s: float = 15.0,
    dial: Callable[[], socket.socket] | None = None,
    spare: int = 0,
) -> Iterator[None]:
    """In this block there is trouble. ``clients``: connections that the block leaves open; None: not looked at.
    ``dial``: how the bystander connects, where not plainly. ``spare``: tasks and descriptors that come and go by
    themselves, because of an endpoint that is asked how it is and hangs.
    """
    before = at_rest(gateway)
    with _bystander(dial or (lambda: raw.connect(gateway.address))) if bystander else _nobody():
        yield
    last = at_rest(gateway, within_s)

    def level() -> bool:
        last.update(held(gateway))
        return (
            not any(last[name] for name in _GIVEN_BACK)
            and last["tasks"] - _open(last) <= before["tasks"] - _open(before) + spare
            and last["descriptors"] - last["sockets"] <= before["descriptors"] - before["sockets"] + spare
            and strays(last) <= 0
            and (clients is None or last["connections"]["http"] == before["connections"]["http"] + clients)
        )

    assert eventually(level, within_s), (before, last)


def _open(found: dict[str, Any]) -> int:
    """Connections of clients, each of which may have a task."""
    return sum(found["connections"].values())


def strays(found: dict[str, Any]) -> int:
    """Connections that nobody uses, keeps or serves; the one that asked for the figures is none of them."""
    return int(found["sockets"] - found["idle"] - found["upstream"] - _open(found) - 1)


@contextmanager
def _nobody() -> Iterator[None]:
    yield


@contextmanager
def _bystander(dial: Callable[[], socket.socket]) -> Iterator[None]:
    """Asks again and again, whole and streamed in turn, and is always answered in full."""
    over, wrong, answers = Event(), [], [0]

    def ask() -> None:
        while not over.is_set() and not wrong:
            try:
                _asked(dial, stream=bool(answers[0] % 2))
            except (AssertionError, OSError) as error:
                wrong.append(error)
            answers[0] += 1
            over.wait(_PACE_S)

    thread = Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not wrong, f"others have noticed: {wrong[0]!r}"
    assert answers[0], "nobody has looked"


def _asked(dial: Callable[[], socket.socket], *, stream: bool) -> None:
    body = {"model": CALM, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "stream": stream}
    with dial() as connection, raw.Reader(connection) as reader:
        connection.sendall(raw.post("/v1/chat/completions", body, "connection: close"))
        answer = reader.answer()
    assert answer is not None, "the connection was cut"
    assert answer.status == 200, answer
    assert answer.whole, answer
    if stream:
        assert raw.events(answer.body)[-1] == "[DONE]", answer
