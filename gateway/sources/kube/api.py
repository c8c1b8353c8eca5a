"""What election, status and events ask of an API server: the seam at which tests put one in memory. (P)"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from gateway.sources.kube.client import Reply

Tree = dict[str, Any]
"""An object as JSON says it."""
MERGE: Final = "application/merge-patch+json"
APPLY: Final = "application/apply-patch+yaml"
"""Server-side apply; JSON is YAML."""


class Api(Protocol):
    async def request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str | int] | None = None,
        body: object = None,
        content_type: str = "application/json",
        timeout: float | None = None,
    ) -> Reply:
        """A 2xx answer; raises `ApiError` and `Unreachable` of `gateway.sources.kube.client`."""
