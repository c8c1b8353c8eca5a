"""A gateway that is told to ask itself, directly or through another, answers once and says why."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from tests.attacks.witness import Asked, framed, witness
from tests.faults.stage import held
from tests.process import ANY_PORT, InferGateway, eventually
from tests.whole import raw
from tests.whole.fleet import CHAT, POOL, fetch

ASK = {"messages": [{"role": "user", "content": "hi"}]}


def server(name: str, url: str) -> str:
    spec = {"model": name, "inferenceEngine": "vLLM", "endpoints": [url]}
    route = {"modelName": name, "rules": [{"targetModels": [{"modelServerName": name}]}]}
    return POOL.format(name=name, server=json.dumps(spec), route=json.dumps(route))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_requests_that_come_back_end_there(tmp_path: Path) -> None:
    with witness("m", "around") as other:
        port = free_port()
        itself = f"127.0.0.1:{port}"
        (tmp_path / "c.yaml").write_text(server("myself", f"http://{itself}") + server("around", other.url))

        def around(asked: Asked) -> bytes:
            """Another proxy, which adds its own name, and leads back."""
            fields = [f"via: {via}, 1.1 other" for via in asked.values("via")]
            back = raw.exchange(("127.0.0.1", port), raw.post(CHAT, {**ASK, "model": "around"}, *fields))
            assert back is not None
            return framed(back.body, status=back.status)

        other.answer = around
        with InferGateway("serve", "--http", itself, *ANY_PORT[2:], "-c", str(tmp_path / "c.yaml")) as gateway:
            ready = {"around"}
            assert eventually(lambda: ready <= {card["id"] for card in fetch(gateway.address, "/v1/models")["data"]})
            for model in ("myself", "around"):
                answer = raw.exchange(gateway.address, raw.post(CHAT, {**ASK, "model": model}, "connection: close"))
                assert answer is not None
                assert answer.status >= 500, answer
            assert len(other.asked) == 1
            assert held(gateway)["sockets"] < 20
