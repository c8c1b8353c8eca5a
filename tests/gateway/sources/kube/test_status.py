import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.verdict import Condition, Parent, Verdict
from gateway.sources.kube.client import ApiError, Unreachable
from gateway.sources.kube.conditions import Owner, kind_of
from gateway.sources.kube.status import StatusWriter
from tests.gateway.sources.kube.memory import Hook, Memory, nothing

ROUTE = ("networking.serving.volcano.sh/v1alpha1", "ModelRoute")
SERVER = ("networking.serving.volcano.sh/v1alpha1", "ModelServer")
HTTP_ROUTE = ("gateway.networking.k8s.io/v1", "HTTPRoute")
Key = tuple[str, str, str, str]


def play(main: Callable[[], Awaitable[None]]) -> None:
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def accepted(name: str = "x", status: Any = "True", kind: tuple[str, str] = ROUTE, message: str = "") -> Verdict:
    return Verdict(*kind, "ns", name, "u1", 1, (Condition("Accepted", status, "Because", message),))


def ready(count: int, name: str = "x") -> Verdict:
    conditions = (Condition("Accepted", "True", "Accepted"), Condition("Ready", "True", "Ready", f"{count} pods"))
    return Verdict(*ROUTE, "ns", name, "u1", 1, conditions)


def place(verdict: Verdict) -> str:
    kind = kind_of(verdict)
    assert kind is not None
    return kind.path(verdict.namespace, verdict.name)


class Cluster:
    """A server, a cache of its objects that lags behind by ``lag`` seconds, and a writer that reads from the cache."""

    def __init__(self, lag: float = 0.05) -> None:
        self.server = Memory()
        self.lag = lag
        self.cache: dict[str, dict[str, Any]] = {}
        self.leads = True
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.writer = StatusWriter(
            self.server,
            self.observed,
            lambda: self.leads,
            Owner("us"),
            said=lambda verdict, before: self.heard.append((verdict.name, before)),
        )
        self.keys: dict[str, Key] = {}

    def observed(self, key: Key) -> dict[str, Any] | None:
        return self.cache.get(place(Verdict(*key, "", 0)))

    def create(self, *verdicts: Verdict, status: Any = None) -> None:
        for verdict in verdicts:
            tree: dict[str, Any] = {"metadata": {"uid": verdict.uid, "generation": 1}}
            self.server.put(place(verdict), tree if status is None else {**tree, "status": status})
            self.cache[place(verdict)] = self.server.objects[place(verdict)]
            self.keys[place(verdict)] = verdict.key

    async def watch(self) -> None:
        told: dict[str, dict[str, Any]] = dict(self.cache)
        while True:
            await self.server.changed.wait()
            self.server.changed = trio.Event()
            await trio.sleep(self.lag)
            for path, key in self.keys.items():
                tree = self.server.objects.get(path)
                if tree is None:
                    self.cache.pop(path, None)
                elif told.get(path) is not tree:
                    told[path] = self.cache[path] = tree
                    self.writer.look(key)

    def says(self, verdict: Verdict) -> list[dict[str, Any]]:
        conditions: list[dict[str, Any]] = self.server.objects[place(verdict)].get("status", {}).get("conditions", [])
        return [{key: c[key] for key in ("type", "status", "message")} for c in conditions]

    def agrees(self, verdict: Verdict) -> bool:
        return self.says(verdict) == [
            {"type": c.type, "status": c.status, "message": c.message} for c in verdict.conditions
        ]


@contextlib.asynccontextmanager
async def running(cluster: Cluster) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cluster.watch)
        nursery.start_soon(cluster.writer.run)
        yield
        nursery.cancel_scope.cancel()


def failing(*failures: Exception | None) -> Hook:
    """The first writes fail like that, None does not; what follows is answered."""
    left = list(failures)

    async def hook(method: str, path: str) -> None:
        failure = left.pop(0) if left and method != "GET" else None
        if failure is not None:
            raise failure

    return hook


def test_only_what_changes_is_written() -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.create(accepted())
        async with running(cluster):
            for _ in range(50):
                cluster.writer.put([accepted()])
                await trio.sleep(0.03)
            assert len(cluster.server.writes) == 1
            cluster.writer.put([accepted(status="False")])
            await trio.sleep(1)
            assert len(cluster.server.writes) == 2
            assert cluster.agrees(accepted(status="False"))
        again = Cluster()
        again.server, again.cache = cluster.server, cluster.cache
        async with running(again):
            again.writer.put([accepted(status="False")])
            await trio.sleep(60)
            assert len(cluster.server.writes) == 2

    play(main)


