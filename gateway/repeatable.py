"""Whether a request may be run twice at once: asked twice, an engine does twice what a client wanted once. (P)

Invariant: what is not understood is not repeated.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

from gateway.types import InferenceRequest, Operation

_CLIENT_TOOLS: Final = (None, "", "function", "custom")
_ABSENT: Final = (b"", b"null")


class _Tool(msgspec.Struct, frozen=True, gc=False):
    type: str | None = None


class _Members(msgspec.Struct, frozen=True, gc=False):
    """What keeps something, costs several answers, or has the engine itself reach out. All else passes unread."""

    store: bool | None = None
    background: bool | None = None
    n: int | None = None
    best_of: int | None = None
    use_beam_search: bool | None = None
    tools: tuple[_Tool, ...] | None = None
    web_search_options: Raw = Raw()
    conversation: Raw = Raw()
    mcp_servers: Raw = Raw()
    container: Raw = Raw()


_decode: Final = msgspec.json.Decoder(_Members).decode


def repeatable(request: InferenceRequest) -> bool:
    """Nothing is kept of it, nobody but its client runs its tools, and one answer is all it asks for. A response is
    stored unless its request says otherwise.
    """
    try:
        members = _decode(request.body)
    except (msgspec.MsgspecError, RecursionError):
        return False
    if members.store or members.background or (request.operation is Operation.RESPONSES and members.store is None):
        return False
    if (members.n or 1) > 1 or (members.best_of or 1) > 1 or members.use_beam_search:
        return False
    reaching = (members.web_search_options, members.conversation, members.mcp_servers, members.container)
    return all(bytes(each) in _ABSENT for each in reaching) and _clients(members.tools or ())


def _clients(tools: tuple[_Tool, ...]) -> bool:
    """Whether its client runs them all: those that a server runs have types of their own."""
    return all(tool.type in _CLIENT_TOOLS for tool in tools)
