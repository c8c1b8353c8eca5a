"""The composition root: reads the configuration, builds the parts, opens the nursery tree and sees it closed. (IO)

background                     cancelled: the process exits (second signal, or the drain is over)
├ signals                      to stop, to reload, to start a successor (gateway.life)
├ source                       supervised; the last snapshot keeps serving if it dies
├ keys of issuers              supervised; those known are kept
├ shared limits                supervised; without them this process decides alone
├ discovery, scraping          a task a question under way
├ watch, idle connections      timeouts of calls, expiry of upstream connections
├ admin
└ doors                        a listener a protocol; drain by themselves: what runs finishes
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

import trio

from adapters import registry
from adapters.transport import HTTPTransport, TransportSettings
from gateway import egress, gauges, logs, stdio
from gateway.access_log import AccessLog
from gateway.auth import allowed
from gateway.authenticate import Authenticator
from gateway.awake import Awake
from gateway.config.discover import from_backends
from gateway.config.document import ConfigError
from gateway.config.egress import allowed_backends, told
from gateway.config.scheduler import Scheduler
from gateway.config.settings import Settings
from gateway.config.snapshot import PoolSpec, Snapshot
from gateway.config.url import is_loopback
from gateway.core import Gateway, Target
from gateway.directives import Directives
from gateway.discover import Discovery
from gateway.doors import Doors, Wanted
from gateway.entrance import Entrance
from gateway.errors import GatewayError, ModelNotFound, NoEndpoints
from gateway.fleet import Fleet
from gateway.garbage import Garbage
from gateway.httproute import Way
from gateway.ledger import Ledger
from gateway.life import Life
from gateway.member import Member
from gateway.meter import Totals
from gateway.observe import Observers, refusal
from gateway.options import Options, refuse_pool, refuse_unguarded
from gateway.origin import Origin, Source
from gateway.pools import MakeProfile, Pools
from gateway.ports import Exchange
from gateway.schedule.build import for_pool
from gateway.schedule.profile import Profile
from gateway.schedule.saturation import Saturation
from gateway.scrape import Scrapes
from gateway.sources.kube.options import Options as ClusterOptions
from gateway.state import State
from gateway.status import Status
from gateway.succession import Predecessor
from gateway.threads import Names
from gateway.tokenizer import Tokenizers
from gateway.tracing import Tracing
from gateway.types import (
    ANONYMOUS,
    Endpoint,
    Headers,
    Identity,
    InferenceRequest,
    ModelCard,
    Operation,
    UpstreamRequest,
)
from gateway.usage import UsageLog
from protocols.admin import server as admin_server

if TYPE_CHECKING:
    from gateway.kubernetes import Cluster

__all__ = ["Options", "Program", "Wanted", "run"]
_log = logging.getLogger("infer_gateway")
OK, BAD_CONFIGURATION, BAD_USAGE, CANNOT_BIND = 0, 1, 2, 3
_DISCOVERY_S: Final = 3.0


def run(options: Options) -> int:
    """Run the gateway until it is told to stop; the exit code."""
    logs.configure(options.log_level, form=options.log_format)
    try:
        backends = from_backends((_pair(backend) for backend in options.backends), os.environ)
    except ConfigError as error:
        return _fail(BAD_USAGE, *error.problems)
    return trio.run(_serve, options, backends, clock=Awake())


async def _serve(options: Options, backends: Sequence[Endpoint]) -> int:
    trio.socket.set_custom_hostname_resolver(Names())
    try:
        cluster = None if options.cluster is None else await _find(options.cluster)
        program = Program(options, backends, cluster)
    except ConfigError as error:
        return _fail(BAD_CONFIGURATION, *error.problems)
    return await program.main()


async def _find(options: ClusterOptions) -> Cluster:
    """Raises ConfigError."""
    from gateway.kubernetes import Cluster  # whoever has no cluster has no use for it

    return await Cluster.find(options)


def _fail(code: int, *messages: str) -> int:
    for message in messages:
        stdio.stderr.write(f"infer-gateway: {message}\n")
    stdio.stderr.flush()
    return code


class Program:
    """One gateway process. ``routes`` are those in force, to discovered models included; ``entrances`` by which
    Gateways of a cluster requests come in, if it has any. ``namespace``: where names without one are looked for.
    """

    def __init__(self, options: Options, backends: Iterable[Endpoint] = (), cluster: Cluster | None = None) -> None:
        """Reads the configuration. Raises ConfigError."""
        self.options = options
        self._origin = Origin(options.config, cluster)
        self._configured = self._origin.snapshot
        self._backends = allowed_backends(backends, self.settings.egress.networks)
        self._ruled_by: Snapshot | None = None
        self._doors = Doors()
        self._put_in_force(self._configured)
        self.namespace = "default" if cluster is None else cluster.namespace
        self.totals = Totals()
        self.draining = False
        self._rng = random.Random()
        self._adapters = _adapters(self.settings)
        self.tracing = Tracing()
        self.check(self.settings)
        if options.pool:
            refuse_pool(options.pool, options, self._configured)

    @property
    def settings(self) -> Settings:
        return self._configured.settings

    async def main(self) -> int:
        """Serve until told to stop; the exit code."""
        predecessor = Predecessor.of(os.environ)
        try:
            await self._doors.bind(self.options.listen, self.settings.listeners)
            self.check(self.settings)
        except OSError as error:
            return _fail(CANNOT_BIND, str(error))
        except ConfigError as error:  # of sockets that were inherited
            return _fail(BAD_CONFIGURATION, *error.problems)
        self._build()
        if self.cluster is not None:
            self.cluster.listens(self._doors)
        self._apply(self._configured)
        self._warn()
        with self.usage, self.access_log:
            await self._run(predecessor)
        await self.tracing.close()
        return OK

    async def _run(self, predecessor: Predecessor | None) -> None:
        self._life.serves = predecessor is None
        async with trio.open_nursery() as self._background:
            await self._background.start(self._life.run)
            self._background.start_soon(self._status.watch)
            self._background.start_soon(self.discovery.run)
            self._background.start_soon(self._scrapes.run)
            self._background.start_soon(self.gateway.run)
            self._background.start_soon(self.transport.expire)
            self._background.start_soon(self._authenticator.run)
            self._background.start_soon(self.state.run)
            self._background.start_soon(self._origin.run, self, self.totals.restarts)
            self._background.start_soon(self._garbage.watch)
            if predecessor is not None:
                await self._settled()
                await predecessor.succeed(self.ready)
                self._life.serves = True
            await self._background.start(admin_server.serve, self._status, self._doors.admin, self._doors.admin_named)
            await self._background.start(self._listen)
            await self._settled()
            if not self.draining:
                self._announce()

    # -- building -----------------------------------------------------------------------------------------------

    def _build(self) -> None:
        settings = self.settings
        adapters = self._adapters
        self.transport = HTTPTransport(TransportSettings(connect_timeout=settings.timeouts.connect))
        self.usage = UsageLog(settings.usage.file)
        self.access_log = AccessLog(settings.access_log, everything=self.options.access_log)
        self.pools = pools = Pools(adapters, self._profiles(settings.scheduler), self._rng)
        self.state = State(pools, self.totals.restarts)
        self.gateway = Gateway(
            self.pools,
            self.transport,
            self._route,
            observer=Observers(self.totals, self.access_log.log, self.usage.log),
        )
        self.discovery = Discovery(
            self.transport,
            adapters,
            lambda endpoint: self.fleet.answered(endpoint),
            detect=registry.detect,
            detect_paths=registry.PROBES,
            fields=registry.FIELDS,
        )
        self._scrapes = Scrapes(
            self.transport,
            loaded=pools.loaded,
            lost=pools.unloaded,
            restarted=pools.restarted,
            refused=lambda endpoint: self.fleet.unreachable(endpoint),
            failed=pools.unheard,
            polled=pools.polled,
            busy=pools.busy,
            interval=settings.scraping.interval,
            timeout=settings.scraping.timeout,
        )
        self.fleet = Fleet(
            pools, self.discovery, self._scrapes, backends=self._backends, serve=self._put_in_force, gone=self._left
        )
        self._claims = self._configured.claims()
        totals = self.totals
        self._authenticator = Authenticator(settings.auth, self._claims, totals.strangers, restarts=totals.restarts)
        self.known, self.identify = self._authenticator.known, self._authenticator.identify
        self._doors.build(self, settings, self.options.pool)
        self._status = Status(self)
        self._life = Life(self, self._doors, self._end)
        self._garbage = Garbage()

    def _warn(self) -> None:
        snapshot = self._configured
        loops = told("--backend", self._backends, self._doors.addresses)
        for warning in (*snapshot.warnings, *self.tracing.warnings, *loops):
            _log.warning("%s", warning)
        for path in snapshot.inert:
            _log.warning("%s has no effect in this version", path)
        if not self._backends and not snapshot.pools and self._origin.cluster is None:
            _log.warning("nothing to serve: give --backend ENGINE=URL, or -c with a ModelServer and a ModelRoute")

    def _profiles(self, scheduler: Scheduler) -> MakeProfile:
        def profile(spec: PoolSpec, old: Profile | None) -> Profile:
            return for_pool(scheduler, spec, self._rng, old)

        return profile

    # -- what the OpenAI front end stands on -----------------------------------------------------------------------

    @property
    def serve(self) -> Callable[[Exchange], Awaitable[None]]:
        return self.gateway.serve

    def models(self, identity: Identity, entrance: Entrance | None = None) -> Sequence[ModelCard]:
        cards = self.routes.models(entrance)
        return [card for card in cards if allowed(identity, card.id)] if identity.models else cards

    def ready(self) -> bool:
        return not self.draining and self.pools.ready()

    def synced(self) -> bool:
        """Whether all that is configured is known."""
        return not self.draining and self._origin.synced

    def refused(
        self,
        operation: Operation,
        error: GatewayError,
        request_id: str,
        identity: Identity | None,
        headers: Headers = (),
        protocol: str = "http",
    ) -> None:
        record = refusal(operation, error, request_id, identity or ANONYMOUS, protocol, trio.current_time())
        record = self.tracing.refused(headers, record)
        self.totals.finished(record)
        self.access_log.log(record)
        if identity is not None:  # strangers fill no disk
            self.usage.log(record)

    @property
    def snapshot(self) -> Snapshot:
        """The configuration in force, discovered models included."""
        return self.fleet.snapshot

    @property
    def cluster(self) -> Cluster | None:
        return self._origin.cluster

    @property
    def sources(self) -> Sequence[Source]:
        backends = (Source("--backend", f"{each.engine}={each.url}") for each in self._backends)
        return [*self._origin.sources, *backends]

    def connections(self) -> dict[str, int]:
        """Open client connections by listener."""
        return self._doors.connections()

    def _route(self, request: InferenceRequest) -> Target:
        try:
            return self._match(request)
        except ModelNotFound:
            if self._origin.complete and not self.fleet.unanswered():
                raise
        raise NoEndpoints(
            f"the model `{request.model[:256]}` is not known, but not everything has been heard of yet", retry_after=1.0
        )

    def _match(self, request: InferenceRequest) -> Target:
        chance, user = self._rng.random(), request.identity.user
        return self.routes.match(request.model, request.path, request.headers, chance, user, request.entrance)

    def owned(self, request: InferenceRequest) -> bool:
        if not request.path.startswith("/v1/"):
            return False
        try:
            self._match(request)
        except ModelNotFound:
            return False
        except NoEndpoints:  # it has the model, if nowhere to go with it
            return True
        return True

    def forward(self, exchange: Exchange, way: Way, raw: UpstreamRequest | None = None) -> Awaitable[None]:
        return self.gateway.serve(exchange, way.pick(self._rng.random()), raw)

    # -- configuration ------------------------------------------------------------------------------------------

    def _apply(self, configured: Snapshot) -> None:
        """Put a configuration in force. Addresses, limits of the listener and TLS or not stay as they were at start."""
        self._rules(configured)
        self.fleet.apply(configured)

    async def _follow(self, configured: Snapshot) -> None:
        """The same, giving way to requests: how a cluster's changes come into force, many and small as they are."""
        self._rules(configured)
        await self.fleet.follow(configured)

    def _rules(self, configured: Snapshot) -> None:
        """All but pools and routes, as far as it is not the same objects as before."""
        self.totals.in_force(time.time())
        gateway, former = self.gateway, self._ruled_by or configured
        anew = self._ruled_by is None or configured.settings is not former.settings
        self._configured = self._ruled_by = configured
        if anew:
            self._settle(configured.settings)
        if anew or configured.route_limits != former.route_limits:
            gateway.ledger = Ledger.of(configured)
        if anew or (configured.objectives, configured.rewrites) != (former.objectives, former.rewrites):
            gateway.directives = Directives(configured.objectives, configured.rewrites)
        if anew or configured.vocabularies is not former.vocabularies:
            gateway.tokenizers = Tokenizers(configured.vocabularies)
        if (claims := configured.claims()) != self._claims:
            self._claims = claims
            self._authenticator.apply(configured.settings.auth, claims)

    def _settle(self, settings: Settings) -> None:
        egress.guard(settings.egress.networks)
        self.totals.tiers = gauges.tiers(settings)
        self.gateway.keep_alive_s = settings.streaming.keep_alive
        self.gateway.budget.ratio = settings.retry.budget
        self.gateway.hedging = settings.hedging
        wanted = settings.scheduler.debug_header
        self.gateway.debug_header = is_loopback(self._doors.addresses["http"][0]) if wanted is None else wanted
        self._scrapes.interval, self._scrapes.timeout = settings.scraping.interval, settings.scraping.timeout
        self.pools.health, self.pools.fairness = settings.health, settings.fairness
        self.pools.profile = self._profiles(settings.scheduler)
        detector = settings.scheduler.saturation
        self.pools.saturation = detector if detector != Saturation() else None  # the gate's own thresholds are better
        self.tracing.apply(settings.tracing)
        self.gateway.tracer = self.tracing.tracer
        self.state.apply(settings.state.redis)
        self.gateway.store = self.state.store

    def _put_in_force(self, snapshot: Snapshot) -> None:
        self.routes, self.entrances = snapshot.routes, snapshot.entrances
        self._doors.keep(() if self.entrances is None else self.entrances.ports)

    def _left(self, member: Member) -> None:
        if member.gone:
            self.totals.forget(member.pool, member.id)
        self.transport.forget(member.endpoint)

    def check(self, settings: Settings) -> None:
        refuse_unguarded(settings, self.options.listen, self._doors.hosts)
        self.tracing.check(settings.tracing)
        State.check(settings.state.redis)

    async def followed(self, snapshot: Snapshot) -> None:
        before = frozenset(self._configured.warnings)
        await self._follow(snapshot)
        for warning in snapshot.warnings:
            if warning not in before:
                _log.warning("%s", warning)

    def reloaded(self, snapshot: Snapshot) -> None:
        if snapshot.settings.trusted_fields != self.settings.trusted_fields:
            self.pools.adapters = _adapters(snapshot.settings)
        self._doors.renew(snapshot.settings.listeners)
        self._claims = snapshot.claims()
        self._authenticator.apply(snapshot.settings.auth, self._claims)
        self.usage.reopen(snapshot.settings.usage.file)
        self.access_log.apply(snapshot.settings.access_log)
        self._apply(snapshot)
        self.totals.reloaded(True)
        self._status.reload_problems = ()
        _log.info("configuration reloaded: %d routes, %d pools", len(snapshot.routes.routes), len(snapshot.pools))
        self._warn()
        self._life.reloaded()

    def reload(self) -> bool:
        return self._origin.reload()

    def not_reloaded(self, error: ConfigError) -> None:
        self.totals.reloaded(False)
        self._status.reload_problems = tuple(error.problems)
        for problem in error.problems:
            _log.error("configuration not reloaded, the old one stays in force: %s", problem)
        self._life.reloaded()

    # -- life ---------------------------------------------------------------------------------------------------

    async def _listen(self, *, task_status: trio.TaskStatus[None]) -> None:
        await self._doors.run(task_status=task_status)
        await self._end()  # drained

    def _announce(self) -> None:
        """Tell that it runs; and the garbage collector learns what will never be garbage."""
        self._garbage.settle()
        stdio.announce(self._doors.announcement())
        self._life.begun()

    async def _settled(self) -> None:
        """What is configured has been heard of, as far as it answers soon."""
        with trio.move_on_after(_DISCOVERY_S):
            await self._origin.wait_synced()
            await self.discovery.wait_settled()

    async def _end(self) -> None:
        await self._status.live.end()
        self._background.cancel_scope.cancel()


def _adapters(settings: Settings) -> registry.Registry:
    """Raises ConfigError where somebody's cannot be loaded."""
    try:
        return registry.load(frozenset(settings.trusted_fields))
    except ValueError as error:
        raise ConfigError([str(error)]) from error


def _pair(backend: str) -> tuple[str, str]:
    engine, equals, url = backend.partition("=")
    if not equals or "/" in engine:
        raise ConfigError([f"--backend {backend}: expected ENGINE=URL, such as vllm=http://host:8000"])
    return engine, url
