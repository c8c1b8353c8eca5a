"""What stands behind `--kubernetes`: access to a cluster, its ConfigMap, and the source that follows it. (IO)

Imported only where it is wanted.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Final

import trio

from gateway.config.cluster import Part
from gateway.config.document import ConfigError, Document
from gateway.config.gateway_api import GatewayApi
from gateway.config.gateway_doors import Ports
from gateway.config.load import CONFIG_KEYS
from gateway.config.settings import Settings
from gateway.sources.kube import status
from gateway.sources.kube.access import Access
from gateway.sources.kube.client import ApiError, Client, Unreachable
from gateway.sources.kube.kinds import CONFIG_MAP
from gateway.sources.kube.messages import Key
from gateway.sources.kube.notes import Note, Regarding
from gateway.sources.kube.options import CONFIG_MAP as USUAL
from gateway.sources.kube.options import Options
from gateway.sources.kube.reflector import Statistics
from gateway.sources.kube.source import Applied, Source, decoder, document_of
from gateway.sources.kube.speaker import Speaker

if TYPE_CHECKING:
    from gateway.doors import Doors

_log: Final = logging.getLogger("infer_gateway.kubernetes")
_PATIENCE_S: Final = 10.0
"""For a ConfigMap that may or may not be there. One that is named is waited for."""
_RETRY_S: Final = 2.0
_UNTRUSTED: Final = "CERTIFICATE_VERIFY_FAILED"


class Cluster:
    """``documents``: the ConfigMap, if there is one. ``namespace``: our own. ``part``: what the cluster contributes."""

    def __init__(self, options: Options, access: Access, documents: tuple[Document, ...] = ()) -> None:
        self.documents = self._valid = documents
        self.namespace = access.namespace
        self._options = options
        self._access = access
        self._source: Source | None = None
        self._speaker: Speaker | None = None
        self._settings: tuple[Settings, Collection[str]] = Settings(), ()
        self._synced = trio.Event()
        self._ports = Ports()
        self.part = Part()

    @classmethod
    async def find(cls, options: Options) -> Cluster:
        """The cluster, and its ConfigMap. Raises ConfigError where one of them cannot be had."""
        access = await Access.find(options.kubeconfig, options.context)
        cluster = cls(options, access)
        async with Client(access) as client:
            cluster.documents = await _config_map(client, cluster.config_map, named=bool(options.config_map))
        cluster._valid = cluster.documents
        return cluster

    @property
    def config_map(self) -> Key:
        """Its namespace and name."""
        return self._key(self._options.config_map or USUAL)

    def _key(self, text: str) -> Key:
        namespace, _, name = text.rpartition("/")
        return namespace or self.namespace, name

    @property
    def synced(self) -> bool:
        """Whether everything there is was listed and is in force."""
        return self._synced.is_set()

    @property
    def complete(self) -> bool:
        """Whether what is not known is not there: every kind was listed, and is in force."""
        return self.synced and self._source is not None and self._source.complete

    async def wait_synced(self) -> None:
        await self._synced.wait()

    @property
    def leading(self) -> bool:
        """Whether statuses are for this replica to write."""
        return self._speaker is not None and self._speaker.election.leading

    def settle(self, settings: Settings, taken: Collection[str]) -> None:
        """These are the settings from now on, and ``taken`` the names of pools that files have."""
        self._settings = settings, taken
        if self._source is not None:
            self._source.settle(settings, taken)

    def judged(self, problems: Sequence[str] = ()) -> None:
        """What came of the ConfigMap and the files, for people who look at the ConfigMap's events."""
        if not problems:
            self._valid = self.documents
        if self._speaker is None or not self.documents:
            return
        metadata = self.documents[0].tree["metadata"]
        about = Regarding("v1", "ConfigMap", *self.config_map, str(metadata.get("uid", "")))
        if problems:
            self._speaker.events.tell(Note(about, True, "NotReloaded", "; ".join(problems)))
        else:
            self._speaker.events.tell(Note(about, False, "Reloaded", "The configuration is in force"))

    def hurry(self) -> None:
        """Whatever is to be asked again in a while is asked now: kinds may be there, and rights given."""
        if self._source is not None:
            self._source.hurry()

    def listens(self, doors: Doors) -> None:
        """The program's listeners are these, and Gateways' ports are to be had there if that is wanted."""
        if self._options.gateway_ports:
            self._ports = Ports(doors.addresses["http"][1])
            doors.extend(self._tried)

    def _tried(self, outcomes: Mapping[int, str]) -> None:
        self._ports = Ports(self._ports.main, outcomes)  # for a source that begins anew
        if self._source is not None:
            self._source.tried(outcomes)

    @property
    def writing(self) -> status.Statistics | None:
        """How writing statuses goes."""
        return None if self._speaker is None else self._speaker.statistics()

    def watches(self) -> Iterator[tuple[str, Statistics]]:
        return iter(()) if self._source is None else self._source.statistics()

    async def run(
        self, applied: Applied, configured: Callable[[], object], restarts: MutableMapping[str, int] | None = None
    ) -> None:
        """Until cancelled. ``applied`` puts a part in force; ``configured`` hears of another ConfigMap."""

        async def apply(part: Part) -> None:
            self.part = part  # at once: a reload that comes in between has to take it along
            await applied(part)
            self._synced.set()

        def renew(document: Document | None) -> None:
            if document is None:  # one that was refused does not stay in the way of files
                if self.documents != self._valid:
                    self.documents = self._valid
                    configured()
            elif not _configures(document) and any(map(_configures, self.documents)):
                _log.error("ConfigMap %s has lost its configuration; the old one stays", "/".join(self.config_map))
            elif (document,) != self.documents:
                self.documents = (document,)
                configured()

        identity = os.environ.get("POD_NAME") or f"{socket.gethostname()}-{secrets.token_hex(4)}"
        # requests of their own: slow lists must not cost the Lease
        async with Client(self._access) as client, Client(self._access, connections=4) as own:
            self._speaker = Speaker(own, GatewayApi(ports=self._ports), (self.namespace, self._options.lease), identity)
            self._source = Source(
                client,
                self._speaker,
                namespaces=self._options.namespaces,
                config_map=self.config_map,
                service=self._key(self._options.service) if self._options.service else None,
                applied=apply,
                configured=renew,
                restarts=restarts,
            )
            self._source.settle(*self._settings)
            await self._source.run()


