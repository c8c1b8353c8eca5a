"""The cases by which endpoint pickers of the Gateway API are held to each other, with our scheduler behind them.

Pods are (waiting, KV usage, LoRAs in use); the profile is queue, KV usage, prefix cache and LoRA affinity, all alike.
"""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from adapters.vllm import VLLM
from gateway.config.document import parse
from gateway.config.load import load
from gateway.config.snapshot import PoolSpec
from gateway.core import Gateway
from gateway.directives import Directives
from gateway.meter import Record, Totals
from gateway.observe import Observers
from gateway.picker_door import Picker
from gateway.pools import Pools
from gateway.route import RouteTable, Target
from gateway.schedule.build import for_pool
from gateway.schedule.profile import Profile
from gateway.types import ANONYMOUS, Endpoint, InferenceRequest, Load
from protocols.extproc.serve import ExternalProcessor
from tests.gateway.scripted import FakeTransport
from tests.protocols.extproc.fakes import played
from tests.protocols.extproc.proxy import DESTINATION, Proxy, body, heads, hint
from tests.protocols.extproc.test_exchanges import assert_refused, assert_routed, headers, prompt

Pod = tuple[float, float, str]
POOL = "default/vllm-llama3-8b-instruct"
SCORERS = ("queue-scorer", "kv-cache-utilization-scorer", "prefix-cache-scorer", "lora-affinity-scorer")
CONFIGURATION = {
    "apiVersion": "llm-d.ai/v1alpha1",
    "kind": "EndpointPickerConfig",
    "plugins": [*({"type": name} for name in SCORERS), {"type": "max-score-picker"}],
    "schedulingProfiles": [
        {"name": "default", "plugins": [*({"pluginRef": name} for name in SCORERS), {"pluginRef": "max-score-picker"}]}
    ],
}


