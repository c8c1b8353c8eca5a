"""The profile of inference.v1; its cases are in the modules beside. (P)"""

from __future__ import annotations

from conformance.suite.case import Profile

PROFILE = Profile("grpc", "any server of inference.v1.InferenceService")
NEEDS = ("grpc",)
PROTO = "inference/v1/inference.proto"
HTTP2 = "grpc doc/PROTOCOL-HTTP2.md"
