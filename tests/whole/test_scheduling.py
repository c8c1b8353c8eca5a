"""Where requests go: the published plugins one by one, the built-in profile, and why, as a client is told."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from textwrap import indent

import pytest

from tests.process import InferGateway, eventually, serve, simulate, together
from tests.whole.fleet import (
    Client,
    Tally,
    admin,
    candidate,
    decision,
    endpoints,
    fetch,
    generating,
    named,
    pool,
    scoring,
    settings,
    text,
    written,
)

MOST = 0.9
"""The share of requests that a published plugin has to bring where it says."""


@pytest.fixture(scope="module")
def three() -> Iterator[list[InferGateway]]:
    """Engines with little room, of which the last one has a LoRA."""
    small = ("--itl", "0.004", "--max-running", "4", "--kv-blocks", "512")
    engines = [simulate("vllm", "m", *small, *more) for more in ((), (), ("--lora", "sql"))]
    with together(*engines):
        yield engines


def published(section: str, scheduler: str) -> str:
    """The scheduler section as earlier products keep it: YAML in a ConfigMap."""
    head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: router-config}\ndata:\n"
    return f"{head}  {section}: |-\n    scheduler:\n{indent(scheduler, '      ')}\n---\n"


def spread(gateway: InferGateway, engines: list[InferGateway], count: int, prompt: str, model: str = "m") -> Tally:
    """One request after the other, each beginning with ``prompt``."""
    with Client(gateway) as client, Tally(engines) as tally:
        for number in range(count):
            client.ask(model, f"{prompt} {number}")
    assert sum(tally.counts) == count
    return tally


def told(gateway: InferGateway, engines: list[InferGateway], what: str) -> list[float]:
    """What each engine last said of itself, of those that have said something."""
    seen = endpoints(gateway)
    return [value for engine in engines if (value := seen[named(engine)][what]) is not None]


# -- the published plugins -------------------------------------------------------------------------------------------


def test_prefix_cache_brings_one_prefix_to_one_endpoint(tmp_path: Path, three: list[InferGateway]) -> None:
    config = """\
pluginConfig:
- {name: prefix-cache, args: {blockSizeToHash: 64, maxBlocksToMatch: 128, maxHashCacheSize: 50000}}
plugins:
  Score: {enabled: [{name: prefix-cache, weight: 1}]}
"""
    with serve("-c", written(tmp_path, published("routerConfiguration", config), pool("m", three))) as gateway:
        tally = spread(gateway, three, 200, text("shared", 2000))
    assert max(tally.counts) == 200


def test_least_request_avoids_queues_that_others_filled(tmp_path: Path, three: list[InferGateway]) -> None:
    """Only scraping can know: nothing of it went through this gateway."""
    config = """\
pluginConfig:
- {name: least-request, args: {maxWaitingRequests: 3}}
plugins:
  Filter: {enabled: [least-request], disabled: [lora-affinity]}
  Score: {enabled: [{name: least-request, weight: 1}]}
"""
    first, idle, last = three
    with (
        serve("-c", written(tmp_path, published("routerConfiguration", config), pool("m", three))) as gateway,
        generating(first, 8, running=4),
        generating(last, 8, running=4),
    ):
        assert eventually(lambda: told(gateway, three, "waiting") == [4, 0, 4])
        assert spread(gateway, three, 200, "hi").share(idle) >= MOST


@pytest.mark.parametrize("name", ["gpu-usage", "kv-cache"])
def test_kv_usage_brings_requests_where_there_is_room(tmp_path: Path, three: list[InferGateway], name: str) -> None:
    config = f"plugins:\n  Score: {{enabled: [{{name: {name}, weight: 1}}]}}\n"
    first, second, idle = three
    with (
        serve("-c", written(tmp_path, published("gatewayConfiguration", config), pool("m", three))) as gateway,
        generating(first, 1, running=1, prompt=text("full", 9_000)),
        generating(second, 1, running=1, prompt=text("full", 6_000)),
    ):
        assert eventually(lambda: [usage > 0.15 for usage in told(gateway, three, "kv_usage")] == [True, True, False])
        assert spread(gateway, three, 200, "hi").share(idle) >= MOST


def test_least_latency_goes_by_what_engines_measured(tmp_path: Path) -> None:
    """The slow ones have been slow to others: their histograms tell."""
    slow, fast, late = (
        simulate("vllm", "m", "--ttft", "0.1", "--itl", "0.02"),
        simulate("vllm", "m", "--ttft", "0.001", "--itl", "0.001"),
        simulate("vllm", "m", "--ttft", "0.15", "--itl", "0.001"),
    )
    engines = [slow, fast, late]
    config = """\
pluginConfig:
- {name: least-latency, args: {TTFTTPOTWeightFactor: 0.7}}
plugins:
  Score: {enabled: [{name: least-latency, weight: 1}]}
