"""A gRPC client for Trio: `connect`, then calls on the `Channel`, or the typed `InferenceClient` on top."""

from gateway.wire.grpc import Code
from protocols.grpc.client.call import Call
from protocols.grpc.client.channel import Channel, connect
from protocols.grpc.client.errors import RpcError
from protocols.grpc.metadata import Metadata

__all__ = ["Call", "Channel", "Code", "Metadata", "RpcError", "connect"]
