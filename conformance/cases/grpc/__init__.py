"""What a server of ``inference.v1.InferenceService`` owes its clients, in whatever language either is written. (P)

``--grpc HOST:PORT`` says where it is.
"""

from __future__ import annotations

from conformance.cases.grpc import answers, calls, framing, refusals, services, streams, time  # noqa: F401  they register
from conformance.cases.grpc.profile import PROFILE

__all__ = ["PROFILE"]
