"""The cluster as a source of configuration, against the fake API server: nothing it says gets lost on its way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest
import trio

from gateway.config.cluster import Part
from gateway.config.settings import Settings
from gateway.kubernetes import Cluster as Source
from gateway.sources.kube.options import Options
from tests.kube.cluster import Cluster, model_route

Applied = Callable[[Part], Awaitable[None]]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


class Following:
    """A source, and the parts it was about to put in force; ``before`` is awaited with each."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.parts: list[Part] = []
        self.before: Applied | None = None
        self.news = trio.Event()

    async def applied(self, part: Part) -> None:
        self.parts.append(part)
        self.news.set()
        self.news = trio.Event()
        if self.before is not None:
            await self.before(part)

    async def until(self, holds: Callable[[Part], bool]) -> Part:
        while not (self.parts and holds(self.parts[-1])):
            await self.news.wait()
        return self.parts[-1]


def follow(cluster: Cluster, scenario: Callable[[Following], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(60):
            following = Following(await Source.find(Options(kubeconfig=str(cluster.kubeconfig))))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(following.source.run, following.applied, lambda: None)
                await following.source.wait_synced()
                await scenario(following)
                nursery.cancel_scope.cancel()

    trio.run(main)


async def ordered(what: Callable[..., object], *args: Any) -> None:
    await trio.to_thread.run_sync(partial(what, *args))


def routes(part: Part) -> list[str]:
    return [route.name for route in part.routes]


def test_what_could_not_be_put_in_force_is_put_in_force_later(cluster: Cluster) -> None:
    async def scenario(following: Following) -> None:
        async def fail_once(part: Part) -> None:
            following.before = None
            raise OSError("no")

        following.before = fail_once
        await ordered(cluster.create, model_route("r", "m", "nowhere"))
        part = await following.until(lambda part: len(following.parts) > 2)
        assert routes(part) == ["default/r"]
        assert following.parts[-2] is part

    follow(cluster, scenario)


def test_a_reload_takes_along_what_is_being_put_in_force(cluster: Cluster) -> None:
    async def scenario(following: Following) -> None:
        found: list[list[str]] = []

        async def reload(part: Part) -> None:
            following.source.settle(Settings(), ())
            found.append(routes(following.source.part))

        following.before = reload
        await ordered(cluster.create, model_route("r", "m", "nowhere"))
        await following.until(lambda part: bool(found))
        assert found == [["default/r"]]

    follow(cluster, scenario)
