"""Exchanges as reports show them, with the command that repeats each. (P)

Invariant: no key is in anything returned here; a reader finds ``$API_KEY`` in its place.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
from urllib.parse import quote

from conformance.suite.outcome import Exchange
from conformance.suite.target import Setup, Trace

_SECRET = frozenset(("authorization", "x-api-key", "api-key", "cookie", "set-cookie", "x-goog-api-key"))
_DULL = frozenset(("user-agent", "accept-encoding", "content-length"))
_LONGEST = 4000
_LONGEST_ARGUMENT = 100_000
_CUT = "… ("
_PART = 6
"""Characters of a key, at the end of what was cut, that are worth hiding."""


class Secrets:
    """Keys of a run, and what stands in their place: ``$API_KEY``, or ``$LIMITED_KEY`` for ``--set limited_key=…``."""

    def __init__(self, setup: Setup) -> None:
        named = {"api_key": setup.key} | {name: value for name, value in setup.extra.items() if name.endswith("key")}
        self.keys = {value: f"${name.upper()}" for name, value in named.items() if value}
        forms = {form: name for value, name in self.keys.items() for form in _forms(value)}
        self._names = forms
        self._any = re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True)))) if forms else None

    def hide(self, text: str) -> str:
        """``text`` with a name in place of each key, however an answer that repeats it writes it."""
        if self._any is None:
            return text
        text = self._any.sub(lambda found: self._names[found[0]], text)
        return self._without_parts(text) if _CUT in text else text

    def _without_parts(self, text: str) -> str:
        for form, name in self._names.items():
            for length in range(len(form) - 1, _PART - 1, -1):
                text = text.replace(form[:length] + _CUT, name + _CUT)
        return text


def _forms(key: str) -> set[str]:
    """A key as it is, in JSON, in JSON inside JSON, each for a shell too; in a URL, in base64."""
    written = [key]
    for _ in range(3):
        written.append(json.dumps(written[-1])[1:-1])
    written += [repr(key)[1:-1], key.replace("\\", "\\x5c")]
    shell = [each.replace("'", "'\"'\"'") for each in written]
    return {*written, *shell, quote(key), base64.b64encode(key.encode()).decode()}


def exchange(trace: Trace, secrets: Secrets, now: float) -> Exchange:
    """Keys are hidden wherever they stand, an answer that repeats them included."""
    answer, hide = trace.answer, secrets.hide
    return Exchange(
        method=trace.method,
        url=hide(trace.url),
        request=hide(_cut(trace.body)),
        status=answer.status if answer else None,
        headers=tuple((hide(n), "…" if n in _SECRET else hide(v)) for n, v in answer.fields) if answer else (),
        answer=hide(_cut(bytes(answer.body[: _LONGEST * 4]), len(answer.body))) if answer else "",
        error=hide(trace.error),
        command=hide(trace.command or curl(trace, secrets)),
        seconds=(trace.ended or now) - trace.sent,
    )


def curl(trace: Trace, secrets: Secrets) -> str:
    """A command line for a shell; what is too long for one is told instead of shown. A key that a case made up to be
    refused stands there as it was sent.
    """
    words = ["curl", "-sSN", "-i"]
    if trace.method not in ("GET", "POST") or (trace.method == "POST" and not trace.body):
        words += ["-X", trace.method]
    words.append(shlex.quote(trace.url))
    for name, value in trace.headers:
        if name in _SECRET:
            words += ["-H", _field(f"{name}: {value}", secrets)]
        elif name not in _DULL:
            words += ["-H", shlex.quote(f"{name}: {value}")]
    if trace.body:
        words += ["--data-binary", _argument(trace.body)]
    return " ".join(words)


def _field(line: str, secrets: Secrets) -> str:
    """A header field for a shell, which puts in the key."""
    hidden = secrets.hide(line)
    return f'"{hidden}"' if hidden != line else shlex.quote(line)


def _argument(body: bytes) -> str:
    if len(body) > _LONGEST_ARGUMENT:
        return f"@body-of-{len(body)}-bytes"
    try:
        return shlex.quote(body.decode())
    except UnicodeDecodeError:
        escaped = "".join(f"\\x{byte:02x}" for byte in body)
        return f"$'{escaped}'"


def _cut(data: bytes, size: int = 0) -> str:
    text = data.decode("utf-8", "backslashreplace")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}{_CUT}{size or len(data)} bytes)"
