"""The profile of gateways; its cases are in the modules beside. (P)"""

from __future__ import annotations

from conformance.suite.case import Profile

PROFILE = Profile("gateway", "any gateway that speaks OpenAI's API")
