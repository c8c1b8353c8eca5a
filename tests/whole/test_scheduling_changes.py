"""Scheduling while things change: engines hang, restart and drain, sessions stay, a reload swaps the profile."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.schedule import registry
from tests.process import ANY_PORT, InferGateway, eventually, run, serve, simulate, together
from tests.whole import raw
from tests.whole.fleet import (
    WHY,
    Client,
    Tally,
    admin,
    candidate,
    decision,
    endpoints,
    named,
    pool,
    scoring,
    served_by,
    settings,
    state,
    text,
    wait_scraped,
    written,
)

LIVELY: dict[str, Any] = {"scraping": {"interval": "100ms"}, "health": {"hungAfter": "1s", "slowStart": "0s"}}
"""What changes is noticed soon, and what comes back gets its share at once."""


@pytest.fixture
def three() -> Iterator[list[InferGateway]]:
    engines = [simulate("vllm", "m") for _ in range(3)]
    with together(*engines):
        yield engines


# -- engines ---------------------------------------------------------------------------------------------------------


@contextmanager
def hanging(engine: InferGateway) -> Iterator[None]:
    """Its process stands still in the block: connections are still accepted, for the kernel does that."""
    engine.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        engine.signal(signal.SIGCONT)


def test_a_hung_engine_costs_the_others_nothing(tmp_path: Path, three: list[InferGateway]) -> None:
    sections = {**LIVELY, "scraping": {"interval": "100ms", "timeout": "5s"}}
    victim, *others = three
    hung = named(victim)
    with serve("-c", written(tmp_path, settings(**sections), pool("m", three))) as gateway, Client(gateway) as client:
        wait_scraped(gateway)
        with hanging(victim), ExitStack() as stack:
            clients = [stack.enter_context(Client(gateway)) for _ in range(12)]
            for number, asking in enumerate(clients):
                asking.send("m", text(f"{number}-stranded", 800), WHY, stream=True)
            ages: list[float | None] = []

            def noticed() -> bool:
                seen = endpoints(gateway)
                ages.extend(seen[named(engine)]["load_age_s"] for engine in others)
                return bool(seen[hung]["state"] == "hung")

            assert eventually(noticed)
            assert all(age is not None and age < 1.0 for age in ages), ages
            whys = [decision(asking.answer()) for asking in clients]
            moved = [why for why in whys if why["tried"][0] == hung]
            assert moved
            assert all(served_by(why) != hung for why in whys)
            placed = endpoints(gateway)[hung]["requests"]
            for number in range(40):
                client.ask("m", text(f"{number}-after", 400), stream=True)
            assert endpoints(gateway)[hung]["requests"] == placed
            assert eventually(lambda: endpoints(gateway)[hung]["load_age_s"] is None)
        assert eventually(lambda: served_by(client.why("m", "hi", stream=True)) == hung)
        assert eventually(lambda: endpoints(gateway)[hung]["state"] == "ready")


def test_an_engine_that_restarts_has_forgotten(tmp_path: Path) -> None:
    engines = [simulate("vllm", "m") for _ in range(2)]
    prompt = text("remembered", 4000)
    with ExitStack() as stack:
        stack.enter_context(together(*engines))
        config = written(tmp_path, settings(**LIVELY), pool("m", engines))
        gateway = stack.enter_context(serve("-c", config))
        client = stack.enter_context(Client(gateway))
        home = served_by(client.why("m", prompt, stream=True))
        again = client.why("m", prompt, stream=True)
        assert served_by(again) == home
        assert candidate(again, home)["hitTokens"] > 900
        (engine,) = [engine for engine in engines if named(engine) == home]
        engine.kill()
        assert served_by(client.why("m", prompt)) != home
        assert eventually(lambda: endpoints(gateway)[home]["state"] == "down")
        renewed = simulate("vllm", "m", "--port", home.rpartition(":")[2])
        stack.enter_context(renewed)
        assert eventually(lambda: endpoints(gateway)[home]["state"] == "ready")
        assert candidate(client.why("m", prompt), home)["hitTokens"] == 0
        fresh = iter(range(1000))
        assert eventually(lambda: served_by(client.why("m", text(f"{next(fresh)}-new", 400))) == home)
        assert state(renewed)["requests"] == 1


def profiles() -> dict[str, dict[str, object]]:
    """One of each plugin that needs no arguments."""
    every: dict[str, dict[str, object]] = {}
    for name, plugin in registry.BUILT_IN.items():
        if registry.offers(plugin, "scorer"):
            every[f"score-{name}"] = scoring(name)
        if registry.offers(plugin, "filter") and name not in ("prefill-filter", "encode-filter"):
            every[f"filter-{name}"] = {"plugins": {"Filter": {"enabled": [name]}}}
        if registry.offers(plugin, "picker"):
            every[f"pick-{name}"] = {"picker": name}
    return every


def test_a_draining_endpoint_gets_nothing_new_whatever_the_profile(tmp_path: Path) -> None:
    """Also where it holds the prompt and the session; what runs there finishes."""
    engines = [simulate("vllm", "m", "--itl", "0.002") for _ in range(3)]
    every, prompt, session = profiles(), text("held", 2000), "x-session-id: somebody"
    with ExitStack() as stack:
        stack.enter_context(together(*engines))
        servers = [pool(name, engines, schedulingProfile=name) for name in every]
        config = written(tmp_path, settings(scheduler={"profiles": every}), *servers)
        gateway = stack.enter_context(serve("-c", config))
        client = stack.enter_context(Client(gateway))
        homes = Counter(served_by(client.why(name, prompt, session)) for name in every)
        ((leaving, _),) = homes.most_common(1)
        engine = next(engine for engine in engines if named(engine) == leaving)
        running = [stack.enter_context(Client(gateway)) for _ in engines]
        for asking in running:
            asking.send("score-least-request", prompt, stream=True, max_tokens=500)
            assert asking.reader.head() is not None
        assert [state(engine)["running"] for engine in engines] == [1, 1, 1]
        drain = raw.post(f"/api/endpoints/{leaving}/drain", {}, "connection: close")
        drained = raw.exchange(admin(gateway), drain)
        assert drained is not None
        assert drained.status == 200
        with Tally([engine]) as tally:
            for name in every:
                for number in range(6):
                    client.ask(name, f"{prompt}{number}", session)
        assert tally.counts == [0]
        assert endpoints(gateway)[leaving]["state"] == "draining"
        for asking in running:
            assert b"[DONE]" in asking.rest()


# -- sessions --------------------------------------------------------------------------------------------------------

STICKY = {"sessionSticky": {"sources": [{"type": "Header", "name": "x-user"}, {"type": "Cookie", "name": "session"}]}}
BY_HEADER = {
    "pluginConfig": [{"name": "session-affinity", "args": {"sources": [{"type": "Header", "name": "x-user"}]}}],
    **scoring("session-affinity"),
}


@pytest.mark.parametrize(
    ("how", "field"), [("plugin", "x-user: {}"), ("sticky", "x-user: {}"), ("sticky", "cookie: a=b; session={}")]
)
def test_sessions_stay_when_other_endpoints_go_and_come(
    tmp_path: Path, three: list[InferGateway], how: str, field: str
) -> None:
    """Prompts have nothing to say: they are all different, and long."""
    spec: dict[str, Any] = {"schedulingProfile": "plugin"} if how == "plugin" else {"trafficPolicy": STICKY}
    head = settings(scheduler={"profiles": {"plugin": BY_HEADER}}, **LIVELY)
    sessions = range(30)

    def members(*engines: InferGateway) -> str:
        return written(tmp_path, head, pool("m", engines, **spec))

    with serve("-c", members(*three)) as gateway, Client(gateway) as client:

        def homes(turn: str) -> list[str]:
            """Where each session is served, which has to be one place."""
            found = []
            for session in sessions:
                asked = [(text(f"{turn}-{session}-{n}", 600), field.format(session)) for n in range(3)]
                (home,) = {served_by(client.why("m", *ask)) for ask in asked}
                found.append(home)
            return found

        def reloaded(count: int) -> bool:
            gateway.signal(signal.SIGHUP)
            return eventually(lambda: len(endpoints(gateway)) == count)

        before = homes("all")
        assert len(set(before)) == 3
        members(*three[1:])
        assert reloaded(2)
        fewer, gone = homes("two"), named(three[0])
        for was, now in zip(before, fewer, strict=True):
            assert now == was if was != gone else now != gone
        members(*three)
        assert reloaded(3)
        assert eventually(lambda: endpoints(gateway)[gone]["state"] == "ready")
        assert homes("again") == fewer


# -- configurations --------------------------------------------------------------------------------------------------

REFUSED = {
    "plugin": (
        settings(scheduler={"plugins": {"Score": {"enabled": [{"name": "prefix-cash"}]}}}),
        "$.scheduler.plugins.Score.enabled[0]",
        'no plugin "prefix-cash"; did you mean "prefix-cache"?',
    ),
    "argument": (
        settings(
            scheduler={"profiles": {"p": {"pluginConfig": [{"name": "prefix-cache", "args": {"blockSize": 64}}]}}}
        ),
        "$.scheduler.profiles.p.pluginConfig[0].args.blockSize",
        "unknown field",
    ),
    "value": (
        settings(scheduler={"pluginConfig": [{"name": "least-latency", "args": {"TTFTTPOTWeightFactor": 1.5}}]}),
        "$.scheduler.pluginConfig[0].args.TTFTTPOTWeightFactor",
        "expected",
    ),
    "a filter as a scorer": (
        settings(scheduler=scoring("healthy")),
        "$.scheduler.plugins.Score.enabled[0]",
        '"healthy" is no scorer',
    ),
    "profile": (
        settings(scheduler={"profiles": {"fast": {}}})
        + pool("m", [], schedulingProfile="fats", endpoints=["http://a:1"]),
        "$.spec.schedulingProfile",
        'no profile "fats" in the scheduler section; did you mean "fast"?',
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_exist_is_refused_with_its_path(tmp_path: Path, what: str) -> None:
    document, path, why = REFUSED[what]
    file = written(tmp_path, document)
    for done in (run("check", file), run("serve", "-c", file, *ANY_PORT)):
        said = done.stdout + done.stderr
        assert done.returncode == 1, said
        assert f"{path}: " in said
        assert why in said
        assert "gateway.yaml" in said
        assert "Traceback" not in said


@pytest.mark.parametrize("how", ["edit", "sighup"])
def test_a_reload_swaps_the_profile_and_drops_nothing(tmp_path: Path, how: str) -> None:
    engines = [simulate("vllm", "m", "--itl", "0.002") for _ in range(2)]
    with ExitStack() as stack:
        stack.enter_context(together(*engines))

        def configure(scorer: str) -> str:
            return written(tmp_path, settings(scheduler=scoring(scorer)), pool("m", engines))

        gateway = stack.enter_context(serve("-c", configure("random")))
        client = stack.enter_context(Client(gateway))
        swapped = threading.Event()

        def stream_on() -> None:
            """One stream after the other until the profile is another, each of them whole."""
            with Client(gateway) as streaming:
                while not swapped.is_set():
                    streaming.ask("m", "on and on", stream=True, max_tokens=200)

        streams = stack.enter_context(ThreadPoolExecutor(2))
        stack.callback(swapped.set)
        running = [streams.submit(stream_on) for _ in range(2)]

        def scorers() -> set[str]:
            return set(client.why("m", "hi", stream=True)["candidates"][0]["scores"])

        assert scorers() == {"random"}
        configure("prefix-cache")
        if how == "sighup":
            gateway.signal(signal.SIGHUP)
        assert eventually(lambda: scorers() == {"prefix-cache"})
        homes = {served_by(client.why("m", text("shared", 1000) + str(number))) for number in range(20)}
        assert len(homes) == 1
        swapped.set()
        for stream in running:
            stream.result()