def test_nobody_writes_but_who_leads_and_who_begins_to_writes_the_latest() -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.create(accepted())
        cluster.leads = False
        async with running(cluster):
            for status in ("True", "False", "Unknown"):
                cluster.writer.put([accepted(status=status)])
                await trio.sleep(5)
            assert cluster.server.writes == []
            cluster.leads = True
            cluster.writer.wake()
            await trio.sleep(1)
            assert len(cluster.server.writes) == 1
            assert cluster.agrees(accepted(status="Unknown"))

    play(main)


def test_readiness_that_flaps_is_damped_and_what_matters_is_not() -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.create(ready(0))
        async with running(cluster):
            for step in range(600):
                cluster.writer.put([ready(step % 2)])
                await trio.sleep(0.1)
            assert 8 <= len(cluster.server.writes) <= 14
            cluster.writer.put([accepted(status="False", message="at once")])
            await trio.sleep(0.6)
            assert cluster.agrees(accepted(status="False", message="at once"))

    play(main)


def test_many_are_written_at_a_bounded_rate() -> None:
    async def main() -> None:
        cluster = Cluster()
        verdicts = [accepted(f"r{index}") for index in range(300)]
        cluster.create(*verdicts)
        async with running(cluster):
            cluster.writer.put(verdicts)
            await trio.sleep(10)
            assert 100 <= len(cluster.server.writes) <= 30 + 20 * 10 + 1
            await trio.sleep(20)
            assert all(cluster.agrees(verdict) for verdict in verdicts)
            assert len(cluster.server.writes) == 300

    play(main)


def test_what_the_schema_drops_is_written_once() -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.server.keeps = set()
        cluster.create(accepted())
        async with running(cluster):
            for _ in range(100):
                cluster.writer.put([accepted()])
                cluster.writer.look(accepted().key)
                await trio.sleep(6)
            assert len(cluster.server.writes) == 1
            cluster.writer.put([accepted(status="False")])
            await trio.sleep(6)
            assert len(cluster.server.writes) == 2

    play(main)


def test_a_watch_that_lags_costs_no_writes() -> None:
    async def main() -> None:
        cluster = Cluster(lag=60)
        cluster.create(accepted())
        async with running(cluster):
            for status in ("True", "True", "False", "False", "True"):
                cluster.writer.put([accepted(status=status)])
                await trio.sleep(10)
                assert cluster.agrees(accepted(status=status))
            await trio.sleep(200)
            assert len(cluster.server.writes) == 3

    play(main)


def test_what_somebody_undoes_is_written_again_ever_more_slowly() -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.create(accepted())
        undone = 0
        async with running(cluster):
            cluster.writer.put([accepted()])
            for _ in range(3600):
                await trio.sleep(1)
                path = place(accepted())
                if cluster.server.objects[path].get("status"):
                    undone += 1
                    cluster.server.put(path, {"metadata": {"uid": "u1", "generation": 1}})
        assert 8 <= undone <= 20

    play(main)


