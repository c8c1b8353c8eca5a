"""The profile of endpoint pickers; its cases are in the modules beside. (P)"""

from __future__ import annotations

from conformance.suite.case import Profile

PROFILE = Profile("epp", "any endpoint picker for Envoy")
NEEDS = ("ext_proc",)
PROTOCOL = "Gateway API Inference Extension, proposal 004: endpoint picker protocol"
PROTO = "envoy/service/ext_proc/v3/external_processor.proto"
