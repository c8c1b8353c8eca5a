"""Says of objects what came of them: in their statuses, by Events, in the log. (T)

Invariant: the log of every replica tells each change of a verdict once; statuses and Events are the leader's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import trio

from gateway.config.gateway_api import GatewayApi
from gateway.config.verdict import Condition, Verdict
from gateway.sources.kube import status
from gateway.sources.kube.client import Client
from gateway.sources.kube.conditions import Owner
from gateway.sources.kube.events import Events
from gateway.sources.kube.kinds import WATCHED, Kind
from gateway.sources.kube.lease import Election
from gateway.sources.kube.messages import Key
from gateway.sources.kube.status import StatusWriter

_log: Final = logging.getLogger("infer_gateway.kubernetes")
Tree = dict[str, Any]
Name = tuple[str, str, str, str]
"""apiVersion, kind, namespace, name."""
_NEEDED: Final = ("uid", "generation", "resourceVersion")


class Speaker:
    """``lease``: its namespace and name; ``identity`` is this replica's alone."""

    def __init__(self, client: Client, gateways: GatewayApi, lease: Key, identity: str) -> None:
        self.gateways = gateways
        self._objects: dict[Name, bytes] = {}
        self._told: dict[Name, tuple[Condition, ...]] = {}
        owner = Owner(gateways.controller, gateways.is_ours)
        self.election = Election(client, *lease, identity, changed=self._led)
        self.events = Events(client, lambda: self.election.leading, identity, owner)
        self._writer = StatusWriter(client, self._seen, lambda: self.election.leading, owner, said=self.events.judged)

    def statistics(self) -> status.Statistics:
        """Of the statuses that are written."""
        return self._writer.statistics()

    async def run(self) -> None:
        """Until cancelled; a Lease that is held then is given back."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.election.run)
            nursery.start_soon(self._writer.run)
            nursery.start_soon(self.events.run)

    def _led(self, leading: bool) -> None:
        self._writer.wake()

    # -- objects --------------------------------------------------------------------------------------------------

    def saw(self, kind: Kind, key: Key, tree: Tree) -> None:
        """The object is there, or there in another version."""
        if kind in WATCHED:
            name = (kind.api_version, kind.name, *key)
            self._objects[name] = packed(tree)
            self._writer.look(name)

    def _seen(self, name: Name) -> Tree | None:
        found = self._objects.get(name)
        return None if found is None else msgspec.json.decode(found, type=Tree)

    def lost(self, kind: Kind, key: Key) -> None:
        name = (kind.api_version, kind.name, *key)
        if self._objects.pop(name, None) is not None:
            self._writer.forget(name)
            self._told.pop(name, None)

    def say(self, verdicts: Iterable[Verdict]) -> None:
        """These verdicts are new."""
        for verdict in verdicts:
            self._log(verdict)
            self._writer.put([verdict])

    def _log(self, verdict: Verdict) -> None:
        """What is wrong now and was not, or no longer is. Readiness comes and goes: metrics tell that."""
        wrong = tuple(each for each in _all(verdict) if each.status == "False" and each.type != "Ready")
        before = self._told.get(verdict.key, ())
        said = {each.message for each in before}
        what = f"{verdict.kind} {verdict.namespace}/{verdict.name}"
        for each in wrong:
            if each.message not in said:
                said.add(each.message)
                _log.warning("%s: %s: %s", what, each.reason, each.message)
        if before and not wrong:
            _log.info("%s is in order again", what)
        if wrong:
            self._told[verdict.key] = wrong
        else:
            self._told.pop(verdict.key, None)


def packed(tree: Tree) -> bytes:
    """What saying something of an object goes by, as JSON: whole trees of thousands would take most of the memory."""
    metadata = {key: value for key in _NEEDED if isinstance(value := tree["metadata"].get(key), str | int)}
    try:
        return msgspec.json.encode({"metadata": metadata, "status": tree.get("status")})
    except RecursionError:
        return msgspec.json.encode({"metadata": metadata})


def _all(verdict: Verdict) -> Iterable[Condition]:
    yield from verdict.conditions
    for parent in verdict.parents or ():
        yield from parent.conditions
