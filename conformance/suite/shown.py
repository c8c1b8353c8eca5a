"""Exchanges as reports show them, with the command that repeats each. (P)

Invariant: no key is in anything returned here; a reader finds ``$API_KEY`` in its place.
"""

from __future__ import annotations

import shlex

from conformance.suite.outcome import Exchange
from conformance.suite.target import Trace

_SECRET = frozenset(("authorization", "x-api-key", "api-key", "cookie", "set-cookie", "x-goog-api-key"))
_DULL = frozenset(("user-agent", "accept-encoding", "content-length"))
_LONGEST = 4000
_LONGEST_ARGUMENT = 100_000


def exchange(trace: Trace, key: str, now: float) -> Exchange:
    """``key`` is hidden wherever it stands, an answer that repeats it included."""
    answer = trace.answer
    return Exchange(
        method=trace.method,
        url=hidden(trace.url, key),
        request=hidden(_cut(trace.body), key),
        status=answer.status if answer else None,
        headers=tuple((n, "…" if n in _SECRET else hidden(v, key)) for n, v in answer.fields) if answer else (),
        answer=hidden(_cut(bytes(answer.body)), key) if answer else "",
        error=trace.error,
        command=hidden(trace.command or curl(trace), key),
        seconds=(trace.ended or now) - trace.sent,
    )


def hidden(text: str, key: str) -> str:
    return text.replace(key, "$API_KEY") if key else text


def curl(trace: Trace) -> str:
    """A command line for a shell; what is too long for one is told instead of shown."""
    words = ["curl", "-sSN", "-i"]
    if trace.method not in ("GET", "POST") or (trace.method == "POST" and not trace.body):
        words += ["-X", trace.method]
    words.append(shlex.quote(trace.url))
    for name, value in trace.headers:
        if name in _SECRET:
            scheme = "Bearer " if value.startswith("Bearer ") else ""
            words += ["-H", f'"{name}: {scheme}$API_KEY"']
        elif name not in _DULL:
            words += ["-H", shlex.quote(f"{name}: {value}")]
    if trace.body:
        words += ["--data-binary", _argument(trace.body)]
    return " ".join(words)


def _argument(body: bytes) -> str:
    if len(body) > _LONGEST_ARGUMENT:
        return f"@body-of-{len(body)}-bytes"
    try:
        return shlex.quote(body.decode())
    except UnicodeDecodeError:
        escaped = "".join(f"\\x{byte:02x}" for byte in body)
        return f"$'{escaped}'"


def _cut(data: bytes) -> str:
    text = data.decode("utf-8", "backslashreplace")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(data)} bytes)"
