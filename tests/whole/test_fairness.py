"""The fairness queue through the program: who is served before whom, and that nobody who waits is lost or left behind,
whether clients hang up, the configuration changes, engines die or the process is told to stop.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import signal
import socket
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from tests.engines.llamacpp import LlamaCpp
from tests.process import InferGateway, eventually, serve, simulate, together
from tests.whole import raw
from tests.whole.fleet import CHAT, Client, admin, fetch, pool, received, settings, state, wait_scraped, written

CALLERS = ("heavy", "light")
AUTH = {
    "apiKeys": [
        {"name": who, "keySha256": hashlib.sha256(f"sk-{who}".encode()).hexdigest(), "tenant": who} for who in CALLERS
    ]
}
USAGE = {"usage": {"file": "usage.jsonl"}}
ONE_AT_A_TIME = {"maxConcurrent": 1}


def configured(directory: Path, engines: Sequence[InferGateway], fairness: object, **sections: object) -> str:
    """The file: one pool of these engines, and two tenants."""
    return written(directory, pool("m", engines), settings(auth=AUTH, fairness=fairness, **sections))


def enabled(**more: object) -> dict[str, object]:
    return {"enabled": True, **more}


def request(who: str, *headers: str, **more: object) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, **more}
    return raw.post(CHAT, body, f"authorization: Bearer sk-{who}", *headers)


class Crowd:
    """Requests, each on a connection and a thread of its own. ``ended``: whose came back, in that order."""

    def __init__(self, gateway: InferGateway, most: int = 64) -> None:
        self.gateway = gateway
        self.ended: list[str] = []
        self._threads = ThreadPoolExecutor(most)

    def ask(self, who: str, **more: object) -> Future[raw.Answer]:
        return self._threads.submit(self._ask, who, request(who, **more))

    def _ask(self, who: str, request: bytes) -> raw.Answer:
        answer = raw.exchange(self.gateway.address, request)
        assert answer is not None
        self.ended.append(who)
        return answer

    def each(self, ask: Callable[[int], str], count: int) -> set[str]:
        """What ``ask`` returns for each number below ``count``."""
        return {asked.result() for asked in [self._threads.submit(ask, number) for number in range(count)]}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)


def good(answer: raw.Answer) -> bool:
    streamed = answer.headers["content-type"].startswith("text/event-stream")
    return (answer.status, answer.whole) == (200, True) and (not streamed or raw.events(answer.body)[-1] == "[DONE]")


def refusal(answer: raw.Answer, status: int = 503, code: str = "overloaded") -> str:
    """Its message, its shape being that of every error."""
    assert (answer.status, answer.whole) == (status, True), answer
    error = json.loads(answer.body)["error"]
    assert {**error, "message": ""} == {"message": "", "type": "server_error", "param": None, "code": code}
    if status == 503:
        assert int(answer.headers["retry-after"]) >= 1
    return str(error["message"])


@contextmanager
def holding(gateway: InferGateway, engine: InferGateway, who: str = "heavy") -> Iterator[Client]:
    """A stream that goes on and on and has the engine's one place."""
    with Client(gateway) as client:
        client.socket.sendall(request(who, stream=True, max_tokens=3000))
        head = client.reader.head()
        assert head is not None
        assert head[0] == 200
        assert state(engine)["running"] == 1
        yield client


def flows(gateway: InferGateway) -> dict[str, Any]:
    (door,) = fetch(admin(gateway), "/api/flows")
    assert isinstance(door, dict)
    return door


def waits(gateway: InferGateway, count: int) -> bool:
    """Whether so many come to wait at its door."""
    return eventually(lambda: flows(gateway)["queued"] == count)


def metrics(gateway: InferGateway) -> dict[str, float]:
    """By name, added up over labels; and each sample with its labels."""
    answer = raw.exchange(admin(gateway), raw.get("/metrics", "connection: close"))
    assert answer is not None
    samples: defaultdict[str, float] = defaultdict(float)
    for name, labels, value in re.findall(r"^(\w+)(\{.*\})? (\S+)$", answer.body.decode(), re.MULTILINE):
        for known in {name, name + labels}:
            samples[known] += float(value)
    return samples


def reloaded(gateway: InferGateway, times: int = 1) -> bool:
    """Whether it has come to have read its configuration anew so often."""
    return eventually(lambda: metrics(gateway)['infer_gateway_config_reloads_total{result="success"}'] == times)


