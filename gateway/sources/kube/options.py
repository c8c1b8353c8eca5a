"""Which cluster is read, and what of it. (P)"""

from __future__ import annotations

import msgspec

CONFIG_MAP = "infer-gateway-config"
"""The ConfigMap that is read where none is named, if it is there."""
LEASE = "infer-gateway-status"
"""By which replicas elect who writes statuses."""


class Options(msgspec.Struct, frozen=True):
    """As on the command line. ``namespaces``: none means all. ``config_map``, ``service``: a name, or "namespace/name".

    The Service is the one in front of us, whose addresses Gateways of ours tell. ``lease``: one for all replicas that
    watch the same, and for no others. ``gateway_ports``: listen on ports of Gateways, too.
    """

    namespaces: tuple[str, ...] = ()
    config_map: str = ""
    service: str = ""
    lease: str = LEASE
    gateway_ports: bool = False
    kubeconfig: str = ""
    context: str = ""
