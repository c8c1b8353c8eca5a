"""What is counted of requests, after whatever befell them: metrics, usage events, the access log and the accounts of
limits say the same of the same requests, to the last one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread
from typing import Any

import grpc
import pytest

from gateway.outcome import is_error
from protocols.grpc.generated.upb import inference as pb
from tests.faults.clients import PREFIX
from tests.faults.stage import admin, at_rest
from tests.process import InferGateway, eventually, serve, simulate, together
from tests.whole import raw
from tests.whole.fleet import CHAT, POOL, settings, written

WHO = ("ann", "bob", "calm")
FAULTS = (
    [], ["503@p=0.3"], ["cut:3@p=0.4"], ["error-event:2@p=0.4"], ["error-event:0@p=0.4"], ["refuse@p=0.4"],
    ["rubbish:sse@p=0.3"], ["rubbish@p=0.3"], ["slow:0.2@p=0.3"], ["429:1@p=0.3"], ["400@p=0.3"],
)  # fmt: skip
ENOUGH = {"requestsPerMonth": 10**4, "totalTokensPerMonth": 10**5}
"""Nobody comes to it, and in a few seconds next to nothing leaks away."""
Told = list[dict[str, Any]]


def key(who: str) -> str:
    return f"sk-{who}-0123456789"


def configured(directory: Path, engines: list[InferGateway], calm: InferGateway, *, fairness: bool = True) -> str:
    """``calm`` asks for a model of its own, which nothing happens to."""
    pools = []
    for name, serving in (("m", engines), ("calm", [calm])):
        server = {"model": "m", "inferenceEngine": "vLLM", "endpoints": [engine.url for engine in serving]}
        route = {"modelName": name, "hedging": True, "rules": [{"targetModels": [{"modelServerName": name}]}]}
        pools.append(POOL.format(name=name, server=json.dumps(server), route=json.dumps(route)))
    keys = [
        {"name": who, "keySha256": hashlib.sha256(key(who).encode()).hexdigest(), "tenant": f"of-{who}", "tier": "gold"}
        for who in WHO
    ]
    limits = [{"match": {"user": "*"}, **ENOUGH}, {"match": {"user": "bob"}, "concurrentRequests": 3}]
    sections = settings(
        auth={"apiKeys": keys}, limits=limits, usage={"file": "usage.jsonl"}, health={"ejection": {"maxShare": 0}},
        fairness={"enabled": fairness, "maxConcurrent": 6, "queueTimeout": "500ms", "maxQueued": 8},
        accessLog={"requests": "all", "file": "access.jsonl"}, hedging={"budget": 1, "minDelay": "20ms"},
    )  # fmt: skip
    return written(directory, *pools, sections)


# -- who asks ---------------------------------------------------------------------------------------------------------


class Asker:
    """One client of some kind, who stays or not. ``calm`` always does."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self.who = chance.choice([*WHO, "mallory"])
        self.model = "calm" if self.who == "calm" else chance.choice(["m", "m", "m", "m", "nobody's"])
        self.kind = chance.choice(["chat", "prompts", "messages", "embeddings", "rpc"])
        self.stream = chance.random() < 0.5 and self.kind != "embeddings"
        self.patience = None if self.who == "calm" else chance.choice([None, None, None, 0.002, 0.02, 0.1])
        self.prompt = "word " * chance.choice([1, 20, 200])
        self.most = chance.choice([1, 6, 20])

    def ask(self, gateway: InferGateway) -> None:
        with contextlib.suppress(TimeoutError, grpc.RpcError):
            self._call(gateway) if self.kind == "rpc" else self._post(gateway)

    def _post(self, gateway: InferGateway) -> None:
        turns = {"messages": [{"role": "user", "content": self.prompt}], "max_tokens": self.most, "stream": self.stream}
        path, body = {
            "chat": (CHAT, turns),
            "messages": ("/v1/messages", turns),
            "prompts": ("/v1/completions", {"prompt": [self.prompt] * 3, **turns}),
            "embeddings": ("/v1/embeddings", {"input": self.prompt}),
        }[self.kind]
        with raw.connect(gateway.address) as connection, raw.Reader(connection) as reader:
            connection.sendall(raw.post(path, {"model": self.model, **body}, f"authorization: Bearer {key(self.who)}"))
            connection.settimeout(self.patience or raw.DEADLINE_S)
            answer = reader.answer()
            assert answer is not None

    def _call(self, gateway: InferGateway) -> None:
        name = "StreamChatCompletion" if self.stream else "CreateChatCompletion"
        asked: Any = pb.CreateChatCompletionRequest(
            model=self.model, messages=[pb.ChatMessage(role="user", text=self.prompt)], max_tokens=self.most
        )
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        with grpc.insecure_channel(gateway.ready["grpc"], options=options) as channel:
            start: Any = (channel.unary_stream if self.stream else channel.unary_unary)(
                PREFIX + name,
                request_serializer=lambda it: it.SerializeToString(),
                response_deserializer=getattr(pb, f"{name}Response").FromString,
            )
            asked = pb.StreamChatCompletionRequest(request=asked) if self.stream else asked
            got = start(
                asked, timeout=self.patience or raw.DEADLINE_S, metadata=[("authorization", f"Bearer {key(self.who)}")]
            )
            assert not self.stream or list(got)


