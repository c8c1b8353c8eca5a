"""What the end of a request counts as: a failure of a server's, a refusal, both or neither. (P)"""

from __future__ import annotations

from typing import Final

from gateway.errors import Forbidden, Overloaded, RateLimited, Unauthorized

CLIENT_GONE: Final = 499
"""The status of a request whose client left before its answer ended (nginx's convention)."""
_LEFT: Final = "client_gone"
_REFUSALS: Final = frozenset(error.reason for error in (RateLimited, Overloaded, Forbidden, Unauthorized))


def is_error(status: int, reason: str) -> bool:
    """Whether a request that ended so failed by a server's fault: it was answered 5xx, for want of room among others,
    or its answer broke after it began. Alerts and dashboards say the same.
    """
    return status >= 500 or (0 < status < 400 and reason not in ("", _LEFT))


def is_refusal(status: int, reason: str) -> bool:
    """Whether a request that ended so was turned away though nothing was wrong with it: by limits, by admission, for
    want of credentials.
    """
    return status >= 400 and status != CLIENT_GONE and reason in _REFUSALS
