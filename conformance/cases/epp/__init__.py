"""What an endpoint picker owes the Envoy that asks it, whichever picker it is. (P)

``--ext-proc HOST:PORT`` says where it is, ``--model`` what it knows a route for. ``--set steering=yes``: it is
configured to heed the header of the Gateway API Inference Extension's conformance suite.
"""

from __future__ import annotations

from conformance.cases.epp import modes, refusing, requests, responses, streams, subsets  # noqa: F401  they register
from conformance.cases.epp.profile import PROFILE

__all__ = ["PROFILE"]