@contextlib.contextmanager
def trouble(directory: Path, gateway: InferGateway, engines: list[InferGateway], calm: InferGateway) -> Iterator[None]:
    """Engines fail in other ways all the time, one is killed, and fairness goes and comes by reloads. Scrapes meanwhile
    are consistent in themselves.
    """
    over, wrong, chance = Event(), [], random.Random(1)

    def make() -> None:
        number = 0
        try:
            while not over.wait(0.1):
                number += 1
                strike(chance.choice(engines[:2]), *chance.choice(FAULTS))
                consistent(samples(gateway))
                if number == 5:
                    engines[2].kill()
                if number % 4 == 0:
                    configured(directory, engines, calm, fairness=number % 8 == 0)
                    gateway.signal(signal.SIGHUP)
        except Exception as error:  # noqa: BLE001 — told below
            wrong.append(error)

    thread = Thread(target=make)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not wrong, wrong


def strike(engine: InferGateway, *faults: str) -> None:
    answer = raw.exchange(engine.address, raw.post("/sim/fail", {"fail": faults}, "connection: close"))
    assert answer is not None
    assert answer.status == 200


# -- what is told -----------------------------------------------------------------------------------------------------

Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]


def samples(gateway: InferGateway) -> Samples:
    answer = raw.exchange(admin(gateway), raw.get("/metrics", "connection: close"))
    assert answer is not None
    found: Samples = {}
    for name, labels, value in re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", answer.body.decode(), re.MULTILINE):
        found.setdefault(name, {})[tuple(re.findall(r'(\w+)="([^"]*)"', labels))] = float(value)
    return found


def by(found: Samples, name: str, *labels: str, **only: str) -> dict[tuple[str, ...], float]:
    """Sums of what is above 0."""
    sums: Counter[tuple[str, ...]] = Counter()
    for given, value in found.get(name, {}).items():
        known = dict(given)
        if only.items() <= known.items():
            sums[tuple(known[label] for label in labels)] += value  # type: ignore[assignment]
    return {which: value for which, value in sums.items() if value}


def consistent(found: Samples) -> None:
    """Buckets of histograms rise to their counts."""
    for name, buckets in found.items():
        if name.endswith("_bucket"):
            last: dict[object, float] = {}
            for labels, value in buckets.items():
                whose = tuple(label for label in labels if label[0] != "le")
                assert value >= last.get(whose, 0.0), (name, labels)
                last[whose] = value
            assert last == found[f"{name.removesuffix('_bucket')}_count"], name


def summed(
    told: Told, which: Callable[[dict[str, Any]], tuple[str, ...]], of: str = ""
) -> dict[tuple[str, ...], float]:
    sums: Counter[tuple[str, ...]] = Counter()
    for event in told:
        sums[which(event)] += event["tokens"][of] if of else 1
    return {each: value for each, value in sums.items() if value}


def read(file: Path) -> Told:
    return [json.loads(line) for line in file.read_bytes().splitlines()] if file.exists() else []


def charged(event: dict[str, Any]) -> bool:
    """Whether an engine has done something for it: answered, or its client would not wait."""
    left = event["status"] == 499 or (event["status"] == 504 and event["protocol"] == "grpc")
    return any(event["tokens"].values()) or event["status"] == 200 or (left and event["attempts"] > 0)


