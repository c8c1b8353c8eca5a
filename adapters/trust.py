"""Who may say that an endpoint is the one that it should be: authorities as their files are now. (IO)

Invariant: a file that is replaced is read anew before the next connection; one that is half written, noise or gone
leaves in use what was read of it last. Connections that stand stay.
"""

from __future__ import annotations

import logging
import os
import ssl

from gateway.pem import copied
from gateway.types import Endpoint

_log = logging.getLogger("infer_gateway.transport")


class Unvouched(OSError):
    """Nobody can be trusted to be the endpoint. What it says is for clients; the file is named by its cause."""


class Trust:
    """What endpoints' certificates are verified by, by file."""

    def __init__(self) -> None:
        self._contexts: dict[tuple[bool, str], tuple[ssl.SSLContext, object]] = {}

    def context(self, endpoint: Endpoint) -> ssl.SSLContext:
        """For a connection to ``endpoint``. Raises Unvouched where no authorities were ever read from its file."""
        key, state = (endpoint.verify, endpoint.ca_file), _state(endpoint.ca_file)
        known = self._contexts.get(key)
        if known is not None and known[1] == state:
            return known[0]
        try:
            context = _made(endpoint)
        except OSError as error:
            if known is None:
                named = OSError(f"cannot use the authorities in {endpoint.ca_file}: {error}")
                raise Unvouched("the file of authorities that are to vouch for it cannot be used") from named
            why = "cannot use the authorities in %s: %s; those that were there before stay in use"
            _log.warning(why, endpoint.ca_file, error)
            context = known[0]
        self._contexts[key] = context, state
        return context


def _made(endpoint: Endpoint) -> ssl.SSLContext:
    if endpoint.ca_file:
        with copied(endpoint.ca_file) as [name]:
            context = ssl.create_default_context(cafile=name)
    else:
        context = ssl.create_default_context()
    if not endpoint.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _state(file: str) -> object:
    """Another one where the file is another; None where there is none to look at."""
    try:
        found = os.stat(file) if file else None
    except OSError:
        return None
    return found and (found.st_ino, found.st_size, found.st_mtime_ns)