"""
    with (
        together(*engines),
        serve("-c", written(tmp_path, published("schedulerConfiguration", config), pool("m", engines))) as gateway,
        ExitStack() as stack,
    ):
        assert eventually(lambda: len(told(gateway, engines, "running")) == 3)
        warming = [stack.enter_context(Client(engine)) for engine in engines for _ in range(3)]
        for client in warming:
            client.send("m", "warm", stream=True, max_tokens=4)
        for client in warming:
            client.answer()
        asking = stack.enter_context(Client(gateway))

        def known() -> bool:
            scores = [seen["score"] for seen in asking.why("m", "hi")["candidates"]]
            return 0.5 not in scores and len(set(scores)) == 3

        assert eventually(known)
        assert spread(gateway, engines, 200, "hi").share(fast) >= MOST


def test_lora_affinity_leaves_those_that_have_it(tmp_path: Path, three: list[InferGateway]) -> None:
    config = """\
plugins:
  Filter: {enabled: [lora-affinity]}
  Score: {enabled: [{name: random, weight: 1}]}
"""
    servers = pool("m", three, loras=["sql"])
    with serve("-c", written(tmp_path, published("routerConfiguration", config), servers)) as gateway:
        assert spread(gateway, three, 100, "hi", model="sql").counts == [0, 0, 100]
        assert 0 not in spread(gateway, three, 100, "hi").counts


def test_random_gives_each_its_part(tmp_path: Path, three: list[InferGateway]) -> None:
    """Twice the published number of requests: by chance it fails once in a million times."""
    file = written(tmp_path, settings(scheduler=scoring("random")), pool("m", three))
    with serve("-c", file) as gateway:
        tally = spread(gateway, three, 600, text("shared", 500))
    assert all(0.23 <= tally.share(engine) <= 0.43 for engine in three), tally.counts


# -- at once ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def four() -> Iterator[list[InferGateway]]:
    """Engines that take a quarter of a second to compute 4 KB, and as long again to say so."""
    engines = [simulate("vllm", "m", "--prefill-rate", "4000", "--ttft", "0.25") for _ in range(4)]
    with together(*engines):
        yield engines


@pytest.mark.parametrize(("model", "most"), [("prefix", 1), ("cost", 2)])
def test_identical_cold_prompts_meet(tmp_path: Path, four: list[InferGateway], model: str, most: int) -> None:
    """Prefixes are learned at dispatch. Who goes by cost might spread where waiting costs more than computing again;
    waiting for the same text to be computed never does, up to an error of the estimate.
    """
    profiles = {"prefix": scoring("prefix-cache"), "cost": {}}
    servers = [pool(name, four, schedulingProfile=name) for name in profiles]
    prompt = text(f"cold-{model}", 4200)
    with (
        serve("-c", written(tmp_path, settings(scheduler={"profiles": profiles}), *servers)) as gateway,
        ExitStack() as stack,
        Tally(four) as tally,
    ):
        clients = [stack.enter_context(Client(gateway)) for _ in range(50)]
        for client in clients:
            client.send(model, prompt, stream=True)
        for client in clients:
            client.answer()
    assert sum(tally.counts) == 50
    assert sum(count > 0 for count in tally.counts) <= most, tally.counts


def test_a_slow_engine_of_three_gets_less(tmp_path: Path) -> None:
    """It computes prompts at a quarter of the others' rate, and nobody has told the gateway.

    Of two clients neither needs it; left to what is idle, it would get a fifth.
    """
    engines = [simulate("vllm", "m", "--prefill-rate", rate) for rate in ("24000", "24000", "6000")]
    with together(*engines), serve("-c", written(tmp_path, pool("m", engines))) as gateway, Tally(engines) as tally:

        def work(worker: int) -> None:
            with Client(gateway) as client:
                for number in range(60):
                    client.ask("m", text(f"{worker}-{number}", 1500), stream=True)

        with ThreadPoolExecutor(2) as workers:
            list(workers.map(work, range(2)))
    *fast, slow = engines
    assert sum(tally.counts) == 120
    assert tally.share(slow) < 0.1, tally.counts
    assert all(tally.share(engine) > 0.33 for engine in fast), tally.counts


# -- engines that say nothing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["default", "counting"])
@pytest.mark.parametrize(
    ("kind", "options"), [("openai", ()), ("sglang", ("--fail", "404@path=/metrics"))], ids=["openai", "sglang"]
)
def test_without_metrics_requests_in_flight_are_balanced(
    tmp_path: Path, kind: str, options: tuple[str, ...], profile: str
) -> None:
    engines = [simulate(kind, "m", "--itl", "0.02", *options) for _ in range(3)]
    scheduler = {"profiles": {"counting": scoring("least-request")}}
    with (
        together(*engines),
        serve(
            "-c",
            written(
                tmp_path,
                settings(scheduler=scheduler),
                pool("m", engines, kind=kind, schedulingProfile=profile),
            ),
        ) as gateway,
        ExitStack() as stack,
        Tally(engines) as tally,
    ):
        for number in range(12):
            client = stack.enter_context(Client(gateway))
            client.send("m", text(f"{number}-long", 800), stream=True, max_tokens=1000)
            assert client.reader.head() is not None
            assert client.reader.chunk()
        seen = endpoints(gateway)
        assert [seen[named(engine)]["inflight"] for engine in engines] == [4, 4, 4]
        assert all(shown["load_age_s"] is None and shown["state"] == "ready" for shown in seen.values())
    assert tally.counts == [4, 4, 4]


# -- why -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [True, False])
def test_a_decision_says_where_and_why(tmp_path: Path, three: list[InferGateway], streamed: bool) -> None:
    prompt = text(f"explained-{streamed}", 4000)
    with serve("-c", written(tmp_path, pool("m", three))) as gateway, Client(gateway) as client:
        home, hits = "", []
        for number in range(3):
            with Tally(three) as tally:
                answer = client.ask("m", f"{prompt}{number}", "x-debug-schedule: 1", stream=streamed)
            why = decision(answer)
            (served,) = [engine for engine in three if tally.share(engine) == 1.0]
            assert why["tried"] == [named(served)]
            assert candidate(why, named(served))["score"] == max(seen["score"] for seen in why["candidates"])
            assert {seen["endpoint"] for seen in why["candidates"]} == {named(engine) for engine in three}
            assert (why["model"], why["id"]) == ("m", answer.headers["x-request-id"])
            assert 900 < why["promptTokens"] < 1100
            home = home or named(served)
            hits.append(candidate(why, home)["hitTokens"])
            (kept,) = fetch(admin(gateway), f"/api/decisions?id={why['id']}")
            assert kept["ttftSeconds"] is not None
            assert {**kept, "ttftSeconds": why["ttftSeconds"]} == why
    assert hits[0] == 0
    assert hits[1] > 900
    assert hits[2] > 900


def test_who_does_not_ask_is_not_told(tmp_path: Path, three: list[InferGateway]) -> None:
    with serve("-c", written(tmp_path, pool("m", three))) as gateway, Client(gateway) as client:
        assert "x-schedule-decision" not in client.ask("m", "hi").headers
        assert "x-schedule-decision" not in client.ask("m", "hi", "x-debug-schedule: 0").headers
        assert "x-schedule-decision" in client.ask("m", "hi", "x-debug-schedule: 1").headers


def test_who_may_not_ask_is_not_told(tmp_path: Path, three: list[InferGateway]) -> None:
    """Nor does an engine hear of it, or answer in the gateway's place."""
    file = written(tmp_path, settings(scheduler={"debugHeader": False}), pool("m", three))
    with serve("-c", file) as gateway, Client(gateway) as client:
        for streamed in (True, False):
            answer = client.ask("m", "hi", "x-debug-schedule: 1", stream=streamed)
            assert "x-schedule-decision" not in answer.headers
        assert fetch(admin(gateway), "/api/decisions")


