"""Reflectors, requests and credentials against the fake API server: lists, watches, and all its troubles."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from gateway.sources.kube import access
from gateway.sources.kube.access import Access
from gateway.sources.kube.client import ApiError, Client
from gateway.sources.kube.kinds import MODEL_ROUTE, POD, SECRET, Kind
from gateway.sources.kube.messages import Key
from gateway.sources.kube.outage import Outage
from gateway.sources.kube.reflector import Reflector
from tests.kube.cluster import Cluster, pod
from tests.process import eventually

Tree = dict[str, Any]


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(running: Cluster) -> Iterator[Cluster]:
    yield running
    running.outage(False)
    running.heal()
    running.deny()
    running.forget_requests()
    for each in running.list("v1", "Pod"):
        running.delete(each)


class Mirror:
    """What was told of pods, and a way to wait for it."""

    def __init__(self, client: Client, kind: Kind = POD, **options: Any) -> None:
        self.names: dict[str, str] = {}
        self.removed: list[str] = []
        self.changed = trio.Event()
        told = self._upsert, self._remove, self._tell
        self.reflector = Reflector(
            client, kind, decode, *told, outage=Outage(client.access.server), rng=random.Random(1), **options
        )

    def _upsert(self, key: Key, version: str) -> None:
        self.names[key[1]] = version
        self._tell()

    def _remove(self, key: Key) -> None:
        del self.names[key[1]]
        self.removed.append(key[1])
        self._tell()

    def _tell(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def until(self, *names: str) -> None:
        while set(self.names) != set(names):
            await self.changed.wait()


def decode(raw: msgspec.Raw) -> str:
    return str(msgspec.json.decode(raw)["metadata"]["resourceVersion"])


def follow(kubeconfig: Path, scenario: Callable[[Mirror], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        with trio.fail_after(60):
            async with Client(await Access.find(str(kubeconfig))) as client, trio.open_nursery() as nursery:
                mirror = Mirror(client, **options)
                nursery.start_soon(mirror.reflector.run)
                await mirror.reflector.wait_synced()
                await scenario(mirror)
                nursery.cancel_scope.cancel()

    trio.run(main)


async def ordered(what: Callable[..., object], *args: Any, **given: Any) -> Any:
    """A test's own request, in a thread."""
    return await trio.to_thread.run_sync(lambda: what(*args, **given))


def test_pods_by_label_in_parts_and_as_they_come(cluster: Cluster) -> None:
    cluster.create(*(pod(f"p{number}", "127.0.0.2", {"app": "a"}) for number in range(7)))
    cluster.create(pod("other", "127.0.0.2", {"app": "b"}))

    async def scenario(mirror: Mirror) -> None:
        names = [f"p{number}" for number in range(7)]
        await mirror.until(*names)
        await ordered(cluster.create, pod("new", "127.0.0.3", {"app": "a"}))
        await mirror.until("new", *names)
        await ordered(cluster.patch, pod("p0", "", {}), {"metadata": {"labels": {"app": "b"}}})
        await mirror.until("new", *names[1:])
        assert mirror.removed == ["p0"]
        lists = await ordered(cluster.requests, "list", "pods")
        assert [request["query"]["limit"] for request in lists] == ["3", "3", "3"]

    follow(cluster.kubeconfig, scenario, label_selector="app=a", namespace="default", page=3)


@pytest.mark.parametrize("mode", ["close", "reset", "truncate", "garbage", "huge", "gone", "error"])
def test_a_watch_that_breaks(mode: str, cluster: Cluster) -> None:
    cluster.create(pod("a", "127.0.0.2", {}), pod("b", "127.0.0.2", {}))

    async def scenario(mirror: Mirror) -> None:
        assert await ordered(cluster.watched, "pods")
        await ordered(cluster.streams, mode, **({"bytes": 17 << 20} if mode == "huge" else {}))
        await ordered(cluster.create, pod("c", "127.0.0.2", {}))
        await mirror.until("a", "b", "c")
        assert not mirror.removed
        assert mirror.reflector.statistics().lists == (2 if mode == "gone" else 1)

    follow(cluster.kubeconfig, scenario)


