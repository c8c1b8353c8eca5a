"""What the end of a request counts as: a failure of a server's, a refusal, or neither. (P)"""

from __future__ import annotations

from typing import Final

from gateway.errors import Forbidden, Overloaded, RateLimited, Unauthorized

CLIENT_GONE: Final = 499
"""The status of a request whose client left before its answer ended (nginx's convention)."""
_LEFT: Final = "client_gone"
_REFUSALS: Final = frozenset(error.reason for error in (RateLimited, Overloaded, Forbidden, Unauthorized))


def is_error(status: int, reason: str) -> bool:
    """Whether a request that ended so failed by a server's fault, before or after its answer began."""
    if status >= 500:
        return reason not in _REFUSALS
    return 0 < status < 400 and reason not in ("", _LEFT)


def is_refusal(status: int, reason: str) -> bool:
    """Whether a request that ended so was turned away though nothing was wrong with it: by limits, by admission, for
    want of credentials.
    """
    return status >= 400 and status != CLIENT_GONE and reason in _REFUSALS
