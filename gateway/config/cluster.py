"""Objects of a cluster, which come and go one at a time → what serves, and what is to be said of each. (P)

Invariant: one object's fault is nobody else's: it is said of that object, and what it was before goes on serving.
What has not changed is built as the same object (`is`), so that whoever applies a `Part` can tell. Everything is built
by slices of less than a millisecond, but that all members of a pool are made at once where its ports or its key change:
3 µs each. At 1,000 routes, 1,000 servers and 5,000 pods, an object is read in 0.06 ms, and
`Cluster.build` takes 0.07 ms after a pod, 0.08 after a route, 0.2 after a server, 0.6 after one of 5,000 pods of one
server, 70 after a change of settings.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol, TypeVar

import msgspec

from gateway.config.cluster_pools import POOLS, ClusterPools
from gateway.config.cluster_routes import REFERRING, ClusterRoutes
from gateway.config.decode import INVALID, Decoder
from gateway.config.document import Tree
from gateway.config.envelope import KINDS, SecretData
from gateway.config.fleet import Read, secret_content
from gateway.config.gateway_bindings import Bindings
from gateway.config.judgement import Judge
from gateway.config.load import NO_VARIABLES, no_files
from gateway.config.pods import Pod
from gateway.config.settings import Settings
from gateway.config.sharing import Redis
from gateway.config.snapshot import PoolSpec, RouteLimit
from gateway.config.standing import Head, Slot, Standings, head_of
from gateway.config.verdict import Verdict
from gateway.directives import Objective, Rewrite
from gateway.route import Route

T = TypeVar("T")
_OURS: Final = frozenset((*POOLS, *(kind for kind in REFERRING if " " not in kind)))


class Part(msgspec.Struct, frozen=True):
    """What a cluster contributes to a snapshot.

    ``redis``: where replicas meet, as the oldest route that names a place has it; None if none does. ``files``: those
    that objects name. ``more``: what each handler made.
    """

    pools: tuple[PoolSpec, ...] = ()
    routes: tuple[Route, ...] = ()
    route_limits: tuple[RouteLimit, ...] = ()
    objectives: tuple[Objective, ...] = ()
    rewrites: tuple[Rewrite, ...] = ()
    redis: Redis | None = None
    warnings: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    more: tuple[object, ...] = ()


class PoolState(msgspec.Struct, frozen=True):
    """An InferencePool, for those that refer to it. ``spec`` is None while no version of it can serve,
    and without members where files have a pool of its name.

    ``problems``: what is wrong with its newest version, by path. ``ready`` of ``pods`` can be asked.
    """

    head: Head
    problems: tuple[str, ...]
    spec: PoolSpec | None
    ready: int
    pods: int


class Handler(Protocol):
    """What takes an interest in objects of ``kinds``, (apiVersion, kind) of each. The cluster's own kinds may be among
    them; what nobody handles is ignored.
    """

    @property
    def kinds(self) -> Collection[tuple[str, str]]: ...

    def put(self, tree: Tree, /) -> None:
        """The object is there, or there in another version. Must not raise."""

    def remove(self, api_version: str, kind: str, namespace: str, name: str, /) -> None: ...

    def settle(self, settings: Settings, /) -> None: ...

    def build(self, cluster: Cluster, changed: Collection[str], /) -> Iterator[None]:
        """Work, one slice of less than a millisecond at a time. ``changed``: "namespace/name" of InferencePools that
        are not what they were; see `Cluster.pool`.
        """

    @property
    def made(self) -> object:
        """For `Part.more`; the same object as long as it says the same."""

    def verdicts(self) -> Iterable[Verdict]:
        """Those that have changed since the last call."""


class Cluster:
    """Everything known of a cluster. Nothing here raises, whatever an object holds.

    ``environment`` and ``read_file`` are what ``keyEnv``, ``keyFile`` and ``caFile`` of objects refer to: whoever may
    write objects may have their values sent anywhere, so that by default there are none. ``bindings``: of routes to
    Gateways, kept by the handler that knows those; without one there are none.
    """

    def __init__(
        self,
        environment: Mapping[str, str] = NO_VARIABLES,
        read_file: Read = no_files,
        handlers: Sequence[Handler] = (),
        bindings: Bindings | None = None,
    ) -> None:
        self.part = Part()
        self.handlers: Final = tuple(handlers)
        self._kinds = {kind for handler in handlers for kind in handler.kinds}
        self._standings = Standings()
        self._pools = ClusterPools(self._standings, environment, read_file)
        self._bindings = Bindings() if bindings is None else bindings
        self._routes = ClusterRoutes(self._standings, self._pools, self._bindings)
        self._judge = Judge(self._standings, self._pools, self._routes, self._bindings)
        self._changed: dict[str, None] = {}

    # --- what comes and goes ------------------------------------------------------------------------------------------

    def settle(self, settings: Settings, taken: Collection[str] = ()) -> None:
        """These are the settings. ``taken``: names of pools that files have: theirs serve. All is to be built anew."""
        self._pools.settle(settings, frozenset(taken))
        self._routes.settle(settings)
        self._judge.all()
        for handler in self.handlers:
            handler.settle(settings)

    def put(self, tree: Tree) -> None:
        """An object is there, or there in another version. What is none, or of a kind nobody knows, is ignored."""
        head = head_of(tree)
        if head is None:
            return
        for handler in self._handling(head):
            handler.put(tree)
        if (head.api_version, head.kind) == ("v1", "Secret"):
            self._pools.put_secret(head.full_name, _content(tree))
        elif head.kind in _OURS and head.api_version in KINDS[head.kind].versions:
            new = head.slot not in self._standings
            if self._standings.put(head, tree):
                self._renew(head.slot, named=new)
            self._judge.due(head.slot)

    def remove(self, api_version: str, kind: str, namespace: str, name: str) -> None:
        """It is gone. Nothing happens where it was not there."""
        head = Head(api_version, kind, namespace, name)
        for handler in self._handling(head):
            handler.remove(api_version, kind, namespace, name)
        if (api_version, kind) == ("v1", "Secret"):
            self._pools.put_secret(head.full_name, None)
        elif kind in _OURS and self._standings.remove(head.slot, api_version):
            self._renew(head.slot, named=head.slot not in self._standings)
            self._judge.forget(head)

    def _handling(self, head: Head) -> list[Handler]:
        key = (head.api_version, head.kind)
        return [handler for handler in self.handlers if key in handler.kinds] if key in self._kinds else []

    def put_pod(self, pod: Pod) -> None:
        self._pools.index.put(pod)

    def remove_pod(self, namespace: str, name: str) -> None:
        self._pools.index.remove(namespace, name)

    def wanted_secrets(self) -> frozenset[tuple[str, str]]:
        """(namespace, name) of the Secrets to `put`: those that objects name; of others, to `remove`. It changes with
        `put` and `remove`.
        """
        return frozenset((namespace, name) for namespace, _, name in map(_parted, self._pools.wanted_secrets()))

    def _renew(self, slot: Slot, *, named: bool) -> None:
        if slot[0] not in POOLS:
            self._routes.renew(slot)
            return
        self._pools.renew(slot)
        if named:
            self._routes.named(slot)
            self._routes.moved(slot)

    # --- what comes of it ---------------------------------------------------------------------------------------------

    def build(self) -> Part:
        """What serves now. Takes as long as it takes: see `build_steps`."""
        for _ in self.build_steps():
            pass
        return self.part

    def build_steps(self) -> Iterator[None]:
        """`build`, in slices of less than a millisecond; in the end `part` is what serves and `verdicts` are there.

        Objects may come and go between slices. A generator that is left before its end loses nothing: another one goes
        on where it stopped.
        """
        while True:
            yield from self._build_pools()
            if (slot := self._routes.step()) is not None:
                self._judge.due(slot)
                yield
                continue
            yield from self._handle()
            if not self._pools.stale and not self._routes.stale and not self._changed:
                break
        for slot in (*self._routes.judge, *(("ModelRoute", name) for name in self._bindings.moved)):
            self._judge.due(slot)
        self._routes.judge.clear()
        self._bindings.moved.clear()
        for _ in self._judge.steps():
            yield
        self._assemble()

    def _build_pools(self) -> Iterator[None]:
        pools, routes = self._pools, self._routes
        while (slot := pools.step()) is not None:
            self._judge.due(slot)
            if slot[0] == "InferencePool":
                self._changed[slot[1]] = None
            for moved in pools.moved:
                routes.moved(moved)
            pools.moved.clear()
            for flipped in pools.flipped:
                for user in routes.users(flipped):
                    self._judge.due(user)
            pools.flipped.clear()
            yield

    def _handle(self) -> Iterator[None]:
        changed, self._changed = self._changed, {}
        left = list(self.handlers)
        try:
            while left:
                yield from left[0].build(self, changed)
                del left[0]
        finally:
            if left:  # they have not all heard of it
                self._changed.update(changed)

    def _assemble(self) -> None:
        """The same object where nothing has changed, and within it."""
        routes, pools, old = self._routes, self._pools, self.part
        directives = routes.directives.values()
        made = Part(
            pools=pools.specs.values(),
            routes=routes.routes.values(),
            route_limits=_flat(routes.limits.values()),
            objectives=tuple(each for each in directives if isinstance(each, Objective)),
            rewrites=tuple(each for each in directives if isinstance(each, Rewrite)),
            redis=routes.redis,
            warnings=_flat(self._judge.warnings.values()),
            files=tuple(dict.fromkeys(_flat(pools.files.values()))),
            more=tuple(handler.made for handler in self.handlers),
        )
        fields = Part.__struct_fields__
        kept = {
            name: getattr(old, name) if getattr(old, name) == getattr(made, name) else getattr(made, name)
            for name in fields
        }
        if any(kept[name] is not getattr(old, name) for name in fields):
            self.part = Part(**kept)

    def verdicts(self) -> list[Verdict]:
        """Those that have changed since the last call, as of the last build."""
        return [*self._judge.news(), *(verdict for handler in self.handlers for verdict in handler.verdicts())]

    def pool(self, name: str) -> PoolState | None:
        """The InferencePool "namespace/name" as of the last build; None if there is none."""
        slot = ("InferencePool", name)
        standing = self._standings.first(slot)
        if standing is None:
            return None
        ready, pods = self._pools.members(slot)
        spec = self._pools.specs.get(slot) or self._pools.find(*slot)
        return PoolState(standing.head, standing.problems, spec, ready, pods)


def _content(tree: dict[str, Tree]) -> dict[str, bytes] | None:
    """What can be read of a Secret; None if nothing can."""
    made = Decoder().build({key: tree[key] for key in ("data", "stringData") if key in tree}, SecretData)
    if made is INVALID:
        return None
    return {key: value for key, value in secret_content(made).items() if value is not None}


def _parted(name: str) -> tuple[str, str, str]:
    return name.partition("/")


def _flat(groups: Iterable[tuple[T, ...]]) -> tuple[T, ...]:
    return tuple(each for group in groups for each in group)
