"""What is sent: the target and the bytes of each request, built once before the clock starts. (P)

Invariant: every message is a whole HTTP/1.1 request with a Content-Length; the same seed gives the same messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import msgspec

Api = Literal["chat", "completions", "embeddings"]

PATHS: Mapping[Api, str] = {"chat": "/chat/completions", "completions": "/completions", "embeddings": "/embeddings"}

# Common short words: about one token each for the tokenizers in use.
_WORDS = """
the of and to in is that it was for on are with as his they be at one have this from or had by not but what
all were when we there can an your which their said if do will each about how up out them then she many some
so these would other into has more her two like him see time could no make than first been its who now people
my made over
""".split()  # noqa: SIM905


class Choice(Protocol):
    """The part of ``random.Random`` used here."""

    def choice(self, words: list[str], /) -> str: ...


class Target(msgspec.Struct, frozen=True):
    """Where requests go. ``prefix`` is the path before ``/chat/completions``, ``/v1`` unless the URL names another."""

    tls: bool
    host: str
    port: int
    prefix: str

    @property
    def authority(self) -> str:
        """The Host header: brackets around IPv6, the port unless it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


class Workload(msgspec.Struct, frozen=True):
    """One kind of request. ``prompt_tokens`` is approximate; ``extra`` members are merged into the body last."""

    model: str
    api: Api = "chat"
    stream: bool = True
    prompt_tokens: int = 32
    max_tokens: int = 128
    usage: bool = True
    api_key: str | None = None
    extra: dict[str, Any] = {}

    @property
    def streamed(self) -> bool:
        """Embeddings are never streamed."""
        return self.stream and self.api != "embeddings"


def parse_target(url: str) -> Target:
    """Read a base URL, with or without a path; that of an endpoint is cut to its base.

    Without a scheme the port is needed, which tells ``host:8000`` from a slip. Raises ValueError naming what is wrong.
    """
    parts = urlsplit(url if "//" in url else f"http://{url}")
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{url}: the scheme must be http or https")
    if not parts.hostname:
        raise ValueError(f"{url}: no host")
    if "//" not in url and parts.port is None:
        raise ValueError(f"{url}: not a URL such as http://127.0.0.1:8000")
    tls = parts.scheme == "https"
    path = parts.path.rstrip("/")
    prefix = next((path.removesuffix(end) for end in PATHS.values() if path.endswith(end)), path)
    return Target(tls, parts.hostname, parts.port or (443 if tls else 80), prefix or "/v1")


def prompt(tokens: int, chance: Choice) -> str:
    """About ``tokens`` tokens of plain English words."""
    return " ".join(chance.choice(_WORDS) for _ in range(tokens))


def body(workload: Workload, text: str) -> bytes:
    """The JSON body of one request."""
    value: dict[str, Any] = {"model": workload.model}
    if workload.api == "embeddings":
        value["input"] = text
    else:
        if workload.api == "chat":
            value["messages"] = [{"role": "user", "content": text}]
        else:
            value["prompt"] = text
        value["max_tokens"] = workload.max_tokens
        if workload.stream:
            value["stream"] = True
            if workload.usage:
                value["stream_options"] = {"include_usage": True}
    return msgspec.json.encode(value | workload.extra)


def message(target: Target, method: str, path: str, content: bytes = b"", api_key: str | None = None) -> bytes:
    """A whole HTTP/1.1 request; ``path`` is relative to the target's prefix."""
    lines = [f"{method} {target.prefix}{path} HTTP/1.1", f"Host: {target.authority}", "User-Agent: infer-gateway-bench"]
    if content:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    if api_key:
        lines.append(f"Authorization: Bearer {api_key}")
    return "\r\n".join([*lines, "", ""]).encode() + content


def messages(target: Target, workload: Workload, chance: Choice, count: int = 64) -> tuple[bytes, ...]:
    """``count`` requests with different prompts, to be sent in turn."""
    path = PATHS[workload.api]
    bodies = (body(workload, prompt(workload.prompt_tokens, chance)) for _ in range(count))
    return tuple(message(target, "POST", path, content, workload.api_key) for content in bodies)