@pytest.mark.parametrize(
    "failure",
    [
        ApiError(409, "Conflict"),
        ApiError(429, "TooManyRequests", retry_after=3.0),
        ApiError(500),
        ApiError(503),
        ApiError(401),
        Unreachable("reset"),
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_fails_for_a_while_is_written_afterwards(failure: Exception, when: str) -> None:
    async def main() -> None:
        cluster = Cluster()
        verdicts = [accepted(name) for name in "abc"]
        cluster.create(*verdicts)
        setattr(cluster.server, when, failing(*[failure] * 4))
        async with running(cluster):
            cluster.writer.put(verdicts)
            await trio.sleep(60)
            assert all(cluster.agrees(verdict) for verdict in verdicts)
            assert len(cluster.server.writes) <= 7

    play(main)


def test_retry_after_is_obeyed() -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.create(accepted("a"), accepted("b"))
        cluster.server.after = failing(ApiError(429, "TooManyRequests", retry_after=20.0))
        async with running(cluster):
            cluster.writer.put([accepted("a"), accepted("b")])
            await trio.sleep(19)
            assert len(cluster.server.calls) == 1
            await trio.sleep(2)
            assert len(cluster.server.calls) >= 2

    play(main)


def test_one_that_always_fails_keeps_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        cluster = Cluster()
        verdicts = [accepted("bad"), *(accepted(f"r{index}") for index in range(50))]
        cluster.create(*verdicts)
        cluster.server.before = bad
        async with running(cluster):
            cluster.writer.put(verdicts)
            await trio.sleep(20)
            assert all(cluster.agrees(verdict) for verdict in verdicts[1:])
            await trio.sleep(3600)
            assert cluster.writer.statistics().failed <= 140

    async def bad(method: str, path: str) -> None:
        if "/bad/" in path:
            raise ApiError(500, "InternalError", "a webhook is broken")

    play(main)


@pytest.mark.parametrize("failure", [ApiError(409, "Conflict", "apply your changes"), ApiError(500, "", "a webhook")])
def test_one_that_always_fails_is_told_once_with_its_name(failure: ApiError, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.create(accepted("bad"), accepted("good"))
        cluster.server.before = bad
        async with running(cluster):
            cluster.writer.put([accepted("bad"), accepted("good")])
            await trio.sleep(600)
            assert cluster.agrees(accepted("good"))

    async def bad(method: str, path: str) -> None:
        if "/bad/" in path:
            raise failure

    play(main)
    told = [line for line in caplog.messages if "bad" in line]
    kind, namespace, name = accepted("bad").key[1:]
    assert told == [f"the status of {kind} {namespace}/{name} is not written, and tried again now and then: {failure}"]


def test_an_outage_keeps_the_latest() -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.create(accepted())
        cluster.server.before = away
        async with running(cluster):
            for status in ("True", "False", "Unknown"):
                cluster.writer.put([accepted(status=status)])
                await trio.sleep(200)
            assert cluster.server.calls == []
            cluster.server.before = nothing
            await trio.sleep(31)
            assert cluster.agrees(accepted(status="Unknown"))
            assert len(cluster.server.calls) == 1
            cluster.server.before = failing(Unreachable("reset"))
            cluster.writer.put([accepted(status="True")])
            await trio.sleep(1.1)  # one that is new is not paid for by the one before
            assert cluster.agrees(accepted(status="True"))

    async def away(method: str, path: str) -> None:
        raise Unreachable("connection refused")

    play(main)


def test_one_that_has_gone_is_dropped() -> None:
    async def main() -> None:
        cluster = Cluster(lag=30)
        cluster.create(accepted())
        del cluster.server.objects[place(accepted())]
        async with running(cluster):
            cluster.writer.put([accepted()])
            await trio.sleep(600)
            assert [method for method, *_ in cluster.server.calls] == ["PATCH", "GET"]
            assert cluster.writer.statistics().objects == 0

    play(main)


def test_a_kind_without_a_status_subresource_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        cluster = Cluster()
        routes = [accepted(f"r{index}") for index in range(30)]
        server = accepted("s", kind=SERVER)
        cluster.create(*routes, server)
        cluster.server.bare = {place(route) for route in routes}
        async with running(cluster):
            cluster.writer.put([*routes, server])
            await trio.sleep(500)
            assert cluster.agrees(server)
            assert len(cluster.server.writes) == 2
            assert cluster.writer.statistics().quiet == ("modelroutes.networking.serving.volcano.sh",)
            assert len(cluster.heard) == 31
            cluster.server.bare = set()
            await trio.sleep(200)
            assert all(cluster.agrees(route) for route in routes)

    with caplog.at_level(logging.WARNING, "infer_gateway.kubernetes"):
        play(main)
    assert caplog.messages == [
        "no status is written for modelroutes.networking.serving.volcano.sh: "
        "the CustomResourceDefinition has no status subresource"
    ]


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (
            ApiError(403, "Forbidden", "no"),
            "needs patch on modelroutes/status of networking.serving.volcano.sh, in namespace ns",
        ),
        (
            ApiError(422, "Invalid", "status.conditions: wrong"),
            "is not taken by their schema: status.conditions: wrong",
        ),
        (
            ApiError(500, "", "failed to create typed patch object: .status.conditions: field not declared in schema"),
            "is not taken by their schema",
        ),
    ],
)
def test_what_is_refused_for_good_is_not_asked_again_and_said_once(
    failure: ApiError, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        cluster = Cluster()
        routes = [accepted(f"r{index}") for index in range(5)]
        cluster.create(*routes)
        cluster.server.before = refuse
        async with running(cluster):
            for _ in range(500):
                cluster.writer.put(routes)
                await trio.sleep(1)
            assert 1 <= cluster.writer.statistics().failed <= 5

    async def refuse(method: str, path: str) -> None:
        raise failure

    with caplog.at_level(logging.WARNING, "infer_gateway.kubernetes"):
        play(main)
    assert len(caplog.messages) == 1
    assert said in caplog.messages[0]


def test_what_is_forbidden_in_one_namespace_is_written_in_others() -> None:
    async def main() -> None:
        cluster = Cluster()
        condition = Condition("Accepted", "True", "Accepted")
        here, there = (Verdict(*ROUTE, space, "x", "u1", 1, (condition,)) for space in ("ns", "other"))
        cluster.create(here, there)
        cluster.server.before = forbid
        async with running(cluster):
            cluster.writer.put([here, there])
            await trio.sleep(5)
            assert not cluster.agrees(here)
            assert cluster.agrees(there)

    async def forbid(method: str, path: str) -> None:
        if "/ns/" in path:
            raise ApiError(403, "Forbidden", "no")

    play(main)


def shared(*names: str) -> Verdict:
    parents = tuple(Parent({"name": name}, (Condition("Accepted", "True", "Accepted"),)) for name in names)
    return Verdict(*HTTP_ROUTE, "ns", "x", "u1", 1, parents=parents)


def test_a_list_that_others_write_too_loses_nothing_of_theirs() -> None:
    async def main() -> None:
        cluster = Cluster(lag=0.5)
        route, path = shared("g"), place(shared("g"))
        cluster.create(route)
        async with running(cluster):
            for turn in range(20):
                cluster.writer.put([shared("g", f"g{turn}")])
                await trio.sleep(0.2)
                tree = cluster.server.objects[path]
                theirs = {"controllerName": "them", "parentRef": {"name": f"t{turn}"}, "conditions": []}
                cluster.server.put(
                    path, {**tree, "status": {"parents": [*tree.get("status", {}).get("parents", []), theirs]}}
                )
            await trio.sleep(60)
            parents = cluster.server.objects[path]["status"]["parents"]
            assert [e["parentRef"]["name"] for e in parents if e["controllerName"] == "them"] == [
                f"t{n}" for n in range(20)
            ]
            assert [e["parentRef"]["name"] for e in parents if e["controllerName"] == "us"] == ["g", "g19"]
            cluster.writer.put([shared()])
            await trio.sleep(60)
            assert {e["controllerName"] for e in cluster.server.objects[path]["status"]["parents"]} == {"them"}

    play(main)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), trouble=st.floats(0.0, 0.8), lag=st.floats(0.01, 3.0))
