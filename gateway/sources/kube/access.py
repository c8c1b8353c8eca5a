"""A cluster's address and credentials, kept fresh. (IO)

Invariant: no token, key or output of a plugin is in any message; whatever blocks runs in a process or thread that a
cancellation leaves at once.
"""

from __future__ import annotations

import ssl
from typing import Self


class Access:
    """``server`` is a URL without a path's end; ``namespace`` our own; ``proxy`` a URL or ""."""

    server: str
    namespace: str
    server_name: str
    proxy: str

    @classmethod
    async def find(cls, kubeconfig: str = "", context: str = "") -> Self:
        """Explicit file, else the service account of a pod, else KUBECONFIG or ~/.kube/config. Raises ConfigError."""
        raise NotImplementedError

    async def headers(self) -> dict[str, str]:
        """The present Authorization, renewed before it expires. Raises OSError."""
        raise NotImplementedError
