"""What the panels show: for each, what its rows are and what stands in its columns. (P)

A column has its cells' text and style by row, and what the row is sorted by. Those with a number in ``drop`` give way
where there is no room, the highest first, or nothing to show.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from gateway.live_verdict import REASONS
from gateway.top.feed import Node, node, nodes, number, word, words
from gateway.top.plain import bar, count, percent, plain, seconds, versus

Cell = tuple[str, str]
"""(plain text, style)."""
Key = tuple[bool, float, str]
"""Those without a value last, numbers from the highest, texts from A."""

GOOD, WARN, BAD, DIM, PLAIN = "green", "yellow", "red", "dim", ""
_STATES: Final = {"ready": GOOD, "slow-start": WARN, "half-open": WARN, "unknown": WARN, "draining": WARN}


class Column(NamedTuple):
    """``width``: cells it has at least; ``grows``: it takes more where there is more to show. ``name``: texts are cut
    where they are alike; ``tail``: where nothing says so, the end of one is worth more than its beginning.
    """

    title: str
    width: int
    show: Callable[[Node], Cell]
    key: Callable[[Node], Key]
    grows: bool = False
    right: bool = False
    drop: int = 0
    name: bool = False
    tail: bool = False


def _unexplained(state: Node) -> str:
    return ""


class Panel(NamedTuple):
    """``rows`` of a state; ``left_out``: the member with the number of those that the gateway kept to itself. ``none``:
    why there are no rows, "" where that needs no word.
    """

    title: str
    rows: Callable[[Node], list[Node]]
    columns: tuple[Column, ...]
    left_out: str = ""
    none: Callable[[Node], str] = _unexplained


def _text(title: str, width: int, member: str = "", style: str = PLAIN, drop: int = 0) -> Column:
    member = member or title
    return Column(
        title,
        width,
        lambda row: (word(row, member), style),
        lambda row: (not word(row, member), 0.0, word(row, member).casefold()),
        grows=True,
        drop=drop,
        name=True,
        tail=title in ("pool", "route"),  # namespace/name
    )


def _figure(
    title: str,
    width: int,
    shown: Callable[[float | None], str],
    member: str = "",
    drop: int = 0,
    warn: float | None = None,
    bad: float | None = None,
) -> Column:
    """A number, of concern from ``warn`` and ``bad`` up."""
    member = member or title

    def show(row: Node) -> Cell:
        value = number(row, member)
        text = shown(value)
        if value is None:
            return "-", DIM
        concern = BAD if bad is not None and value >= bad else WARN if warn is not None and value >= warn else PLAIN
        return text, concern or (DIM if text == "0" else PLAIN)

    return Column(title, width, show, lambda row: _descending(number(row, member)), right=True, drop=drop)


def _descending(value: float | None) -> Key:
    return value is None, -(value or 0.0), ""


def _state(row: Node) -> Cell:
    state = word(row, "state")
    return state, _STATES.get(state, BAD)


def reason(row: Node) -> str:
    """Why an endpoint is as it is, in words."""
    return REASONS.get(word(row, "why"), word(row, "why"))


def _why(row: Node) -> Cell:
    return reason(row), WARN


def _kv(row: Node) -> Cell:
    used = number(row, "kv")
    if used is None:
        return "-", DIM
    return f"{bar(used, 8)} {percent(used):>4}", BAD if used >= 0.95 else WARN if used >= 0.85 else PLAIN


def _load(row: Node) -> Cell:
    running, waiting = number(row, "running"), number(row, "waiting")
    if running is None and waiting is None:
        return "-", DIM
    return f"{count(running)}/{count(waiting)}", WARN if waiting else PLAIN


def _served(row: Node) -> Cell:
    share, fair = number(row, "share"), number(row, "fair")
    if share is None:
        return "-", DIM
    return f"{versus(share, fair, 12)} {percent(share):>4}", WARN if fair and share > 2 * fair else PLAIN


def _unshared(state: Node) -> str:
    """Nobody waits for anybody where no pool shares its engines out."""
    pools = nodes(state, "pools")
    if not pools or nodes(state, "flows"):
        return ""
    return "fairness is off" if all(pool.get("fairness") is False for pool in pools) else ""


def _match(row: Node) -> Cell:
    return word(row, "match"), DIM


def _target(row: Node) -> Cell:
    pool, model = word(row, "pool"), word(row, "model")
    return f"{pool} as {model}" if model else pool, PLAIN


def _split(row: Node) -> Cell:
    share, weight = number(row, "share"), number(row, "weight")
    return (versus(share, weight, 12), PLAIN) if share is not None else ("", DIM)


def _targets(state: Node) -> list[Node]:
    """A row for each target of each route."""
    return [
        {**target, "route": word(route, "name"), "match": word(route, "match")}
        for route in nodes(state, "routes")
        for target in nodes(route, "targets") or [{}]
    ]


def _ready(row: Node) -> Cell:
    ready, members = number(row, "ready"), number(row, "members")
    style = GOOD if ready == members else BAD if not ready else WARN
    return f"{count(ready)}/{count(members)}", style


def _endpoint(row: Node) -> Cell:
    """Those that were tried, the last one first, since it is the one that answers."""
    tried = words(row, "tried")
    return (tried[-1] + ("" if len(tried) == 1 else f" after {len(tried) - 1}") if tried else "-"), PLAIN


def _because(row: Node) -> Cell:
    """What was known of the endpoint that was chosen, and how it stood beside the others."""
    candidates = nodes(row, "candidates")
    tried = words(row, "tried")
    chosen = next((seen for seen in candidates if tried and word(seen, "endpoint") == tried[0]), None)
    if chosen is None:
        return f"{len(candidates)} candidates" if candidates else "", DIM
    place = 1 + sum((number(seen, "score") or 0.0) > (number(chosen, "score") or 0.0) for seen in candidates)
    load, scores, cost = node(chosen, "load"), dict(node(chosen, "scores")), number(chosen, "costSeconds")
    weighed = cost is not None and scores.pop("cost", None) is not None  # which is the same again, from 0 to 1
    parts = [
        f"no. {place} of {len(candidates)}",
        f"costs everybody {seconds(cost)}" if weighed else "",
        f"{count(number(chosen, 'hitTokens'))} of {count(number(row, 'promptTokens'))} tokens cached",
        f"{count(number(chosen, 'inFlight'))} in flight",
        f"{count(number(load, 'waiting'))} waiting" if load else "",
        f"KV {percent(number(load, 'kvUsage'))}" if load else "",
        *(f"{plain(name, 20)} {count(number(scores, name))}" for name in list(scores)[:6]),
    ]
    return ", ".join(filter(None, parts)), DIM


def _nowhere(row: Node) -> Key:
    return False, 0.0, ""


def _models(row: Node) -> Cell:
    return " ".join(words(row, "models")), DIM


ENDPOINTS: Final = Panel(
    "Endpoints",
    lambda state: nodes(state, "endpoints"),
    (
        _text("pool", 8, style=DIM),
        _text("endpoint", 14, "id"),
        _text("engine", 6, drop=5),
        Column("state", 10, _state, lambda row: (False, _STATES.get(word(row, "state")) == GOOD, word(row, "state"))),
        Column("KV usage", 13, _kv, lambda row: _descending(number(row, "kv"))),
        Column("run/wait", 8, _load, lambda row: _descending(number(row, "waiting")), right=True),
        _figure("inflight", 8, count),
        _figure("hit", 5, percent),
        _figure("age", 6, seconds, drop=3, warn=5.0),
        _figure("req/s", 6, count, "rps", drop=2),
        _figure("tok/s", 6, count, "tokens_out", drop=4),
        Column("why", 8, _why, lambda row: (not reason(row), 0.0, reason(row)), grows=True, drop=1),
        Column("models", 8, _models, _nowhere, grows=True, drop=6),
    ),
    "endpoints_left_out",
)
FLOWS: Final = Panel(
    "Flows",
    lambda state: nodes(state, "flows"),
    (
        _text("tenant", 8, drop=3),
        _text("caller", 10),
        _text("tier", 6, drop=4),
        _text("pool", 8, style=DIM, drop=2),
        _figure("served", 6, count),
        Column("share ┃ fair", 17, _served, lambda row: _descending(number(row, "share"))),
        _figure("fair", 5, percent),
        _figure("queued", 6, count, warn=1),
        _figure("inflight", 8, count),
        _figure("waits", 6, seconds, "wait", warn=1.0, bad=10.0),
    ),
    "flows_left_out",
    _unshared,
)
ROUTES: Final = Panel(
    "Routes",
    _targets,
    (
        _text("route", 12),
        Column("match", 10, _match, lambda row: (False, 0.0, word(row, "match")), grows=True, drop=2),
        Column("target", 12, _target, lambda row: (False, 0.0, word(row, "pool")), grows=True, name=True, tail=True),
        _figure("weight", 6, percent),
        _figure("share", 5, percent),
        Column("┃ as weighted", 13, _split, lambda row: _descending(number(row, "share")), drop=1),
        _figure("req/s", 6, count, "rps"),
        _figure("errors/s", 8, count, "errors", bad=0.01),
    ),
    "routes_left_out",
)
DECISIONS: Final = Panel(
    "Decisions",
    lambda state: nodes(state, "decisions"),
    (
        _text("request", 10, "id"),
        _text("model", 10),
        _text("pool", 8, style=DIM, drop=3),
        Column("endpoint", 14, _endpoint, lambda row: (False, 0.0, _endpoint(row)[0]), grows=True, name=True),
        _figure("ttft", 6, seconds, "ttftSeconds", drop=2),
        Column("because", 16, _because, _nowhere, grows=True, drop=1),
    ),
)
POOLS: Final = Panel(
    "Pools",
    lambda state: nodes(state, "pools"),
    (
        _text("pool", 12, "name"),
        Column("ready", 7, _ready, lambda row: _descending(number(row, "ready")), right=True),
        _figure("full", 5, percent, "saturation", warn=0.8, bad=1.0),
        _figure("inflight", 8, count),
        _figure("queued", 6, count, warn=1),
        _figure("req/s", 6, count, "rps"),
        _figure("tok/s", 6, count, "tokens_out", drop=1),
        _figure("ttft p50", 8, seconds, "ttft_p50"),
        _figure("p99", 6, seconds, "ttft_p99"),
        _figure("hit", 5, percent, "hit_ratio"),
    ),
    "pools_left_out",
)
PANELS: Final = (ENDPOINTS, FLOWS, ROUTES, DECISIONS, POOLS)
