"""What is said of ModelRoutes, ModelServers and providers: conditions in words that lead to the fault. (P)

Invariant: what is said follows from the objects alone: two replicas that know the same say the same, and what has not
changed is not said again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.config.cluster_pools import ClusterPools
from gateway.config.cluster_routes import ClusterRoutes, asks
from gateway.config.extension import ALPHA, CURRENT
from gateway.config.extension import beside as pool_beside
from gateway.config.gateway_bindings import Bindings
from gateway.config.routing import targets
from gateway.config.standing import Head, Shelf, Slot, Standing, Standings
from gateway.config.verdict import Condition, Truth, Verdict

JUDGED: Final = ("ModelRoute", "ModelServer", "ExternalModelProvider")
DIRECTIVES: Final = ("InferenceObjective", "InferenceModelRewrite")
"""Of these it is only said whether they are accepted."""
_LONGEST: Final = 2000
"""Characters of a message; Kubernetes takes 32,768."""

Key = tuple[str, str, str, str]


class Judge:
    """Says it once. ``warnings``: for the log, of all objects by slot, without what verdicts say is wrong."""

    def __init__(self, standings: Standings, pools: ClusterPools, routes: ClusterRoutes, bindings: Bindings) -> None:
        self.warnings: Shelf[tuple[str, ...]] = Shelf()
        self._standings, self._pools, self._routes, self._bindings = standings, pools, routes, bindings
        self._due: dict[Slot, None] = {}
        self._told: dict[Key, Verdict] = {}
        self._news: dict[Key, Verdict] = {}

    def all(self) -> None:
        self._due.update(dict.fromkeys(self._standings.slots()))

    def due(self, slot: Slot) -> None:
        """Something has changed about it."""
        self._due[slot] = None
        if slot[0] in DIRECTIVES:  # one of the earlier group may count now, or not any more
            self._due[f"{slot[0]} of {ALPHA}", slot[1]] = None

    def forget(self, head: Head) -> None:
        key = head.api_version, head.kind, head.namespace, head.name
        self._told.pop(key, None)
        self._news.pop(key, None)
        self.due(head.slot)

    def steps(self) -> Iterator[None]:
        """Judge all that is due, one a step. Of what is not built as it is now nothing is said yet."""
        due, self._due = self._due, {}
        try:
            while due:
                slot = next(iter(due))
                del due[slot]
                if self._pools.due(slot) or self._routes.due(slot):
                    self._due[slot] = None
                    continue
                self._judge(slot)
                yield
        finally:
            self._due.update(due)

    def news(self) -> list[Verdict]:
        """What has changed since the last call."""
        found, self._news = list(self._news.values()), {}
        return found

    def _judge(self, slot: Slot) -> None:
        standings = self._standings.of(slot)
        lines: list[str] = []
        for standing in standings:
            beside = standings[0].head.api_version if standing is not standings[0] else ""
            lines += self._lines(standing, beside)
            if standing.head.kind not in (*JUDGED, *DIRECTIVES):
                continue
            verdict = self._verdict(standing, beside)
            if self._told.get(verdict.key) != verdict:
                self._told[verdict.key] = self._news[verdict.key] = verdict
        found = tuple(lines) or None
        if found != self.warnings.get(slot):
            self.warnings.put(slot, found)

    # --- in words -----------------------------------------------------------------------------------------------------

    def _lines(self, standing: Standing, beside: str) -> list[str]:
        where = standing.where
        if beside:
            where = f"{where} of {standing.head.api_version}"
            return [f"{where}: {text}" for text in (f"not used: {_same(standing, beside)}", *standing.problems)]
        newest = standing.newest
        found = []
        if standing.head.kind not in (*JUDGED, *DIRECTIVES):  # of those the verdict tells
            found += [*standing.problems, *(flaw.text for flaw in standing.flaws)]
        found += [flaw.text for flaw in newest.warnings] if newest is not None else []
        found += self._notes(standing)
        return [f"{where}: {text}" for text in found]

    def _notes(self, standing: Standing) -> list[str]:
        """What is odd about it together with others."""
        slot = standing.head.slot
        base = self._pools.find(*slot)
        if base is not None and base.name in self._pools.taken:
            return [f"not used: a pool {base.name} is configured in files"]
        if base is not None and base.selector is not None:
            return self._pools.index[slot].warnings()
        if standing.head.kind in DIRECTIVES:
            return list(self._idle(standing))
        unmet = self._routes.unmet.get(slot)
        return [unmet] if unmet else []

    def _idle(self, standing: Standing) -> Iterator[str]:
        """Why what it says of a pool's requests says nothing now."""
        kind, name = standing.head.kind, standing.head.full_name
        if standing.head.slot[0] != kind and self._standings.first((kind, name)) is not None:
            yield f"not used: the {kind} of that name in {CURRENT} comes first"
        elif standing.newest is not None:
            pool = pool_beside(name, standing.newest.resource.content.pool_ref)
            if self._pools.find("InferencePool", pool) is None:
                namespace, _, short = pool.partition("/")
                yield f'$.spec.poolRef.name: no InferencePool "{short}" in namespace "{namespace}"'

    def _verdict(self, standing: Standing, beside: str) -> Verdict:
        head = standing.head
        if head.kind in DIRECTIVES:
            conditions = [self._accepted(standing)]
        elif beside:
            no = _same(standing, beside)
            accepted = _no("Accepted", "Invalid" if standing.problems else "Superseded", *standing.problems, no)
            conditions = [accepted, _no("Ready", "Superseded", no)]
        else:
            conditions = [self._accepted(standing), self._resolved(standing), self._ready(standing)]
            if head.kind == "ExternalModelProvider":
                conditions.append(_credentials(standing))
        return Verdict(
            head.api_version, head.kind, head.namespace, head.name, head.uid, head.generation, tuple(conditions)
        )

    def _accepted(self, standing: Standing) -> Condition:
        faults = [*standing.problems, *(flaw.text for flaw in standing.flaws if not flaw.reference)]
        if faults:
            return _no("Accepted", "Invalid", *faults, _instead(standing) or "this version serves, without that")
        base = self._pools.find(*standing.head.slot)
        if base is not None and base.name in self._pools.taken:
            return _no("Accepted", "Conflicted", *self._notes(standing))
        odd = [flaw.text for flaw in standing.newest.warnings] if standing.newest is not None else []
        return _yes("Accepted", "Accepted", *odd, *self._notes(standing), *dict.fromkeys(self._older(standing)))

    def _older(self, standing: Standing) -> Iterator[str]:
        """Who is asked before this route."""
        route = self._routes.routes.get(standing.head.slot)
        for base, name, by in asks(route) if route is not None else ():
            what = "model" if base else "LoRA"
            owner = "" if base else self._routes.first(True, name, by)
            first = self._routes.first(base, name, by)
            if owner:
                yield f'the LoRA "{name}" is not asked here: the ModelRoute {owner} has a model of that name'
            elif first not in ("", standing.head.full_name):
                yield f'for the {what} "{name}" the ModelRoute {first} is asked first, which is older'

    def _resolved(self, standing: Standing) -> Condition:
        """Targets that are not there first; then Gateways."""
        found = _references("ResolvedRefs", standing)
        if standing.head.kind != "ModelRoute" or standing.newest is None:
            return found
        faults = self._bindings.faults(standing.newest.resource)
        if not faults:
            return found
        parts = (found.message,) if found.status == "False" else ()
        reason = found.reason if parts else faults[0].reason
        return _no("ResolvedRefs", reason, *parts, *(fault.text for fault in faults))

    def _ready(self, standing: Standing) -> Condition:
        if standing.serving is None or standing.product is None:
            return _no("Ready", "NotServing", "no version of it can serve")
        if standing.head.kind == "ModelRoute":
            return self._route_ready(standing)
        slot = standing.head.slot
        base = self._pools.find(*slot)
        if base is not None and base.selector is not None:
            ready, pods = self._pools.members(slot)
            message = f"{ready} of {pods} pods are ready" if pods else "no pod matches the selector"
            return _yes("Ready", "Ready", message) if self._pools.usable(slot) else _no("Ready", "NoReadyPods", message)
        count = 0 if base is None else len(base.endpoints)
        if not count:
            return _no("Ready", "NoEndpoints", "without what it names it has no endpoints")
        return _yes("Ready", "Ready", f"{count} endpoint{'s are' if count > 1 else ' is'} configured")

    def _route_ready(self, standing: Standing) -> Condition:
        assert standing.serving is not None
        if not self._bindings.taken(standing.serving.resource):
            return _no("Ready", "NotAttached", "it is bound to Gateways, and no listener takes it")
        rules = list(targets(standing.serving.resource))
        idle = [index for index, slots in enumerate(rules) if not any(map(self._pools.usable, slots))]
        if not idle:
            return _yes("Ready", "Ready", "every rule has a target with endpoints")
        return _no("Ready", "NoEndpoints", *(f"$.spec.rules[{index}]: no target has an endpoint" for index in idle))


