"""Where the configuration comes from: files, a cluster, or both, joined and handed on whenever one of them changes. (T)

Invariant: what is handed on has validated as a whole; what has not is handed on as an error, and nothing else changes.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import MutableMapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec
import trio

from gateway.config.document import ConfigError, Document
from gateway.config.join import Joining
from gateway.config.settings import Settings
from gateway.config.snapshot import Snapshot
from gateway.sources import file
from gateway.supervise import supervise

if TYPE_CHECKING:
    from gateway.config.cluster import Part
    from gateway.kubernetes import Cluster

_log = logging.getLogger("infer_gateway")


class Source(msgspec.Struct, frozen=True):
    """Something that the configuration comes from. ``kind``: "file", "ConfigMap" or "--backend"."""

    kind: str
    name: str


class Taker(Protocol):
    """Who puts configurations in force."""

    def check(self, settings: Settings, /) -> None:
        """Raises ConfigError where these settings cannot be put in force by a running process. Called in a thread: it
        may block, and import what they need.
        """

    def reloaded(self, snapshot: Snapshot, /) -> None:
        """Files, or what stands for them, have changed. Must not wait."""

    def not_reloaded(self, error: ConfigError, /) -> None:
        """They have changed for the worse. Must not wait."""

    async def followed(self, snapshot: Snapshot, /) -> None:
        """The cluster has changed. Returns when that serves."""


class Origin:
    """``snapshot`` is what there was at the start, without what a cluster adds."""

    def __init__(self, paths: Sequence[Path], cluster: Cluster | None = None) -> None:
        """Reads the files. Raises ConfigError."""
        self.cluster = cluster
        self._paths = paths
        self._reading: file.Reading | None = None
        if paths or cluster is not None:
            self._reading = file.attempt(paths, kubernetes=cluster is not None, others=self._documents())
            if self._reading.error is not None:
                raise self._reading.error
        self.snapshot = self._base = (self._reading and self._reading.snapshot) or Snapshot()
        self._joining = Joining()
        self._reload, self._requests = trio.open_memory_channel[object](1)

    async def run(self, taker: Taker, restarts: MutableMapping[str, int]) -> None:
        """Until cancelled; at once where nothing can change."""
        async with trio.open_nursery() as nursery:
            if self._reading is not None:
                work = partial(supervise, self._watch, taker, name="configuration source", counts=restarts)
                nursery.start_soon(work)
            if self.cluster is not None:
                self.cluster.settle(self._base.settings, self._taken())
                run = partial(self.cluster.run, partial(self._changed, taker), self.reload, restarts)
                nursery.start_soon(partial(supervise, run, name="cluster", counts=restarts))

    def reload(self) -> bool:
        """Read everything again, whether it has changed or not. False: a `Taker` hears nothing of it."""
        if self.cluster is not None:
            self.cluster.hurry()
        if self._reading is None:
            _log.warning("there is no configuration to reload")
            return False
        with contextlib.suppress(trio.WouldBlock):
            self._reload.send_nowait(None)
        return True

    @property
    def sources(self) -> list[Source]:
        """Files (or directories of these) as they were named; in a cluster the ConfigMap, if there is one."""
        found = [Source("file", str(path)) for path in self._paths]
        if self.cluster is not None:
            found += [Source("ConfigMap", "/".join(self.cluster.config_map)) for _ in self.cluster.documents]
        return found

    @property
    def synced(self) -> bool:
        """Whether everything that is configured is known."""
        return self.cluster is None or self.cluster.synced

    @property
    def complete(self) -> bool:
        """Whether what is not known is not there, as far as its source can say."""
        return self.cluster is None or self.cluster.complete

    async def wait_synced(self) -> None:
        if self.cluster is not None:
            await self.cluster.wait_synced()

    def _documents(self) -> tuple[Document, ...]:
        return () if self.cluster is None else self.cluster.documents

    def _taken(self) -> frozenset[str]:
        return frozenset(pool.name for pool in self._base.pools)

    async def _watch(self, taker: Taker) -> None:
        await file.watch(
            self._paths,
            partial(self._renewed, taker),
            partial(self._failed, taker),
            self._requests,
            first=self._reading,
            kubernetes=self.cluster is not None,
            others=self._documents,
            check=lambda snapshot: taker.check(snapshot.settings),
        )

    def _renewed(self, taker: Taker, snapshot: Snapshot) -> None:
        self._base = snapshot
        if self.cluster is not None:
            self.cluster.settle(snapshot.settings, self._taken())
            snapshot = self._joining.joined(snapshot, self.cluster.part)
            self.cluster.judged()
        taker.reloaded(snapshot)

    def _failed(self, taker: Taker, error: ConfigError) -> None:
        if self.cluster is not None:
            self.cluster.judged(error.problems)
        taker.not_reloaded(error)

    async def _changed(self, taker: Taker, part: Part) -> None:
        await taker.followed(self._joining.joined(self._base, part))