def counted_alike(found: Samples, told: Told, lines: Told) -> None:
    """Of all requests but those of strangers, who are in no usage event."""

    def flow(event: dict[str, Any]) -> tuple[str, ...]:
        return event["model"] or "unknown", event["pool"], event["operation"], event["protocol"]

    flows = ("model", "pool", "operation", "protocol")
    known = {event["id"] for event in told}
    assert len(known) == len(told)
    assert known == {line["id"] for line in lines if line["status"] != 401}
    strangers = [line for line in lines if line["status"] == 401]
    assert by(found, "infer_gateway_requests_total", "code", "reason") == summed(
        lines, lambda line: (str(line["status"]), line.get("reason", ""))
    )
    assert by(found, "infer_gateway_auth_refusals_total") == ({(): len(strangers)} if strangers else {})
    for direction in ("input", "output"):
        tokens = by(found, "infer_gateway_tokens_total", *flows, direction=direction)
        assert tokens == summed(told, flow, direction)
        shares = by(found, "infer_gateway_tenant_tokens_total", "tenant", direction=direction)
        assert shares == summed(told, lambda event: (event["tenant"],), direction)
        short = "tokens_in" if direction == "input" else "tokens_out"
        assert sum(line.get(short, 0) for line in lines) == sum(tokens.values())
    timed = [event for event in told if event["ttft_s"] is not None]
    assert by(found, "infer_gateway_time_to_first_token_seconds_count", *flows) == summed(timed, flow)
    waited = [event for event in told if event["queue_s"] is not None and event["pool"]]
    assert by(found, "infer_gateway_queue_wait_seconds_count", "pool") == summed(waited, lambda e: (e["pool"],))


def attempts_and_refusals_alike(found: Samples, told: Told, lines: Told) -> None:
    assert sum(by(found, "infer_gateway_attempts_total").values()) == sum(event["attempts"] for event in told)
    failed = Counter(tuple(failure) for line in lines for failure in line.get("failures", ()))
    outcomes = by(found, "infer_gateway_attempts_total", "endpoint", "outcome")
    assert {each: n for each, n in outcomes.items() if each[1] not in ("ok", "cancelled")} == dict(failed)
    led = [event for event in told if event["pool"]]
    assert by(found, "infer_gateway_route_requests_total", "pool", "outcome") == summed(led, _ended)
    refused = {
        "rate_limited": "infer_gateway_limit_refusals_total",
        "overloaded": "infer_gateway_admission_refusals_total",
    }
    for reason, name in refused.items():
        whys = Counter((line["why"],) for line in lines if line.get("reason") == reason and line.get("why"))
        assert by(found, name, "limit" if reason == "rate_limited" else "why") == whys
    for gauge in ("requests_in_flight", "streams", "inflight_requests", "queue_requests", "queue_bytes"):
        assert not by(found, f"infer_gateway_{gauge}")


def _ended(event: dict[str, Any]) -> tuple[str, ...]:
    broken = is_error(event["status"], event["reason"])
    return event["pool"], "ok" if not event["reason"] else "failed" if broken else "refused"


def account(gateway: InferGateway, who: str) -> tuple[int, int, int]:
    """Requests and tokens that somebody's account holds, a last request not counted, and the tokens of that one."""
    body = {"input": "hi", "model": "calm"}
    request = raw.post("/v1/embeddings", body, f"authorization: Bearer {key(who)}", "connection: close")
    left = []
    for _ in range(2):
        answer = raw.exchange(gateway.address, request)
        assert answer is not None
        assert answer.status == 200
        left.append([int(answer.headers[f"x-ratelimit-remaining-{what}"]) for what in ("requests", "tokens")])
    own = left[0][1] - left[1][1]
    return 10**4 - left[0][0] - 1, 10**5 - left[0][1] - own, own


@pytest.mark.parametrize("seed", [1])
def test_all_that_is_counted_is_counted_alike(tmp_path: Path, seed: int) -> None:
    engines = [simulate("vllm", "m", "--itl", "0.004", "--max-running", "4", "--seed", str(n)) for n in range(4)]
    with ExitStack() as stack:
        stack.enter_context(together(*engines))
        *engines, calm = engines
        gateway = stack.enter_context(serve("-c", configured(tmp_path, engines, calm)))
        askers = [Asker(seed * 10_000 + number) for number in range(250)]
        with trouble(tmp_path, gateway, engines, calm), ThreadPoolExecutor(20) as pool:
            list(pool.map(lambda asker: asker.ask(gateway), askers))
        at_rest(gateway)
        found = samples(gateway)
        total = sum(by(found, "infer_gateway_requests_total").values())
        assert eventually(lambda: len(read(tmp_path / "access.jsonl")) == total)
        strangers = sum(by(found, "infer_gateway_auth_refusals_total").values())
        assert eventually(lambda: len(read(tmp_path / "usage.jsonl")) == total - strangers)
        told, lines = read(tmp_path / "usage.jsonl"), read(tmp_path / "access.jsonl")
        consistent(found)
        counted_alike(found, told, lines)
        attempts_and_refusals_alike(found, told, lines)
        for who in WHO:
            requests, tokens, _ = account(gateway, who)
            mine = [event for event in told if event["user"] == who]
            assert requests == sum(map(charged, mine)), who
            used = sum(event["tokens"]["input"] + event["tokens"]["output"] for event in mine)
            assert tokens == pytest.approx(used, abs=5) if who == "calm" else tokens >= used - 5