def test_a_watch_that_stalls(cluster: Cluster) -> None:
    cluster.create(pod("a", "127.0.0.2", {}))

    async def scenario(mirror: Mirror) -> None:
        assert await ordered(cluster.watched, "pods")
        await ordered(cluster.streams, "bookmark")
        await ordered(eventually, lambda: mirror.reflector.statistics().events > 0)
        await ordered(cluster.streams, "stall")
        await ordered(cluster.create, pod("b", "127.0.0.2", {}))
        await mirror.until("a", "b")
        assert mirror.reflector.statistics().lists == 1

    follow(cluster.kubeconfig, scenario, silence=1.0)


def test_an_outage_in_which_history_is_forgotten(cluster: Cluster) -> None:
    cluster.create(pod("a", "127.0.0.2", {}), pod("b", "127.0.0.2", {}))

    async def scenario(mirror: Mirror) -> None:
        assert await ordered(cluster.watched, "pods")
        before = mirror.names["a"]
        await ordered(cluster.outage)
        await ordered(eventually, lambda: mirror.reflector.statistics().state == "broken")
        assert set(mirror.names) == {"a", "b"}
        await ordered(cluster.delete, pod("b", "", {}))
        await ordered(cluster.create, pod("c", "127.0.0.2", {}))
        await ordered(cluster.compact)
        await ordered(cluster.outage, False)
        mirror.reflector.hurry()
        await mirror.until("a", "c")
        assert mirror.removed == ["b"]
        assert mirror.names["a"] == before

    follow(cluster.kubeconfig, scenario)


def test_absent_and_forbidden_kinds(cluster: Cluster) -> None:
    async def absent(mirror: Mirror) -> None:
        assert mirror.reflector.statistics().state == "absent"

    async def forbidden(mirror: Mirror) -> None:
        assert mirror.reflector.statistics().state == "forbidden"
        await ordered(cluster.deny)
        mirror.reflector.hurry()
        assert await ordered(eventually, lambda: mirror.reflector.statistics().state == "live")

    follow(cluster.kubeconfig, absent, kind=Kind("example.org", "v1", "things", "Thing"))
    cluster.deny("list:secrets")
    follow(cluster.kubeconfig, forbidden, kind=SECRET)


def test_refusals_in_the_servers_words(cluster: Cluster) -> None:
    async def main() -> None:
        async with Client(await Access.find(str(cluster.kubeconfig))) as client:
            with pytest.raises(ApiError) as caught:
                await client.request("GET", POD.path("default", "none"))
            assert (caught.value.status, caught.value.reason) == (404, "NotFound")
            cluster.fail("list", "pods", status=429, retry_after=7)
            with pytest.raises(ApiError) as caught:
                await client.request("GET", POD.path())
            assert (caught.value.status, caught.value.retry_after) == (429, 7.0)

    trio.run(main)


@pytest.mark.parametrize("way", ["token", "token-file", "exec", "certificate"])
def test_ways_in(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_RENEWAL_S", 0.0)
    with Cluster(tls=True) as cluster:
        kubeconfig = cluster.kubeconfig_by(way)

        async def scenario(mirror: Mirror) -> None:
            await ordered(cluster.create, pod("a", "127.0.0.2", {}))
            await mirror.until("a")
            if way in ("token-file", "exec"):
                cluster.token_file().write_text("another")
                await ordered(cluster.accept_tokens, "another")
                await ordered(cluster.streams, "close")
                await ordered(cluster.create, pod("b", "127.0.0.2", {}))
                await mirror.until("a", "b")
            codes = {each["code"] for each in await ordered(cluster.requests)}
            assert codes <= {200, 401}

        follow(kubeconfig, scenario)


def test_a_pods_service_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_RENEWAL_S", 0.0)
    with Cluster(tls=True) as cluster:
        for name, value in cluster.in_cluster.items():
            monkeypatch.setenv(name, value)
        folder = cluster.service_account("team-a")

        async def main() -> None:
            here = await Access.find(account=str(folder))
            assert here.namespace == "team-a"
            async with Client(here) as client:
                await client.request("GET", MODEL_ROUTE.path())
                (folder / "token").write_text("another")
                await ordered(cluster.accept_tokens, "another")
                await client.request("GET", MODEL_ROUTE.path())

        trio.run(main)
