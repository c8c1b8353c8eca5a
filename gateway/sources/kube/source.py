"""A cluster as a source of configuration: what is watched, what is made of it, and who says what came of it. (T)

watches                        a reflector a kind and namespace; the last objects stay if the server goes
├ by name                      Secrets and Services that objects refer to, the ConfigMap
builder                        objects → `Part`, one build at a time, giving way to requests
└ status                       elected by a Lease: verdicts → conditions and Events

Invariant: nothing is built before everything was listed once or turned out not to be there, so that no object is
judged by half of what it refers to; after that every change is built and applied in the order it came.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, MutableMapping
from functools import partial
from typing import Any, Final

import msgspec
import trio

from gateway.config.cluster import Cluster, Part
from gateway.config.document import Document
from gateway.config.pods import pod_of
from gateway.config.settings import Settings
from gateway.sources.kube import reflector
from gateway.sources.kube.client import Client
from gateway.sources.kube.kinds import CONFIG_MAP, POD, SECRET, SERVICE, WATCHED, Kind
from gateway.sources.kube.messages import Key
from gateway.sources.kube.outage import Outage
from gateway.sources.kube.reflector import Reflector
from gateway.sources.kube.speaker import Speaker
from gateway.supervise import Loops, supervise

_SLICE_S: Final = 0.001
_PAUSE_S: Final = 0.01
"""Between two builds: what comes in a burst is built together."""
_FIRST_S: Final = 15.0
"""How long the first build waits for kinds that cannot be listed, which is not to say that they are not there."""
_NAMED_S: Final = 5.0
_WATCHED: Final = 100
"""Of what is followed by name, as many have a watch each, which is a connection; the others are read now and then."""
_READ_S: Final = (30.0, 0.05)
"""How often, at least and for each."""

_log: Final = logging.getLogger("infer_gateway.kubernetes")
Tree = dict[str, Any]
Named = tuple[Kind, Key]
Applied = Callable[[Part], Awaitable[None]]


class Source:
    """One cluster. ``applied`` puts a part in force and returns when it serves; ``configured`` is called, and must not
    wait, when the ConfigMap has changed, with None when it is gone. ``config_map``: its namespace and name;
    ``service``: those of the Service in front of us. ``namespaces``: none means all.
    """

    def __init__(
        self,
        client: Client,
        speaker: Speaker,
        *,
        namespaces: Collection[str] = (),
        config_map: Key | None = None,
        service: Key | None = None,
        applied: Applied,
        configured: Callable[[Document | None], None] = lambda document: None,
        restarts: MutableMapping[str, int] | None = None,
    ) -> None:
        self.synced = False
        self._part = Part()
        self._client = client
        self._outage = Outage(client.access.server)
        self._speaker = speaker
        self._spaces = tuple(namespaces) or ("",)
        self._config_map, self._service = config_map, service
        self._applied, self._configured = applied, configured
        self._restarts = restarts
        self._gateways = speaker.gateways
        self._cluster = Cluster(handlers=(self._gateways,), bindings=self._gateways.bindings)
        self._kinds = [self._reflector(kind, space) for kind in WATCHED for space in self._of(kind)]
        self._kinds += [self._pods(space) for space in self._spaces]
        self._named: dict[Named, Reflector[Tree]] = {}
        self._loops: Loops[Named] = Loops(self._keep_named, lambda key: f"watch of {key[0]} {'/'.join(key[1])}")
        self._dirty = trio.Event()

    # -- from outside ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            for each in self._kinds:
                nursery.start_soon(self._supervised, each.run, f"watch of {each.name}")
            nursery.start_soon(self._loops.run)
            nursery.start_soon(self._supervised, self._outage.run, "outages of the API server")
            nursery.start_soon(self._supervised, self._build, "configuration of the cluster")
            nursery.start_soon(self._supervised, self._speaker.run, "statuses of the cluster")

    def settle(self, settings: Settings, taken: Collection[str] = ()) -> None:
        """These are the settings from now on, and ``taken`` the names of pools that files have."""
        self._cluster.settle(settings, taken)
        self._dirty.set()

    def hurry(self) -> None:
        """Whatever is to be asked again in a while is asked now."""
        for each in (*self._kinds, *self._named.values()):
            each.hurry()

    def tried(self, outcomes: Mapping[int, str]) -> None:
        """What came of listening on ports of Gateways, as `GatewayApi.tried` has it."""
        self._gateways.tried(outcomes)
        self._dirty.set()

    @property
    def complete(self) -> bool:
        """Whether every kind was listed once, or is known not to be there for us."""
        return all(each.synced for each in self._kinds)

    def statistics(self) -> Iterator[tuple[str, reflector.Statistics]]:
        """Of each watch, by its name."""
        for each in (*self._kinds, *self._named.values()):
            yield each.name, each.statistics()

    async def _supervised(self, work: Callable[[], Awaitable[object]], name: str) -> None:
        await supervise(work, name=name, counts=self._restarts)

    # -- what is watched ------------------------------------------------------------------------------------------

    def _of(self, kind: Kind) -> tuple[str, ...]:
        return self._spaces if kind.namespaced else ("",)

    def _reflector(
        self, kind: Kind, namespace: str, name: str = "", listed: Callable[[], None] = lambda: None
    ) -> Reflector[Tree]:
        def put(key: Key, tree: Tree) -> None:
            if name and (kind, key) not in self._named:
                return  # of a watch that has ended
            self._cluster.put(tree)
            if kind is SERVICE and key == self._service:
                self._gateways.reached(tree)
            self._speaker.saw(kind, key, tree)
            self._changed()

        def remove(key: Key) -> None:
            self._cluster.remove(kind.api_version, kind.name, *key)
            self._speaker.lost(kind, key)
            self._changed()

        selector = f"metadata.name={name}" if name else ""
        every = self._rarely if name and len(self._named) >= _WATCHED else None
        of = partial(Reflector, self._client, kind, decoder(kind), put, remove, listed, outage=self._outage)
        return of(namespace=namespace, field_selector=selector, every=every)

    def _rarely(self) -> float:
        return max(_READ_S[0], _READ_S[1] * len(self._named))

    def _pods(self, namespace: str) -> Reflector[Any]:
        def put(key: Key, pod: Any) -> None:
            self._cluster.put_pod(pod)
            self._changed()

        def remove(key: Key) -> None:
            self._cluster.remove_pod(*key)
            self._changed()

        return Reflector(self._client, POD, pod_of, put, remove, outage=self._outage, namespace=namespace)

    def _changed(self) -> None:
        self._dirty.set()

    # -- what is watched by name ----------------------------------------------------------------------------------

    def _keep(self) -> bool:
        """Follow what objects name now; whether there is anything new in it."""
        wanted: set[Named] = {(SECRET, name) for name in self._cluster.wanted_secrets()}
        wanted.update((SERVICE, _parted(name)) for name in self._gateways.services)
        own = ((CONFIG_MAP, self._config_map), (SERVICE, self._service))
        wanted.update((kind, key) for kind, key in own if key is not None)
        if wanted == self._named.keys():
            return False
        for kind, name in self._named.keys() - wanted:
            del self._named[kind, name]
            if kind is SECRET:  # not before: whoever names it in the meantime would wait for what was told already
                self._cluster.remove(SECRET.api_version, SECRET.name, *name)
        new = wanted - self._named.keys()
        for key in sorted(new, key=lambda key: key[0] is SECRET):
            self._named[key] = self._of_one(*key)
        self._loops.keep(wanted)
        return bool(new)

    def _of_one(self, kind: Kind, key: Key) -> Reflector[Tree]:
        if kind is CONFIG_MAP:
            return self._of_settings(key)
        if kind is not SERVICE:
            return self._reflector(kind, *key)
        namespace, name = key

        def listed() -> None:
            if not there.statistics().objects:
                self._gateways.missing(namespace, name)
                self._changed()

        there = self._reflector(kind, namespace, name, listed)
        return there

    def _of_settings(self, key: Key) -> Reflector[Tree]:
        def put(key: Key, tree: Tree) -> None:
            self._configured(document_of(tree))

        def remove(key: Key) -> None:
            _log.warning("ConfigMap %s is gone; what it said stays in force", "/".join(key))
            self._configured(None)

        namespace, name = key
        of = partial(Reflector, self._client, CONFIG_MAP, decoder(CONFIG_MAP), put, remove, outage=self._outage)
        return of(namespace=namespace, field_selector=f"metadata.name={name}")

    async def _keep_named(self, key: tuple[Kind, Key]) -> None:
        one = self._named[key]
        try:
            await one.run()
        finally:
            self._outage.left(one.name)

    # -- what is made of it ---------------------------------------------------------------------------------------

    async def _build(self) -> None:
        if not self.synced:
            await self._list()
        while True:
            self._dirty = trio.Event()
            await self._build_once()
            self.synced = True
            await trio.sleep(_PAUSE_S)
            await self._dirty.wait()

    async def _list(self) -> None:
        """Until everything was listed, and what that names as well."""
        await self._any_listed()
        with trio.move_on_after(_FIRST_S):
            for each in self._kinds:
                await each.wait_synced()
        if missing := [each.name for each in self._kinds if not each.synced]:
            _log.warning("not listed yet, going on without: %s", ", ".join(missing))
        with trio.move_on_after(_NAMED_S):
            while self._keep():
                for named in tuple(self._named.values()):
                    await named.wait_synced()

    async def _any_listed(self) -> None:
        """A server that says nothing at all does not say that there is nothing."""

        async def wait(one: Reflector[Any]) -> None:
            await one.wait_synced()
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for each in self._kinds:
                nursery.start_soon(wait, each)

    async def _build_once(self) -> None:
        await self._give_way(self._cluster.build_steps())
        self._keep()
        part = self._cluster.part
        if part is not self._part:
            await self._applied(part)
            self._part = part
        self._speaker.say(self._cluster.verdicts())

    async def _give_way(self, steps: Iterable[None]) -> None:
        """Requests wait a slice at most."""
        began = time.perf_counter()
        for _ in steps:
            if time.perf_counter() - began >= _SLICE_S:
                await trio.lowlevel.checkpoint()
                began = time.perf_counter()
        await trio.lowlevel.checkpoint()


def document_of(tree: Tree) -> Document:
    """An object, as if it had been read from a file."""
    return Document("cluster", 1, tree)


def decoder(kind: Kind) -> Callable[[msgspec.Raw | bytes], Tree]:
    """What makes an object of its JSON. Lists of built-in kinds leave out what their items are."""
    head = {"apiVersion": kind.api_version, "kind": kind.name}

    def decode(raw: msgspec.Raw | bytes) -> Tree:
        try:
            tree = msgspec.json.decode(raw)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if not isinstance(tree, dict) or not isinstance(tree.get("metadata"), dict):
            raise ValueError("not an object with metadata")
        tree["metadata"].pop("managedFields", None)  # often longer than all the rest
        return {**tree, **head}

    return decode


def _parted(name: str) -> Key:
    namespace, _, rest = name.partition("/")
    return namespace, rest
