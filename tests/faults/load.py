"""Clients that ask all the time, each in a way of its own, while something is done to a gateway; what came of it. (IO)

A client that reads `connection: close` connects anew; any answer but a whole good one, and any connection that ends
without one, is a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any

import grpc

from protocols.grpc.generated.upb import inference as pb
from tests.process import InferGateway, eventually
from tests.whole import raw

_PAUSE_S = 0.005
"""A machine of two cores has engines and gateways to run, too."""
PREFIX = "/inference.v1.InferenceService/"
CHAT = "/v1/chat/completions"


class Load:
    """``answers`` by kind of client; ``failures`` in words. ``ends``: who is refused a connection stops, and does not
    count; without it that is a failure.
    """

    def __init__(self, gateway: InferGateway, model: str = "m", *, ends: bool = False) -> None:
        self.http = gateway.address
        self.grpc = gateway.ready["grpc"]
        self.model = model
        self.ends = ends
        self.over = Event()
        self.answers: dict[str, int] = {}
        self.failures: list[str] = []

    def body(self, stream: bool) -> dict[str, Any]:
        message = {"role": "user", "content": "hi"}
        return {"model": self.model, "messages": [message], "max_tokens": 4, "stream": stream}

    def count(self, kind: str) -> None:
        self.answers[kind] = self.answers.get(kind, 0) + 1
        self.over.wait(_PAUSE_S)

    def goes_on(self) -> bool:
        """Whether every kind of client comes to have one answer more."""
        before = self.answers.copy()
        return eventually(lambda: all(self.answers[kind] > before[kind] for kind in before) or bool(self.failures))

    # -- clients ------------------------------------------------------------------------------------------------

    def fresh(self, kind: str, *, stream: bool) -> None:
        """A connection for each request."""
        while not self.over.is_set():
            answer = raw.exchange(self.http, raw.post(CHAT, self.body(stream), "connection: close"))
            _good(answer, stream)
            self.count(kind)

    def kept(self, kind: str, *, stream: bool) -> None:
        """One connection for as long as it lasts."""
        while not self.over.is_set():
            with raw.connect(self.http) as connection, raw.Reader(connection) as reader:
                last = False
                while not last and not self.over.is_set():
                    connection.sendall(raw.post(CHAT, self.body(stream)))
                    answer = _good(reader.answer(), stream)
                    self.count(kind)
                    last = answer.headers.get("connection") == "close"

    def called(self, kind: str, *, stream: bool, anew: bool = False) -> None:
        """gRPC: on one channel, or ``anew`` for each call."""
        while not self.over.is_set():
            with grpc.insecure_channel(self.grpc, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                self._call(channel, kind, stream)
                while not anew and not self.over.is_set():
                    self._call(channel, kind, stream)

    def _call(self, channel: grpc.Channel, kind: str, stream: bool) -> None:
        request = pb.CreateChatCompletionRequest(
            model=self.model, messages=[pb.ChatMessage(role="user", text="hi")], max_tokens=4
        )
        if stream:
            streams = channel.unary_stream(
                f"{PREFIX}StreamChatCompletion",
                lambda it: it.SerializeToString(),
                pb.StreamChatCompletionResponse.FromString,
            )
            *_, last = streams(pb.StreamChatCompletionRequest(request=request), timeout=10)
            assert last.usage.completion_tokens == 4
        else:
            unary = channel.unary_unary(
                f"{PREFIX}CreateChatCompletion",
                lambda it: it.SerializeToString(),
                pb.CreateChatCompletionResponse.FromString,
            )
            assert unary(request, timeout=10).choices
        self.count(kind)


def _good(answer: raw.Answer | None, stream: bool) -> raw.Answer:
    assert answer is not None, "the connection ended without an answer"
    assert (answer.status, answer.whole) == (200, True), answer
    assert not stream or raw.events(answer.body)[-1] == "[DONE]", answer
    return answer


@contextmanager
def load(gateway: InferGateway, model: str = "m", *, ends: bool = False) -> Iterator[Load]:
    """Under way from the first answer of each kind; over with the block, with ``ends`` when all are refused."""
    found = Load(gateway, model, ends=ends)
    kinds: dict[str, Callable[[str], None]] = {
        "new connections": lambda kind: found.fresh(kind, stream=False),
        "new connections, streams": lambda kind: found.fresh(kind, stream=True),
        "kept connections": lambda kind: found.kept(kind, stream=False),
        "kept connections, streams": lambda kind: found.kept(kind, stream=True),
        "channel": lambda kind: found.called(kind, stream=False),
        "channel, streams": lambda kind: found.called(kind, stream=True),
        "new channels": lambda kind: found.called(kind, stream=False, anew=True),
    }
    threads = [Thread(target=_watched, args=(found, kind, client)) for kind, client in kinds.items()]
    for thread in threads:
        thread.start()
    try:
        assert eventually(lambda: len(found.answers) == len(kinds) or bool(found.failures)), found.answers
        yield found
    finally:
        if not ends:
            found.over.set()
        for thread in threads:
            thread.join(30)
        found.over.set()
    assert not found.failures, found.failures[0]


def _watched(found: Load, kind: str, client: Callable[[str], None]) -> None:
    try:
        client(kind)
    except ConnectionRefusedError as error:
        if not found.ends:
            found.failures.append(f"{kind}: {error!r}")
    except grpc.RpcError as error:
        refused = error.code() is grpc.StatusCode.UNAVAILABLE and "refused" in (error.details() or "")
        if not (found.ends and refused):
            found.failures.append(f"{kind}: {error!r}")
    except Exception as error:  # noqa: BLE001 — whatever it is, it is told
        found.failures.append(f"{kind}: {error!r}")


def gone(pid: int) -> bool:
    """Whether a process that is nobody's child here has ended."""
    with suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "Z"
    return True
