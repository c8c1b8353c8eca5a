"""Pools of simulated engines, clients that ask why their request went where it did, and what each engine says it got.
(IO)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from tests.process import InferGateway, eventually
from tests.whole import raw

POOL = """
apiVersion: networking.serving.volcano.sh/v1alpha1
kind: ModelServer
metadata: {{name: {name}}}
spec: {server}
---
apiVersion: networking.serving.volcano.sh/v1alpha1
kind: ModelRoute
metadata: {{name: {name}}}
spec: {route}
---
"""
CHAT = "/v1/chat/completions"
WHY = "x-debug-schedule: 1"


def pool(
    name: str, engines: Sequence[InferGateway], *, kind: str = "vLLM", loras: Sequence[str] = (), **spec: object
) -> str:
    """A server of these engines, all of which serve `m`, and the route `name` to it. ``spec``: more of the server."""
    urls = [engine.url for engine in engines]
    server = {"model": "m", "inferenceEngine": kind, "endpoints": urls, **spec}
    route = {"modelName": name, "loraAdapters": loras, "rules": [{"targetModels": [{"modelServerName": name}]}]}
    return POOL.format(name=name, server=json.dumps(server), route=json.dumps(route))


def settings(**sections: object) -> str:
    """A GatewayConfiguration of these sections."""
    head = {"apiVersion": "infer-gateway.dev/v1alpha1", "kind": "GatewayConfiguration"}
    return json.dumps({**head, **sections}) + "\n---\n"


def scoring(*names: str) -> dict[str, object]:
    """A profile of these scorers."""
    return {"plugins": {"Score": {"enabled": [{"name": name, "weight": 1} for name in names]}}}


def written(directory: Path, *documents: str) -> str:
    """The file that holds them, replaced at once where it was there before."""
    (directory / "next").write_text("".join(documents))
    return str((directory / "next").replace(directory / "gateway.yaml"))


class Client:
    """One connection to a gateway, or to an engine."""

    def __init__(self, to: InferGateway) -> None:
        self.socket = raw.connect(to.address)
        self.reader = raw.Reader(self.socket)

    def send(self, model: str, prompt: str, *headers: str, **more: object) -> None:
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 1, **more}
        self.socket.sendall(raw.post(CHAT, body, *headers))

    def answer(self) -> raw.Answer:
        """The whole of it, which has to be a good one."""
        answer = self.reader.answer()
        assert answer is not None
        assert (answer.status, answer.whole) == (200, True), answer
        assert not answer.headers["content-type"].startswith("text/event-stream") or "[DONE]" in answer.body.decode()
        return answer

    def rest(self) -> bytes:
        """Of a stream whose head was read, what is left, to its last chunk."""
        received = b""
        while chunk := self.reader.chunk():
            received += chunk
        assert chunk is not None, "the connection ended instead"
        return received

    def ask(self, model: str, prompt: str, *headers: str, **more: object) -> raw.Answer:
        self.send(model, prompt, *headers, **more)
        return self.answer()

    def why(self, model: str, prompt: str, *headers: str, **more: object) -> dict[str, Any]:
        """Ask, and be told why the request went where it did."""
        return decision(self.ask(model, prompt, WHY, *headers, **more))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.__exit__()
        self.socket.close()


def decision(answer: raw.Answer) -> dict[str, Any]:
    said = json.loads(answer.headers["x-schedule-decision"])
    assert isinstance(said, dict)
    return said


def served_by(decision: dict[str, Any]) -> str:
    """The endpoint that was tried last."""
    return str(decision["tried"][-1])


def candidate(decision: dict[str, Any], endpoint: str) -> dict[str, Any]:
    """What was weighed of that endpoint."""
    (found,) = [seen for seen in decision["candidates"] if seen["endpoint"] == endpoint]
    assert isinstance(found, dict)
    return found


def named(engine: InferGateway) -> str:
    """The endpoint's name in the gateway."""
    return engine.ready["http"]


def fetch(address: tuple[str, int], path: str) -> Any:
    answer = raw.exchange(address, raw.get(path, "connection: close"))
    assert answer is not None
    assert answer.status == 200, answer
    return json.loads(answer.body)


def admin(gateway: InferGateway) -> tuple[str, int]:
    host, _, port = gateway.ready["admin"].rpartition(":")
    return host, int(port)


def endpoints(gateway: InferGateway) -> dict[str, dict[str, Any]]:
    """What the gateway shows of each endpoint, by its name; of one in several pools, in the last of them."""
    return {seen["endpoint"]: seen for seen in fetch(admin(gateway), "/api/endpoints")}


def wait_scraped(gateway: InferGateway) -> None:
    """Until each endpoint has told its load twice: from then on its silence means something."""
    ages: dict[str, float] = {}
    renewed: set[str] = set()

    def told() -> bool:
        seen = {id: shown["load_age_s"] for id, shown in endpoints(gateway).items()}
        renewed.update(id for id, age in seen.items() if age is not None and age < ages.get(id, 0.0))
        ages.update({id: age for id, age in seen.items() if age is not None})
        return renewed == seen.keys()

    assert eventually(told), endpoints(gateway)


def state(engine: InferGateway) -> dict[str, Any]:
    said = fetch(engine.address, "/sim/state")
    assert isinstance(said, dict)
    return said


def received(engines: Sequence[InferGateway]) -> list[int]:
    """Requests that each engine counted, since it was started."""
    return [state(engine)["requests"] for engine in engines]


class Tally:
    """How many requests each engine got in its block, by the engines' own count."""

    def __init__(self, engines: Sequence[InferGateway]) -> None:
        self.engines = engines
        self.counts: list[int] = []

    def __enter__(self) -> Self:
        self._before = received(self.engines)
        return self

    def __exit__(self, *_: object) -> None:
        self.counts = [now - before for now, before in zip(received(self.engines), self._before, strict=True)]

    def share(self, engine: InferGateway) -> float:
        return self.counts[self.engines.index(engine)] / sum(self.counts)


@contextmanager
def generating(engine: InferGateway, count: int, *, running: int, prompt: str = "on and on") -> Iterator[None]:
    """``count`` long streams that no gateway knows of, of which ``running`` run."""
    with ExitStack() as stack:
        for number in range(count):
            client = stack.enter_context(Client(engine))
            client.send("m", f"{number} {prompt}", stream=True, max_tokens=3000)

        def busy() -> bool:
            there = state(engine)
            return bool((there["running"], there["waiting"]) == (running, count - running))

        assert eventually(busy), state(engine)
        yield


def text(name: str, size: int) -> str:
    """About so many bytes that begin like no other ``name``'s."""
    return (f"{name} " * (size // (len(name) + 1) + 1))[:size]