def beside(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    spec["poolRef"] = {"name": POOL.partition("/")[2]}
    return {"apiVersion": "llm-d.ai/v1alpha2", "kind": kind, "metadata": {"name": name}, "spec": spec}


RULE = {
    "matches": [{"model": {"type": "Exact", "value": "model-to-be-rewritten"}}],
    "targets": [{"modelRewrite": "rewritten-model"}],
}
OBJECTS = [
    CONFIGURATION,
    *(beside("InferenceObjective", name, priority=2) for name in ("sql-lora", "my-model", "direct-model")),
    beside("InferenceObjective", "sql-lora-sheddable", priority=-1),
    beside("InferenceModelRewrite", "rewrite", rules=[RULE]),
]
CONFIGURED = load(parse("f.yaml", "\n---\n".join(map(json.dumps, OBJECTS)).encode()), kubernetes=True)


def loras(text: str) -> frozenset[str]:
    return frozenset(text.split())


class Stage:
    """A picker of an InferencePool of these pods, and the proxy that asks it."""

    def __init__(self, *pods: Pod, pool: str | None = POOL) -> None:
        self.records: list[Record] = []
        self.rewrites: list[tuple[str, str, str]] = []
        rng = random.Random(1)

        def profile(spec: PoolSpec, old: Profile | None) -> Profile:
            return for_pool(CONFIGURED.settings.scheduler, spec, rng, old)

        self.pools = Pools({"vllm": VLLM()}, profile, rng)
        members = tuple(Endpoint("vllm", "http", f"192.168.1.{n}", 8000) for n in range(1, len(pods) + 1))
        self.pools.apply([PoolSpec(POOL, "vllm", members, bare=True)])
        for member, (waiting, kv_usage, used) in zip(self.pools[POOL].members, pods, strict=True):
            member.up = True
            told = Load(trio.current_time(), waiting, 0.0, kv_usage, loras=loras(used), max_loras=2)
            self.pools.loaded(member.endpoint, told)
        self.observer = Observers(Totals(), self.records.append)
        self.observer.rewrote = lambda *told: self.rewrites.append(told)
        self.gateway = Gateway(
            self.pools,
            FakeTransport({}),
            self.route,
            observer=self.observer,
        )
        self.gateway.directives = Directives(CONFIGURED.objectives, CONFIGURED.rewrites)
        self.core: Any = SimpleNamespace(
            gateway=self.gateway, known=lambda *_: ANONYMOUS, identify=None, refused=lambda *_: None
        )
        self.service = ExternalProcessor(Picker(self.core, 0, pool))

    def route(self, request: InferenceRequest) -> Target:
        return RouteTable().match(request.model, request.path, request.headers, 0.0)

    async def play(self, *said: Any) -> Proxy:
        return await played(self.service, Proxy(), *said)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


T, G = "sql-lora-1fdg2", "sql-lora-1fdg3"
LEAST = ((3, 0.2, ""), (0, 0.1, ""), (10, 0.2, ""))


@pytest.mark.parametrize(
    ("pods", "objective", "target", "best"),
    [
        (LEAST, "my-model", "my-model-12345", 2),
        (((0, 0.2, "foo bar"), (0, 0.1, f"foo {T}"), (10, 0.2, "foo bar")), "sql-lora", T, 2),
        (((10, 0.2, "foo bar"), (10, 0.4, f"foo {T}"), (10, 0.3, "foo")), "sql-lora", T, 2),
        (((6, 0.2, f"foo bar {G}"), (0, 0.85, "foo"), (10, 0.9, "foo")), "direct-model", G, 1),
        (((4, 0.2, "foo bar direct-model"), (4, 0.85, "direct-model")), "direct-model", "direct-model", 1),
    ],
    ids=["lower queue and KV usage", "active LoRA", "LoRA despite KV usage", "not shed", "no objective"],
)
def test_the_best_pod_is_picked(pods: Sequence[Pod], objective: str, target: str, best: int) -> None:
    async def scenario() -> None:
        proxy = await Stage(*pods).play(headers(objective, target), body("request_body", prompt("m"), True))
        assert_routed(proxy, f"192.168.1.{best}:8000", prompt(target))

    run(scenario)


@pytest.mark.parametrize("pool", [POOL, None])
def test_a_model_is_rewritten_as_its_object_says_and_counted(pool: str | None) -> None:
    async def scenario() -> None:
        stage = Stage((0, 0.1, "rewritten-model"), (10, 0.4, ""), pool=pool)
        said = headers(target=""), body("request_body", prompt("model-to-be-rewritten"), True)
        assert_routed(await stage.play(*said), "192.168.1.1:8000", prompt("rewritten-model"))
        assert stage.rewrites == [("default/rewrite", "model-to-be-rewritten", "rewritten-model")]
        assert [(record.model, record.pool) for record in stage.records] == [("model-to-be-rewritten", POOL)]

    run(scenario)


def test_a_rewrite_wins_over_the_header_that_asks_for_another() -> None:
    async def scenario() -> None:
        said = headers(target="something-else"), body("request_body", prompt("model-to-be-rewritten"), True)
        assert_routed(await Stage(*LEAST).play(*said), "192.168.1.2:8000", prompt("rewritten-model"))

    run(scenario)


def test_what_may_be_shed_is_refused_once_pods_are_full() -> None:
    async def scenario() -> None:
        said = headers("sql-lora-sheddable", ""), body("request_body", prompt("m"), True)
        assert_routed(await Stage(*LEAST).play(*said), "192.168.1.2:8000", prompt("m"))
        text = "inference error: ResourceExhausted - system saturated, sheddable request dropped"
        full = Stage((6, 0.2, ""), (10, 0.9, ""))
        assert_refused(await full.play(*said), 429, text, "rejected-saturated")
        assert_routed(
            await full.play(headers("my-model", ""), body("request_body", prompt("m"), True)),
            "192.168.1.1:8000",
            prompt("m"),
        )

    run(scenario)


def test_no_pod_at_all() -> None:
    async def scenario() -> None:
        get = heads("request_headers", [("hi", "mom")], end=True)
        text = "inference error: Internal - no pods available in datastore"
        assert_refused(await Stage().play(get), 500, text, "rejected-no-endpoints")
        post = headers(), body("request_body", prompt("m"), True)
        text = "inference error: ServiceUnavailable - failed to find endpoint candidates"
        assert_refused(await Stage().play(*post), 503, text, "rejected-no-endpoints")
        assert_refused(await Stage(*LEAST, pool="ns/to-come").play(*post), 503, text, "rejected-no-endpoints")

    run(scenario)


@pytest.mark.parametrize(
    ("subset", "best"),
    [
        (["192.168.1.1:8000", "192.168.1.2:8000", "192.168.1.3:8000"], 2),
        (["192.168.1.3:8000"], 3),
        ("192.168.1.1:8000,192.168.1.3", 1),
        (["192.168.1.99:8000"], 0),
        (["192.168.1.2:8001"], 0),
    ],
)
@pytest.mark.parametrize("pool", [POOL, None])
def test_subsets(subset: Any, best: int, pool: str | None) -> None:
    async def scenario() -> None:
        last = hint(body("request_body", prompt("m"), True), subset)
        proxy = await Stage(*LEAST, pool=pool).play(headers(subset=subset), last)
        if best:
            assert_routed(proxy, f"192.168.1.{best}:8000", prompt("my-model-12345"))
        else:
            text = "inference error: ServiceUnavailable - failed to find endpoint candidates for serving the request"
            assert_refused(proxy, 503, text, "rejected-no-endpoints")

    run(scenario)


@pytest.mark.parametrize("pool", [POOL, None])
def test_simple_get_goes_to_any_pod(pool: str | None) -> None:
    async def scenario() -> None:
        fields = [("hi", "mom"), ("x-request-id", "test-request-id")]
        proxy = await Stage(*LEAST, pool=pool).play(heads("request_headers", fields, end=True))
        assert proxy.order == ["request_headers"]
        (destination,) = [value for name, value in proxy.headers if name == DESTINATION]
        assert destination in {b"192.168.1.1:8000", b"192.168.1.2:8000", b"192.168.1.3:8000"}
        assert not [value for name, value in proxy.headers if name == "content-length"]

    run(scenario)


def test_where_no_pool_is_meant_that_is_said() -> None:
    async def scenario() -> None:
        stage = Stage(*LEAST, pool=None)
        two = [
            PoolSpec(name, "vllm", (Endpoint("vllm", "http", f"10.0.0.{n}", 1),), bare=True)
            for n, name in enumerate("ab")
        ]
        stage.pools.apply(two)
        proxy = await stage.play(headers(target=""), body("request_body", prompt("m"), True))
        assert_refused(proxy, 404, "inference error: NotFound - The model `m` could be of several pools (a, b)")

    run(scenario)
