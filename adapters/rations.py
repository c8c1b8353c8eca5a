"""What providers say in headers that they will still take of us, as one `Ration`. (P)

Invariant: a header that is missing or makes no sense leaves the others as they are; times are spans, never instants.
Sources: OpenAI's and Anthropic's documentation of rate limit headers; Azure and others copy OpenAI's, some with plain
seconds for a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime

import msgspec

from adapters.failure import http_date
from gateway.config import duration
from gateway.types import Headers, Ration


class Names(msgspec.Struct, frozen=True):
    """How a provider calls them: what all begin with, and of requests and tokens the pairs of what is left and when
    there is more. Of several the one with the least left counts.
    """

    prefix: bytes
    requests: tuple[tuple[bytes, bytes], ...]
    tokens: tuple[tuple[bytes, bytes], ...]


OPENAI = Names(
    b"x-ratelimit-",
    ((b"x-ratelimit-remaining-requests", b"x-ratelimit-reset-requests"),),
    ((b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens"),),
)
ANTHROPIC = Names(
    b"anthropic-ratelimit-",
    ((b"anthropic-ratelimit-requests-remaining", b"anthropic-ratelimit-requests-reset"),),
    tuple(
        (b"anthropic-ratelimit-%b-remaining" % kind, b"anthropic-ratelimit-%b-reset" % kind)
        for kind in (b"tokens", b"input-tokens", b"output-tokens")
    ),
)


def read(headers: Headers, names: Names) -> Ration | None:
    """None where nothing is said."""
    prefix = names.prefix
    found = {name: value for name, value in headers if name.startswith(prefix)}
    if not found:
        return None
    now = next((value for name, value in headers if name == b"date"), b"")
    (requests, requests_reset), (tokens, tokens_reset) = (
        min((_pair(found, pair, now) for pair in pairs), default=_UNSAID) for pairs in (names.requests, names.tokens)
    )
    if requests == tokens == math.inf:
        return None
    return Ration(requests, requests_reset, tokens, tokens_reset)


_UNSAID = (math.inf, 0.0)


def _pair(found: Mapping[bytes, bytes], names: tuple[bytes, bytes], now: bytes) -> tuple[float, float]:
    """What is left and in how many seconds there is more; both have to be said."""
    left, reset = (found.get(name, b"").decode("latin-1").strip() for name in names)
    span = _span(reset, now.decode("latin-1"))
    if span is None or not left.isascii() or not left.isdigit() or len(left) > 15:
        return _UNSAID
    return float(left), span


def _span(text: str, now: str) -> float | None:
    """Seconds: a Go duration, a plain number, or a time (RFC 3339) counted from the answer's own Date."""
    try:
        if "T" in text:
            moment = datetime.fromisoformat(text)
            since = http_date(now)
            return None if since is None or moment.tzinfo is None else max(0.0, moment.timestamp() - since)
        return duration.parse(text if not text or text[-1].isalpha() else f"{text}s")
    except (ValueError, OverflowError):
        return None
