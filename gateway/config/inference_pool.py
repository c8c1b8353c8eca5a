"""InferencePool, with fields as published. (P)

Invariant: what decodes has passed every rule that can be judged by looking at one object alone.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from gateway.config.decode import Fault, Section
from gateway.config.resources import Name, Port


class PoolSelector(Section, frozen=True):
    """Pods of the pool's namespace. ``match_labels``: the labels that a member has, all of them."""

    match_labels: Annotated[dict[str, str], Meta(min_length=1, max_length=64)]


class TargetPort(Section, frozen=True):
    """``number``: of a port."""

    number: Port


H2C = "kubernetes.io/h2c"


class EndpointPickerRef(Section, frozen=True, kw_only=True):
    """Who picks for proxies in front of the pool. ``group``: of its kind, "" for a Service. ``kind``: what it is.
    ``name``: what it is called, in the pool's namespace. ``port``: where it listens; a Service needs one.
    ``failure_mode``: what a proxy does without it: refuse (FailClose) or choose by itself (FailOpen).
    """

    group: str = ""
    kind: str = "Service"
    name: Name
    port: TargetPort | None = None
    failure_mode: Literal["FailClose", "FailOpen"] = "FailClose"

    def __post_init__(self) -> None:
        if self.kind == "Service" and self.port is None:
            raise ValueError("port is required when kind is 'Service' or unspecified")


class InferencePool(Section, frozen=True):
    """Pods that serve the same models, chosen among by an endpoint picker. ``selector``: which pods. ``target_ports``:
    where each listens; every port of every pod is an endpoint. ``app_protocol``: what they speak there.
    ``endpoint_picker_ref``: who picks for proxies in front.
    """

    selector: PoolSelector
    target_ports: Annotated[tuple[TargetPort, ...], Meta(min_length=1, max_length=8)]
    app_protocol: Literal["http", "kubernetes.io/h2c"] = "http"
    endpoint_picker_ref: EndpointPickerRef | None = None

    def __post_init__(self) -> None:
        numbers = [port.number for port in self.target_ports]
        if len(set(numbers)) != len(numbers):
            raise Fault(".targetPorts", "port number must be unique")