def remains(gateway: InferGateway, engines: Sequence[InferGateway]) -> dict[str, float]:
    """Whatever anybody still counts as waiting or under way."""
    counts: defaultdict[str, float] = defaultdict(float)

    def count(whose: str, said: dict[str, Any], *names: str) -> None:
        for name in names:
            counts[f"{whose} {name}"] += said[name] or 0

    for door in fetch(admin(gateway), "/api/flows"):
        count("door's", door, "queued", "queued_bytes", "inflight")
        for flow in door["flows"]:
            count("flows'", flow, "queued", "inflight", "oldest_wait")
    for seen in fetch(admin(gateway), "/api/endpoints"):
        count("endpoints'", seen, "inflight", "pending", "running", "waiting")
    samples = metrics(gateway)
    for name in ("inflight_requests", "queue_requests", "queue_bytes", "connections"):
        assert f"infer_gateway_{name}" in samples or name.startswith("queue"), name
        counts[name] += samples[f"infer_gateway_{name}"]
    for said in map(state, engines):
        count("engines'", {**said, **said["kv"]}, "running", "waiting", "used")
    return {name: number for name, number in counts.items() if number}


def leaves_nothing(gateway: InferGateway, *engines: InferGateway) -> None:
    assert eventually(lambda: not remains(gateway, engines)), remains(gateway, engines)


def succeeds_at_once(gateway: InferGateway, directory: Path) -> None:
    """A request finds room without waiting for it."""
    answer = raw.exchange(gateway.address, request("light", "x-request-id: fresh"))
    assert answer is not None
    assert good(answer)
    assert eventually(lambda: any(event["id"] == "fresh" for event in events(directory)))
    (event,) = [event for event in events(directory) if event["id"] == "fresh"]
    assert (event["queue_s"], event["attempts"]) == (0, 1)


def events(directory: Path) -> list[dict[str, Any]]:
    file = directory / "usage.jsonl"
    return [json.loads(line) for line in file.read_bytes().splitlines()] if file.exists() else []


@pytest.fixture
def engine() -> Iterator[InferGateway]:
    with simulate("vllm", "m", "--itl", "0.02") as running:
        yield running


# -- who is next ------------------------------------------------------------------------------------------------------


def test_a_flood_does_not_hold_up_another_tenant(tmp_path: Path) -> None:
    """Nothing says how many the engine runs at once: four, and a few wait inside it."""
    with simulate("vllm", "m", "--itl", "0.01", "--max-running", "4") as engine:
        with serve("-c", configured(tmp_path, [engine], enabled())) as gateway, Crowd(gateway) as crowd:
            wait_scraped(gateway)
            flood = [crowd.ask("heavy", max_tokens=20) for _ in range(60)]
            assert eventually(lambda: flows(gateway)["queued"] > 40)
            light = [crowd.ask("light", max_tokens=20) for _ in range(4)]
            assert all(good(asked.result()) for asked in light)
            served = {flow["tenant"]: flow["served"] for flow in flows(gateway)["flows"]}
            assert flows(gateway)["queued"] > 10
            assert all(good(asked.result()) for asked in flood)
            assert crowd.ended.index("light") < 25
            assert len(crowd.ended) - crowd.ended[::-1].index("light") < 40
            assert served["light"] < served["heavy"]
            door = flows(gateway)
            assert (door["released"], door["refused"]) == (64, 0)
        assert received([engine]) == [64]


def test_a_real_engine_shows_its_slots_and_serves_who_has_had_less(tmp_path: Path) -> None:
    with LlamaCpp(slots=2) as engine:
        llama = written(
            tmp_path,
            pool("m", [], kind="llamacpp", endpoints=[engine.url]).replace('"model": "m"', '"model": "tiny"'),
            settings(auth=AUTH, fairness=enabled()),
        )
        with serve("-c", llama) as gateway, Crowd(gateway) as crowd, ExitStack() as streams:
            wait_scraped(gateway)
            for _ in range(6):
                client = streams.enter_context(Client(gateway))
                client.socket.sendall(request("heavy", stream=True, max_tokens=8000, ignore_eos=True))
            assert eventually(lambda: flows(gateway)["slots"] == 2), flows(gateway)
            streams.close()
            assert eventually(lambda: engine.busy_slots() == 0)

            flood = [crowd.ask("heavy", max_tokens=500, ignore_eos=True) for _ in range(14)]
            assert waits(gateway, 12)
            assert engine.busy_slots() <= 2
            light = crowd.ask("light", max_tokens=120, ignore_eos=True)
            assert all(good(asked.result()) for asked in [light, *flood])
            assert crowd.ended.index("light") < 8
            assert eventually(lambda: (flows(gateway)["queued"], flows(gateway)["inflight"]) == (0, 0))
            assert eventually(lambda: engine.busy_slots() == 0)


