"""What stands behind the gRPC listener: inference.v1, health and reflection. (IO)

Imported only where it is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gateway.burden import burden
from gateway.config.settings import GrpcListener
from gateway.listen import Listener
from protocols.grpc import inference
from protocols.grpc.door import Door
from protocols.grpc.generated.upb import inference as inference_proto
from protocols.grpc.health import Health
from protocols.grpc.limits import Limits
from protocols.grpc.reflection import Reflection
from protocols.grpc.server import Server, Service


class Core(inference.Core, Protocol):
    """What it stands on."""

    def ready(self) -> bool: ...


def inference_door(core: Core, settings: GrpcListener, listeners: Sequence[Listener], client_write: float) -> Door:
    """``client_write``: seconds for a client that takes nothing."""
    health = Health([inference_proto.DESCRIPTOR.services_by_name["InferenceService"].full_name], core.ready)
    services: list[Service] = [inference.Inference(core, burden()), health]
    limits = Limits(
        max_message=settings.max_message_bytes,
        max_connections=settings.max_connections,
        max_streams=settings.max_streams,
        max_age=settings.max_connection_age,
        write_timeout=client_write,
    )
    reflection = Reflection(services, [inference_proto.DESCRIPTOR])
    return Door(Server([*services, reflection], listeners, limits), health)
