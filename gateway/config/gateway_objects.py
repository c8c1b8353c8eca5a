"""What is read of Gateway API's objects, and of those that its routes lead to. (P)

Invariant: these kinds are others' to define, so a member that is not read may be anything; one that is read has its
type, or the object is refused with the member's path. A null member is one that was left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from gateway.config.decode import described
from gateway.config.envelope import instant
from gateway.config.extension import EARLIER, POOLS

GROUP: Final = "gateway.networking.k8s.io"
POOL_GROUPS: Final = (POOLS, EARLIER)


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What all of them derive from: unknown members are passed over."""


class Metadata(Part, frozen=True, kw_only=True):
    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    creation_timestamp: str = ""

    @property
    def age(self) -> float:
        """When it was created, in seconds since the epoch; 0 where that cannot be told."""
        try:
            return instant(self.creation_timestamp)
        except (ValueError, OverflowError):
            return 0.0


# -- GatewayClass, Gateway, ReferenceGrant ------------------------------------------------------------------------


class ClassSpec(Part, frozen=True, kw_only=True):
    controller_name: str


class RouteNamespaces(Part, frozen=True, kw_only=True):
    from_: str = msgspec.field(default="Same", name="from")


class RouteKind(Part, frozen=True, kw_only=True):
    group: str = GROUP
    kind: str


class AllowedRoutes(Part, frozen=True, kw_only=True):
    namespaces: RouteNamespaces = RouteNamespaces()
    kinds: tuple[RouteKind, ...] = ()


class ListenerSpec(Part, frozen=True, kw_only=True):
    name: str
    hostname: str = ""
    port: int
    protocol: str
    allowed_routes: AllowedRoutes = AllowedRoutes()


class GatewaySpec(Part, frozen=True, kw_only=True):
    gateway_class_name: str
    listeners: tuple[ListenerSpec, ...] = ()


class GrantFrom(Part, frozen=True, kw_only=True):
    group: str
    kind: str
    namespace: str


class GrantTo(Part, frozen=True, kw_only=True):
    group: str
    kind: str
    name: str = ""


class GrantSpec(Part, frozen=True, kw_only=True):
    from_: tuple[GrantFrom, ...] = msgspec.field(default=(), name="from")
    to: tuple[GrantTo, ...] = ()


# -- HTTPRoute ----------------------------------------------------------------------------------------------------


class ParentRef(Part, frozen=True, kw_only=True):
    group: str = GROUP
    kind: str = "Gateway"
    namespace: str = ""
    name: str
    section_name: str = ""
    port: int = 0


class PathSpec(Part, frozen=True, kw_only=True):
    type: str = "PathPrefix"
    value: str = "/"


class FieldSpec(Part, frozen=True, kw_only=True):
    type: str = "Exact"
    name: str
    value: str


class MatchSpec(Part, frozen=True, kw_only=True):
    path: PathSpec = PathSpec()
    headers: tuple[FieldSpec, ...] = ()
    query_params: tuple[FieldSpec, ...] = ()
    method: str = ""


class HeaderValue(Part, frozen=True, kw_only=True):
    name: str
    value: str


class HeaderModifier(Part, frozen=True, kw_only=True):
    set: tuple[HeaderValue, ...] = ()
    add: tuple[HeaderValue, ...] = ()
    remove: tuple[str, ...] = ()


class PathModifier(Part, frozen=True, kw_only=True):
    type: str
    replace_full_path: str = ""
    replace_prefix_match: str = ""


class RewriteSpec(Part, frozen=True, kw_only=True):
    hostname: str = ""
    path: PathModifier | None = None


class RedirectSpec(Part, frozen=True, kw_only=True):
    scheme: str | None = None
    hostname: str | None = None
    path: PathModifier | None = None
    port: int | None = None
    status_code: int = 302


class FilterSpec(Part, frozen=True, kw_only=True):
    type: str
    request_header_modifier: HeaderModifier = HeaderModifier()
    response_header_modifier: HeaderModifier = HeaderModifier()
    url_rewrite: RewriteSpec = RewriteSpec()
    request_redirect: RedirectSpec = RedirectSpec()


class BackendRef(Part, frozen=True, kw_only=True):
    """Its port is nobody's: a pool names its own."""

    group: str = ""
    kind: str = "Service"
    namespace: str = ""
    name: str
    weight: int = 1
    filters: tuple[FilterSpec, ...] = ()


class Timeouts(Part, frozen=True, kw_only=True):
    request: str = ""
    backend_request: str = ""


class RuleSpec(Part, frozen=True, kw_only=True):
    name: str = ""
    matches: tuple[MatchSpec, ...] = ()
    filters: tuple[FilterSpec, ...] = ()
    backend_refs: tuple[BackendRef, ...] = ()
    timeouts: Timeouts = Timeouts()


class RouteSpec(Part, frozen=True, kw_only=True):
    parent_refs: tuple[ParentRef, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[RuleSpec, ...] = (RuleSpec(),)


class RouteParents(Part, frozen=True, kw_only=True):
    """The least that has to be known of a route to say of it that the rest is wrong."""

    parent_refs: tuple[ParentRef, ...] = ()


# -- InferencePool, Service ---------------------------------------------------------------------------------------


class PickerRef(Part, frozen=True, kw_only=True):
    group: str = ""
    kind: str = "Service"
    name: str
    failure_mode: str = "FailClose"


class PoolSpec(Part, frozen=True, kw_only=True):
    """Of both versions."""

    app_protocol: str = "http"
    endpoint_picker_ref: PickerRef | None = None
    extension_ref: PickerRef | None = None

    @property
    def picker(self) -> PickerRef | None:
        return self.endpoint_picker_ref or self.extension_ref


class ServiceSpec(Part, frozen=True, kw_only=True):
    type: str = "ClusterIP"
    external_ips: tuple[str, ...] = msgspec.field(default=(), name="externalIPs")
    cluster_ips: tuple[str, ...] = msgspec.field(default=(), name="clusterIPs")


class Ingress(Part, frozen=True, kw_only=True):
    ip: str = ""
    hostname: str = ""


class LoadBalancer(Part, frozen=True, kw_only=True):
    ingress: tuple[Ingress, ...] = ()


class ServiceStatus(Part, frozen=True, kw_only=True):
    load_balancer: LoadBalancer = LoadBalancer()


_T = TypeVar("_T", bound=Part)


def read(tree: Mapping[str, Any], member: str, kind: type[_T]) -> _T:
    """A member of an object ("spec") as ``kind``. Raises ValueError whose text is "path: message"."""
    try:
        return msgspec.convert(_present(tree.get(member) or {}), kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        raise ValueError(f"$.{member}{path.removesuffix('`')}: {message[:1].lower()}{message[1:]}") from None
    except RecursionError:
        raise ValueError(f"$.{member}: nested too deeply") from None


def _present(value: Any) -> Any:
    """Without members that are null."""
    if isinstance(value, dict):
        return {name: _present(item) for name, item in value.items() if item is not None}
    return [_present(item) for item in value] if isinstance(value, list) else value


def whole(tree: object) -> Mapping[str, Any]:
    """Raises ValueError for what is no object."""
    if not isinstance(tree, dict):
        raise ValueError(f"$: expected an object, got {described(tree)}")
    return tree