# -- who goes ---------------------------------------------------------------------------------------------------------


def hang_up(client: Client, how: str) -> None:
    if how == "half-close":
        client.socket.shutdown(socket.SHUT_WR)
        return
    if how == "reset":
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.__exit__()


def test_who_hangs_up_while_it_waits_never_reaches_the_engine(tmp_path: Path, engine: InferGateway) -> None:
    file = configured(tmp_path, [engine], enabled(**ONE_AT_A_TIME), **USAGE)
    with serve("-c", file) as gateway, ExitStack() as stack:
        stack.enter_context(holding(gateway, engine))
        waiting = [stack.enter_context(Client(gateway)) for _ in range(6)]
        for number, client in enumerate(waiting):
            client.socket.sendall(request("light", stream=number % 2 == 0))
        assert waits(gateway, 6)
        samples = metrics(gateway)
        assert samples["infer_gateway_queue_requests"] == 6
        assert samples["infer_gateway_queue_bytes"] == flows(gateway)["queued_bytes"] > 0
        for client, how in zip(waiting, ("close", "half-close", "reset") * 2, strict=True):
            hang_up(client, how)
        assert waits(gateway, 0)
        assert flows(gateway)["queued_bytes"] == 0
        assert eventually(lambda: len(events(tmp_path)) == 6)
        gone = [(event["user"], event["status"], event["reason"], event["attempts"]) for event in events(tmp_path)]
        assert gone == [("light", 499, "client_gone", 0)] * 6
        stack.close()
        leaves_nothing(gateway, engine)
        assert received([engine]) == [1]
        succeeds_at_once(gateway, tmp_path)
        assert received([engine]) == [2]


# -- who is refused ---------------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_whoever_has_most_in_it(tmp_path: Path, engine: InferGateway) -> None:
    file = configured(tmp_path, [engine], enabled(maxQueued=3, **ONE_AT_A_TIME))
    with serve("-c", file) as gateway, Crowd(gateway) as crowd:
        with holding(gateway, engine):
            flood = []
            for number in range(3):
                flood.append(crowd.ask("heavy"))
                assert waits(gateway, number + 1)
            assert "the queue is full;" in refusal(crowd.ask("heavy", stream=True).result())
            light = crowd.ask("light")
            assert "you have more in it" in refusal(flood.pop().result())  # the last that came
            assert waits(gateway, 3)
            assert not any(asked.done() for asked in (*flood, light))
            assert "the queue is full;" in refusal(crowd.ask("heavy").result())
        assert all(good(asked.result()) for asked in (*flood, light))
        assert crowd.ended[-3:] == ["light", "heavy", "heavy"]
        assert flows(gateway)["refused"] == 3
        leaves_nothing(gateway, engine)


@pytest.mark.parametrize("limit", ["queueTimeout", "timeouts.request"])
def test_who_has_waited_too_long_is_told_so(tmp_path: Path, engine: InferGateway, limit: str) -> None:
    timeout = {"queueTimeout": "300ms"} if limit == "queueTimeout" else {}
    sections = {"timeouts": {"request": "300ms"}} if limit == "timeouts.request" else {}
    with serve("-c", configured(tmp_path, [engine], enabled(**ONE_AT_A_TIME, **timeout))) as gateway:
        with Crowd(gateway) as crowd, holding(gateway, engine):
            if sections:  # after the holder, which would be cut as well
                configured(tmp_path, [engine], enabled(**ONE_AT_A_TIME), **sections)
                assert reloaded(gateway)
            late = [crowd.ask("light", stream=stream) for stream in (False, True)]
            assert all("waited " in refusal(asked.result()) for asked in late)
            assert flows(gateway)["inflight"] == 1
        leaves_nothing(gateway, engine)
        assert received([engine]) == [1]


