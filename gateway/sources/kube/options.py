"""Which cluster is read, and what of it. (P)"""

from __future__ import annotations

import msgspec

CONFIG_MAP = "infer-gateway-config"
"""The ConfigMap that is read where none is named, if it is there."""


class Options(msgspec.Struct, frozen=True):
    """As on the command line. ``namespaces``: none means all. ``config_map``, ``service``: a name, or "namespace/name";
    the latter is the Service in front of us, whose addresses Gateways of ours tell.
    """

    namespaces: tuple[str, ...] = ()
    config_map: str = ""
    service: str = ""
    kubeconfig: str = ""
    context: str = ""