def test_in_the_end_every_object_says_what_it_should_and_nothing_more_is_written(
    seed: int, trouble: float, lag: float
) -> None:
    rng = random.Random(seed)

    async def fail(method: str, path: str) -> None:
        await trio.sleep(rng.uniform(0.0, 0.3))
        if rng.random() < trouble:
            status = rng.choice([0, 401, 409, 429, 500])
            if not status:
                raise Unreachable("reset")
            raise ApiError(status, "", "", rng.choice([None, 2.0]))

    async def main() -> None:
        cluster = Cluster(lag)
        names = "abcde"
        cluster.create(*(accepted(name) for name in names))
        cluster.server.before = cluster.server.after = fail
        latest: dict[str, Verdict] = {}
        async with running(cluster):
            for _ in range(60):
                name = rng.choice(names)
                latest[name] = rng.choice(
                    [accepted(name, rng.choice(["True", "False"])), ready(rng.randrange(3), name)]
                )
                cluster.writer.put([latest[name]])
                if rng.random() < 0.1:
                    cluster.leads = not cluster.leads
                    cluster.writer.wake()
                await trio.sleep(rng.uniform(0.0, 2.0))
            cluster.server.before = cluster.server.after = nothing
            cluster.leads = True
            cluster.writer.wake()
            await trio.sleep(700)
            assert all(cluster.agrees(verdict) for verdict in latest.values())
            calls = len(cluster.server.calls)
            cluster.writer.put(latest.values())
            await trio.sleep(700)
            assert len(cluster.server.calls) == calls

    play(main)