def test_whose_turn_would_come_too_late_is_told_at_once(tmp_path: Path, engine: InferGateway) -> None:
    """Once it shows how fast the queue moves."""
    file = configured(tmp_path, [engine], enabled(**ONE_AT_A_TIME))
    with serve("-c", file) as gateway, Crowd(gateway) as crowd:
        with ExitStack() as stack:
            for _ in range(60):
                client = stack.enter_context(Client(gateway))
                client.socket.sendall(request("heavy"))
            assert eventually(lambda: flows(gateway)["wait_s"] > 0)
            configured(tmp_path, [engine], enabled(queueTimeout="1s", **ONE_AT_A_TIME))
            assert reloaded(gateway)
            said = refusal(crowd.ask("heavy").result())
            assert "it might be your turn after" in said
            assert "1 s is the most" in said
            assert good(crowd.ask("light").result())  # whose turn it is
            assert flows(gateway)["queued"] > 15
        leaves_nothing(gateway, engine)


# -- what changes -----------------------------------------------------------------------------------------------------


def test_a_reload_loses_nobody_who_waits(tmp_path: Path, engine: InferGateway) -> None:
    def reload(count: int, fairness: object) -> None:
        configured(tmp_path, [engine], fairness, **USAGE)
        assert reloaded(gateway, count)

    file = configured(tmp_path, [engine], enabled(**ONE_AT_A_TIME), **USAGE)
    with serve("-c", file) as gateway, Crowd(gateway) as crowd:
        with holding(gateway, engine):
            first = [crowd.ask(CALLERS[number % 2], stream=number % 3 == 0) for number in range(6)]
            assert waits(gateway, 6)
            reload(1, enabled(windowSize="5m", **ONE_AT_A_TIME))
            assert (flows(gateway)["queued"], flows(gateway)["inflight"]) == (6, 1)
            reload(2, {"enabled": False})
            assert all(good(asked.result()) for asked in first)
            assert fetch(admin(gateway), "/api/flows") == []
            assert good(crowd.ask("light").result())

            reload(3, enabled(**ONE_AT_A_TIME))
            second = [crowd.ask(CALLERS[number % 2], max_tokens=40) for number in range(6)]
            assert waits(gateway, 5)  # what began without a permit has none
            reload(4, enabled(maxConcurrent=3))
            assert eventually(lambda: flows(gateway)["inflight"] == 3)
            assert all(good(asked.result()) for asked in second)
        leaves_nothing(gateway, engine)
        assert received([engine]) == [1 + 6 + 1 + 6]
        succeeds_at_once(gateway, tmp_path)


# -- what ends --------------------------------------------------------------------------------------------------------


def ready(gateway: InferGateway) -> int:
    answer = raw.exchange(admin(gateway), raw.get("/readyz", "connection: close"))
    assert answer is not None
    return answer.status


def test_who_waits_is_served_while_the_process_drains(tmp_path: Path, engine: InferGateway) -> None:
    with serve("-c", configured(tmp_path, [engine], enabled(**ONE_AT_A_TIME))) as gateway, Crowd(gateway) as crowd:
        with holding(gateway, engine):
            asked = [crowd.ask(CALLERS[number % 2], stream=number % 3 == 0) for number in range(6)]
            assert waits(gateway, 6)
            gateway.signal(signal.SIGTERM)
            assert eventually(lambda: ready(gateway) == 503)
            assert eventually(lambda: raw.refuses(gateway.address))
            assert flows(gateway)["queued"] == 6
        assert all(good(answer.result()) for answer in asked)
        assert gateway.wait() == 0


@pytest.mark.parametrize("how", ["after drainTimeout", "by a second signal"])
def test_who_still_waits_when_the_process_ends_is_told_so(tmp_path: Path, engine: InferGateway, how: str) -> None:
    timeout = "300ms" if how == "after drainTimeout" else "1m"
    file = configured(tmp_path, [engine], enabled(**ONE_AT_A_TIME), drainTimeout=timeout)
    with serve("-c", file) as gateway, Crowd(gateway) as crowd, holding(gateway, engine) as holder:
        asked = [crowd.ask("light", stream=stream) for stream in (False, True) * 3]
        assert waits(gateway, 6)
        gateway.signal(signal.SIGTERM)
        if how == "by a second signal":
            assert eventually(lambda: ready(gateway) == 503)
            gateway.signal(signal.SIGTERM)
        assert all("the gateway is stopping" in refusal(answer.result()) for answer in asked)
        assert b"the gateway is stopping" in holder.rest()
        assert gateway.wait() == 0
    assert received([engine]) == [1]


