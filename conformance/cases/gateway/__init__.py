"""What a gateway in front of engines owes both its clients and the engines, whichever gateway it is. (P)

``--behind URL`` names engines behind it: what reaches them can be seen then, and where they are simulated ones they are
made to fail. Without it those cases are skipped.
"""

from __future__ import annotations

from conformance.cases.gateway import (  # noqa: F401  importing registers
    breaking,
    errors,
    failover,
    framing,
    identity,
    ids,
    leaving,
    load,
    models,
    passing,
    streams,
)
from conformance.cases.gateway.profile import PROFILE

__all__ = ["PROFILE"]
