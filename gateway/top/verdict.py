"""Whether the fleet is well, and what is wrong, in one line: as the gateway says, while it says anything. (P)"""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.top.feed import Node, Picture, nodes, word
from gateway.top.plain import seconds

WELL, WARN, BAD = 0, 1, 2
_LEVELS: Final = {"bad": BAD}


class Verdict(msgspec.Struct, frozen=True):
    """``level`` is `WELL`, `WARN` or `BAD`, the worst of all problems; ``text`` has the worst first."""

    level: int
    text: str


def judge(picture: Picture) -> Verdict:
    state = picture.state
    if picture.away:
        return Verdict(BAD, f"no news since {picture.away_since} ({seconds(picture.away_s)}): {picture.away}")
    found = [(_LEVELS.get(word(problem, "level"), WARN), word(problem, "text")) for problem in nodes(state, "verdict")]
    if not found:
        return Verdict(WELL, _well(state))
    return Verdict(max(level for level, _ in found), " · ".join(text for _, text in found))


def _well(state: Node) -> str:
    endpoints = len(nodes(state, "endpoints"))
    pools = len(nodes(state, "pools"))
    return f"all is well: {endpoints} endpoint{'s'[: endpoints != 1]} in {pools} pool{'s'[: pools != 1]}"