def _credentials(standing: Standing) -> Condition:
    return _references("CredentialsResolved", standing, "$.spec.auth")


def _references(name: str, standing: Standing, below: str = "$") -> Condition:
    missing = [flaw for flaw in standing.flaws if flaw.reference and flaw.path.startswith(below)]
    if missing:
        route = standing.head.kind == "ModelRoute"
        reason = "TargetNotFound" if route else "RefNotFound"
        return _no(name, reason, *(flaw.text for flaw in missing), _instead(standing) or _partly(standing))
    if standing.newest is None:
        return Condition(name, "Unknown", "Invalid", "no version of it could be read")
    return _yes(name, name)


def _instead(standing: Standing) -> str:
    """Which version serves, if it is not what the object says now."""
    serving = standing.serving
    if serving is None:
        return "no version of it can serve"
    if serving is standing.newest and not standing.problems:
        return ""
    return f"the version of generation {serving.generation} serves" if serving.generation else "the one before serves"


def _partly(standing: Standing) -> str:
    if standing.head.kind == "ModelRoute":
        return "what there is of it serves"
    good = standing.serving is not None and standing.serving.good is not None
    return "what was last read of it stays in use" if good else "it has no endpoints until then"


def _same(standing: Standing, beside: str) -> str:
    return f"the {standing.head.kind} of the same name in {beside} serves"


def _yes(name: str, reason: str, *parts: str) -> Condition:
    return _condition(name, "True", reason, parts)


def _no(name: str, reason: str, *parts: str) -> Condition:
    return _condition(name, "False", reason, parts)


def _condition(name: str, status: Truth, reason: str, parts: tuple[str, ...]) -> Condition:
    message = "; ".join(parts)
    return Condition(name, status, reason, message if len(message) <= _LONGEST else f"{message[: _LONGEST - 1]}…")