@pytest.mark.parametrize("left", [1, 0], ids=["another is there", "none is left"])
def test_an_engine_that_dies_takes_nobody_with_it(tmp_path: Path, left: int) -> None:
    engines = [simulate("vllm", "m", "--itl", "0.02", "--max-running", "2") for _ in range(1 + left)]
    with together(*engines):
        file = configured(tmp_path, engines, enabled(maxConcurrent=4 * len(engines)), **USAGE)
        with serve("-c", file) as gateway, Crowd(gateway) as crowd:
            wait_scraped(gateway)
            asked = [crowd.ask(CALLERS[number % 2], stream=number % 3 == 0) for number in range(30)]
            dying, *alive = engines
            assert eventually(lambda: flows(gateway)["queued"] > 10 and state(dying)["running"] == 2)
            dying.kill()
            answers = [answer.result() for answer in asked]
            whole = [good(answer) for answer in answers]
            if alive:  # what broke off in mid-stream is told, everything else went to the other
                assert whole.count(False) <= 2
            for answer in (answer for answer, ended in zip(answers, whole, strict=True) if not ended):
                _broken(answer, left)
            leaves_nothing(gateway, *alive)
            if alive:
                succeeds_at_once(gateway, tmp_path)
            else:
                assert "no_endpoints" in crowd.ask("light").result().body.decode()
                leaves_nothing(gateway)


def _broken(answer: raw.Answer, left: int) -> None:
    """A clean error: in the stream that had begun, or instead of an answer."""
    if answer.status == 200:
        assert answer.whole
        assert "error" in json.loads(raw.events(answer.body)[-1])
    else:
        assert not left
        refusal(answer, answer.status, "no_endpoints" if answer.status == 503 else "upstream_error")


# -- all of it at once ------------------------------------------------------------------------------------------------


class Whim:
    """One client: it stays to the end, or hangs up in some way at some moment."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self.id = f"whim-{seed}"
        self.who = chance.choice(CALLERS)
        self.stream = chance.random() < 0.6
        self.max_tokens = chance.randint(1, 25)
        self.patience = chance.choice([None, None, 0.001, 0.02, 0.1])
        self.tokens = chance.choice([0, 1, 3]) if self.stream and self.patience is None else 0
        self.how = chance.choice(["close", "half-close", "reset"])

    def run(self, gateway: InferGateway) -> str:
        """Its id; "" if it was gone so early that its request may never have been read."""
        with Client(gateway) as client:
            more = {"stream": self.stream, "max_tokens": self.max_tokens}
            client.socket.sendall(request(self.who, f"x-request-id: {self.id}", **more))
            try:
                if self.tokens:
                    self._read_some(client.reader)
                else:
                    client.socket.settimeout(self.patience or raw.DEADLINE_S)
                    answer = client.reader.answer()
                    assert answer is not None
                    assert good(answer), answer
                    return self.id
            except TimeoutError:
                assert self.patience is not None
            hang_up(client, self.how)
        return "" if self.patience else self.id

    def _read_some(self, reader: raw.Reader) -> None:
        head = reader.head()
        assert head is not None
        assert head[0] == 200
        if head[1].get("transfer-encoding") == "chunked":  # an answer that was whole at once is not
            for _ in range(self.tokens):
                reader.chunk()


@pytest.mark.parametrize("seed", [1, 2])
def test_whims_leave_nothing_behind(tmp_path: Path, seed: int) -> None:
    engines = [simulate("vllm", "m", "--itl", "0.004", "--max-running", "3") for _ in range(2)]
    with ExitStack() as stack:
        stack.enter_context(together(*engines))
        gateway = stack.enter_context(serve("-c", configured(tmp_path, engines, enabled(), **USAGE)))
        with Crowd(gateway, 32) as crowd:
            heard = crowd.each(lambda number: Whim(seed * 1000 + number).run(gateway), 300) - {""}
        leaves_nothing(gateway, *engines)
        assert eventually(lambda: heard <= {event["id"] for event in events(tmp_path)})
        assert len({event["id"] for event in events(tmp_path)}) == len(events(tmp_path))
        ends = Counter((event["status"], event["attempts"]) for event in events(tmp_path))
        assert ends.keys() == {(200, 1), (499, 0), (499, 1)}
        assert min(ends.values()) > 20
        assert (flows(gateway)["released"], flows(gateway)["refused"]) == (ends[200, 1] + ends[499, 1], 0)
        for said in map(state, engines):
            assert said["requests"] == said["finished"] + said["aborted"]
        succeeds_at_once(gateway, tmp_path)