async def _config_map(client: Client, key: Key, *, named: bool) -> tuple[Document, ...]:
    """The ConfigMap as a document. Raises ConfigError where it was asked for by name and is not there, and for
    credentials or certificates that will not do.
    """
    what, told = f"ConfigMap {'/'.join(key)}", ""
    deadline = trio.current_time() + _PATIENCE_S
    while True:
        try:
            reply = await client.request("GET", CONFIG_MAP.path(*key), timeout=_PATIENCE_S)
            return (document_of(decoder(CONFIG_MAP)(reply.body)),)
        except ValueError as error:  # a proxy's page, perhaps, until somebody has logged in
            failure = f"the answer is not an API server's: {error}"
        except (ApiError, Unreachable) as error:
            failure = str(error)
            code = error.status if isinstance(error, ApiError) else 0
            if code == 401 or _UNTRUSTED in failure:
                raise ConfigError([f"{client.access.place}: {_problem(code)}: {failure}"]) from None
            if code in (403, 404):
                if named:
                    raise ConfigError([f"{what}: {failure}"]) from None
                _log.info("%s is not read: %s", what, failure)
                return ()
        if not named and trio.current_time() >= deadline:
            _log.warning("%s: %s; going on without", what, failure)
            return ()
        if failure != told:
            told = failure
            _log.warning("%s: %s; asking again until there is an answer", what, failure)
        await trio.sleep(_RETRY_S)


def _configures(document: Document) -> bool:
    data = document.tree.get("data")
    return isinstance(data, dict) and any(key.removesuffix(".yaml") in CONFIG_KEYS for key in data)


def _problem(status: int) -> str:
    return "the API server refuses its credentials" if status == 401 else "the API server is not the one it trusts"
