"""Whether a configuration lets everybody in without saying so. (P)"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.config.settings import Settings
from gateway.config.url import is_loopback


def exposed(settings: Settings, hosts: Iterable[str]) -> str:
    """What is wrong with listening on ``hosts``: open doors are opened knowingly. "" if nothing is. The admin plane's
    is no such door: beyond loopback it asks for a token of its own.
    """
    auth = settings.auth
    if auth.required is False or auth.configured:
        return ""
    for host in hosts:
        if not is_loopback(host):
            return (
                f"serving on {host} lets everybody in, as no authentication is configured; "
                "say `auth: {required: false}` in a GatewayConfiguration if that is meant"
            )
    return ""