# -- profiles by name ------------------------------------------------------------------------------------------------


def test_servers_choose_profiles(tmp_path: Path, three: list[InferGateway]) -> None:
    scheduler = {**scoring("least-request"), "profiles": {"sticky": scoring("prefix-cache", "random")}}
    servers = pool("plain", three), pool("kept", three, schedulingProfile="sticky")
    with serve("-c", written(tmp_path, settings(scheduler=scheduler), *servers)) as gateway, Client(gateway) as client:
        for model, profile, names in (
            ("plain", "default", {"least-request"}),
            ("kept", "sticky", {"prefix-cache", "random"}),
        ):
            why = client.why(model, "hi")
            assert why["profile"] == profile
            assert why["candidates"][0]["scores"].keys() == names


PICKER = """
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: queue-scorer}
- {type: kv-cache-utilization-scorer}
- {type: prefix-cache-scorer, name: prefixes, parameters: {blockSizeTokens: 64, lruCapacityPerServer: 1000}}
- {type: max-score-picker}
- {type: random-picker, name: any}
schedulingProfiles:
- name: default
  plugins: [{pluginRef: queue-scorer, weight: 2}, {pluginRef: prefixes, weight: 3}, {pluginRef: max-score-picker}]
- name: roomy
  plugins: [{pluginRef: kv-cache-utilization-scorer}, {pluginRef: any}]
---
"""


def test_the_reference_pickers_file(tmp_path: Path, three: list[InferGateway]) -> None:
    """Its default profile goes by queues and prefixes, its other one is there to be named."""
    servers = pool("m", three), pool("roomy", three, schedulingProfile="roomy")
    first, _, last = three
    with serve("-c", written(tmp_path, PICKER, *servers)) as gateway, ExitStack() as stack:
        client = stack.enter_context(Client(gateway))
        assert client.why("m", "hi")["candidates"][0]["scores"].keys() == {"queue-scorer", "prefixes"}
        roomy = client.why("roomy", "hi")
        assert (roomy["profile"], roomy["candidates"][0]["scores"].keys()) == ("roomy", {"kv-cache-utilization-scorer"})
        for engine in (first, last):
            stack.enter_context(generating(engine, 8, running=4))
        assert eventually(lambda: told(gateway, three, "waiting") == [4, 0, 4])
        assert spread(gateway, three, 100, text("shared", 1000)).counts == [0, 100, 0]
