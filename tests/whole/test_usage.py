"""Usage events through the program: one line for each request, whatever came of it, and whose it was."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process import InferGateway, eventually, serve, simulate
from tests.whole import raw
from tests.whole.fleet import CHAT, fetch, pool, settings, written

KEY = "sk-ann-0123456789"
ANN = {"name": "ann", "keySha256": hashlib.sha256(KEY.encode()).hexdigest(), "tenant": "acme", "models": ["m", "slow"]}
BOB = {"name": "bob", "keySha256": hashlib.sha256(b"sk-bob").hexdigest()}


class Asking:
    """One request after the other, each under an id of its own; and what the file says of each."""

    def __init__(self, gateway: InferGateway, file: Path) -> None:
        self.gateway = gateway
        self.file = file
        self._serial = 0

    def ask(self, model: str = "m", secret: str = KEY, **more: object) -> tuple[str, raw.Answer]:
        """(id, answer). A ``body`` is sent as it is."""
        id, request = self.request(model, secret, **more)
        answer = raw.exchange(self.gateway.address, request)
        assert answer is not None
        return id, answer

    def request(self, model: str, secret: str = KEY, body: bytes | None = None, **more: object) -> tuple[str, bytes]:
        self._serial += 1
        id = f"ask-{self._serial}"
        said = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, **more}
        fields = [f"authorization: Bearer {secret}", f"x-request-id: {id}"]
        return id, raw.post(CHAT, said if body is None else body, *fields)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file.read_bytes().splitlines()] if self.file.exists() else []

    def event(self, id: str) -> dict[str, Any]:
        """The one line about it."""
        assert eventually(lambda: any(event["id"] == id for event in self.events())), id
        (found,) = [event for event in self.events() if event["id"] == id]
        assert isinstance(found, dict)
        return found


@pytest.fixture
def engine() -> Iterator[InferGateway]:
    with simulate("vllm", "m", "--ttft", "0.001", "--itl", "0.001") as running:
        yield running


@pytest.fixture
def asking(tmp_path: Path, engine: InferGateway) -> Iterator[Asking]:
    limits = [{"match": {"user": "bob"}, "requestsPerDay": 1}, {"totalTokensPerDay": 10**6}]
    more = settings(auth={"apiKeys": [ANN, BOB]}, limits=limits, usage={"file": "usage.jsonl"})
    file = written(tmp_path, pool("m", [engine]), pool("closed", [engine]), more)
    with serve("-c", file) as gateway:
        yield Asking(gateway, tmp_path / "usage.jsonl")


def fail(engine: InferGateway, *specs: str) -> None:
    answer = raw.exchange(engine.address, raw.post("/sim/fail", {"fail": specs}))
    assert answer is not None
    assert answer.status == 200


def outcome(event: dict[str, Any]) -> tuple[int, str, str, str]:
    return event["status"], event["reason"], event["user"], event["tenant"]


def test_answers_are_counted_as_the_engine_does(asking: Asking) -> None:
    id, whole = asking.ask()
    said = json.loads(whole.body)["usage"]
    event = asking.event(id)
    assert outcome(event) == (200, "", "ann", "acme")
    assert (event["tokens"]["input"], event["tokens"]["output"]) == (said["prompt_tokens"], 5)
    assert (event["model"], event["route"], event["stream"], event["attempts"]) == ("m", "default/m", False, 1)

    id, streamed = asking.ask(stream=True)
    assert streamed.body.endswith(b"data: [DONE]\n\n")
    event = asking.event(id)
    assert outcome(event) == (200, "", "ann", "acme")
    assert (event["tokens"]["input"], event["tokens"]["output"], event["stream"]) == (said["prompt_tokens"], 5, True)


def test_what_is_refused_is_an_event_of_who_asked_and_strangers_leave_none(asking: Asking) -> None:
    (strange, answer), (unknown, _) = asking.ask(secret="sk-mallory"), asking.ask(secret="sk-mallory", body=b"{}")
    assert answer.status == 401
    refusals: list[tuple[Callable[[], tuple[str, raw.Answer]], tuple[int, str, str, str]]] = [
        (lambda: asking.ask(body=b"not JSON"), (400, "invalid_request", "ann", "acme")),
        (lambda: asking.ask("closed"), (403, "forbidden", "ann", "acme")),
        (lambda: asking.ask("nobody's", "sk-bob"), (404, "model_not_found", "bob", "")),
        (lambda: asking.ask("m", "sk-bob"), (200, "", "bob", "")),
        (lambda: asking.ask("m", "sk-bob"), (429, "rate_limited", "bob", "")),
    ]
    for refuse, expected in refusals:
        id, answer = refuse()
        assert answer.status == expected[0]
        event = asking.event(id)
        assert outcome(event) == expected
        assert event["tokens"]["output"] == (5 if expected[0] == 200 else 0)
    assert not {strange, unknown} & {event["id"] for event in asking.events()}


def test_what_engines_and_clients_break_off_is_an_event(asking: Asking, engine: InferGateway) -> None:
    fail(engine, "cut:3")
    id, broken = asking.ask(stream=True)
    assert b'"error"' in broken.body
    event = asking.event(id)
    assert (outcome(event), event["tokens"]["output"]) == ((200, "upstream_error", "ann", "acme"), 3)

    fail(engine, "400")
    id, _ = asking.ask()
    assert outcome(asking.event(id)) == (400, "refused_by_engine", "ann", "acme")

    fail(engine, "hang")
    id, request = asking.request("m")
    with raw.connect(asking.gateway.address) as connection:
        connection.sendall(request)
        assert eventually(lambda: fetch(engine.address, "/sim/state")["requests"] == 3)
    assert outcome(asking.event(id)) == (499, "client_gone", "ann", "acme")


def test_who_waited_in_vain_is_told_so_and_has_an_event(tmp_path: Path) -> None:
    with simulate("vllm", "m", "--itl", "0.1") as engine:
        fairness = {"enabled": True, "maxConcurrent": 1, "queueTimeout": "200ms"}
        file = written(tmp_path, pool("m", [engine]), settings(fairness=fairness, usage={"file": "usage.jsonl"}))
        with serve("-c", file) as gateway, raw.connect(gateway.address) as first:
            asking = Asking(gateway, tmp_path / "usage.jsonl")
            left, request = asking.request("m", stream=True, max_tokens=200)
            first.sendall(request)
            assert eventually(lambda: fetch(engine.address, "/sim/state")["running"] == 1)
            id, answer = asking.ask()
            assert (answer.status, json.loads(answer.body)["error"]["code"]) == (503, "overloaded")
            assert int(answer.headers["retry-after"]) >= 1
            event = asking.event(id)
            assert outcome(event) == (503, "overloaded", "", "")
            assert event["queue_s"] >= 0.2
            assert event["attempts"] == 0
            first.close()
            assert asking.event(left)["reason"] == "client_gone"


def test_a_file_that_is_moved_away_is_made_anew(asking: Asking) -> None:
    first, _ = asking.ask()
    asking.event(first)
    moved = asking.file.rename(asking.file.with_suffix(".1"))
    asking.gateway.signal(signal.SIGHUP)
    assert eventually(asking.file.exists)
    second, _ = asking.ask()
    asking.event(second)
    assert [json.loads(line)["id"] for line in moved.read_bytes().splitlines()] == [first]
    assert [event["id"] for event in asking.events()] == [second]
    assert KEY not in asking.file.read_text() + asking.gateway.stderr
