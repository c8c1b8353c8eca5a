"""The screen as lines: what is the matter, the totals, and one panel or as many as there is room for. (P)

Invariant: at most as many lines as asked for, none wider than asked for, whatever the feed holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
from rich.cells import cell_len
from rich.text import Text

from gateway.top import verdict
from gateway.top.feed import Node, Picture, node, number
from gateway.top.panels import BAD, DIM, GOOD, PANELS, PLAIN, WARN
from gateway.top.plain import count, percent, plain, seconds, spark
from gateway.top.table import chosen, cut, heading, table
from gateway.top.view import View

_RPS, _ERRORS, _IN, _OUT, _P50, _P99, _INFLIGHT, _QUEUED = range(1, 9)
"""Places in a point of the history."""
_LEVELS: Final = {verdict.WELL: ("●", GOOD), verdict.WARN: ("▲", WARN), verdict.BAD: ("✖", BAD)}
_FURTHER: Final = 4
"""Lines below which no further panel is begun: a rule, titles, two rows."""
HELP: Final = (
    ("1 … 5, tab, ← →", "choose a panel; others follow where there is room"),
    ("↑ ↓, page, home, end", "scroll"),
    ("s, S", "sort by the next column, by the one before"),
    ("r", "the other way round"),
    ("/", "only rows that hold a text; enter: keep, escape: drop it"),
    ("p", "hold the picture; again to go on"),
    ("q, Ctrl-C", "leave"),
    ("", ""),
    ("● ▲ ✖", "all is well; something is amiss; requests suffer"),
    ("share ┃ fair", "a flow's part of all that was served, and its fair one"),
    ("weight, share", "of a route's requests: as configured, as served"),
    ("run/wait", "requests running and waiting, as the engine says"),
    ("inflight", "requests at the endpoint, as the gateway counts"),
    ("age", "since the endpoint was last heard"),
    ("hit", "share of prompt tokens that the engine's cache held"),
    ("full", "how full a pool is; at 100% its engines have no room"),
    ("because", "what was known of the endpoint, and its scores"),
)


class Frame(msgspec.Struct, frozen=True):
    """``first``: the row on top after all; ``page``: how many rows of the chosen panel are there."""

    lines: list[Text]
    first: int = 0
    page: int = 1


def frame(picture: Picture, view: View, width: int, height: int) -> Frame:
    """The whole screen, all its lines; these are not filled up."""
    lines = list(_top(picture, width))
    if view.help:
        lines += _help(width)
        lines += [Text(end="")] * (height - len(lines))
        return Frame(lines[:height])
    lines.append(_tabs(picture.state, view, width))
    foot = _foot(view, width)
    panels, first, page = _panels(picture.state, view, width, height - len(lines) - len(foot))
    lines += panels
    lines += [Text(end="")] * (height - len(lines) - len(foot))
    return Frame([*lines, *foot][:height], first, page)


def snapshot(picture: Picture, view: View, width: int) -> list[Text]:
    """Everything at once, in as many lines as it takes."""
    lines = list(_top(picture, width))
    for at, panel in enumerate(PANELS):
        sort, reverse = view.sorts[at], view.reverse and at == view.panel
        rows = chosen(panel, picture.state, view.filter, sort, reverse)
        lines += [Text(end=""), _title(at, picture.state, len(rows), width)]
        lines += table(panel, rows, width, sort, reverse) if rows else []
    return lines


def _top(picture: Picture, width: int) -> Iterator[Text]:
    state = picture.state
    parts = (
        f"infer-gateway {plain(picture.version, 32)}",
        plain(picture.url),
        f"up {seconds(number(state, 'uptime'))}",
        f"generation {count(number(state, 'generation'))}",
        picture.clock,
    )
    yield cut(Text("  ".join(filter(None, parts)), style=DIM, no_wrap=True, end=""), width)
    judged = verdict.judge(picture)
    sign, style = _LEVELS[judged.level]
    line = Text(f"{sign} {plain(judged.text, 400)}", style=f"bold {style}", no_wrap=True, end="")
    if cell_len(line.plain) > width:
        line.truncate(max(0, width), overflow="ellipsis")
    yield line
    sparks = 16 if width >= 140 else 10 if width >= 100 else 6
    yield _gauges(_requests(picture, sparks), width)
    yield _gauges(_tokens(picture, sparks), width)


Gauge = tuple[str, str, str, str]
"""(what, value, its style, the last minutes as blocks)"""


def _requests(picture: Picture, sparks: int) -> Iterator[Gauge]:
    totals = node(picture.state, "totals")
    errors, refused = number(totals, "errors"), number(totals, "refused")
    yield "req/s", count(number(totals, "rps")), PLAIN, _spark(picture, _RPS, sparks)
    yield "errors/s", count(errors), BAD if errors else PLAIN, ""
    yield "in flight", count(number(totals, "inflight")), PLAIN, _spark(picture, _INFLIGHT, sparks)
    yield "queued", count(number(totals, "queued")), WARN if number(totals, "queued") else PLAIN, ""
    yield "refused/s", count(refused), WARN if refused else PLAIN, ""
    yield "streams", count(number(totals, "streams")), PLAIN, ""
    connections = node(totals, "connections")
    for listener in sorted(map(str, connections))[:4]:
        yield f"{plain(listener, 12)} connections", count(number(connections, listener)), PLAIN, ""


def _tokens(picture: Picture, sparks: int) -> Iterator[Gauge]:
    totals = node(picture.state, "totals")
    yield "ttft p50", seconds(number(totals, "ttft_p50")), PLAIN, ""
    yield "p99", seconds(number(totals, "ttft_p99")), PLAIN, _spark(picture, _P99, sparks)
    yield "tok/s out", count(number(totals, "tokens_out")), PLAIN, _spark(picture, _OUT, sparks)
    yield "in", count(number(totals, "tokens_in")), PLAIN, ""
    yield "hit", percent(number(totals, "hit_ratio")), PLAIN, ""
    yield "per token", seconds(number(totals, "tpot_p50")), PLAIN, ""


def _spark(picture: Picture, place: int, width: int) -> str:
    return spark([point[place] if len(point) > place else None for point in picture.history], width)


def _gauges(gauges: Iterator[Gauge], width: int) -> Text:
    """As many as there is room for."""
    line = Text(no_wrap=True, end="")
    for what, value, style, blocks in gauges:
        part = Text(end="").append(f"{what} ", DIM).append(value, f"bold {style}".strip())
        if blocks:
            part.append(" ").append(blocks, "cyan")
        if line.cell_len + part.cell_len > width:
            break
        line.append_text(part).append("  ")
    return cut(line, width)


def _tabs(state: Node, view: View, width: int) -> Text:
    line = Text(no_wrap=True, end="")
    for at, panel in enumerate(PANELS):
        style = "reverse" if at == view.panel else DIM
        unsent = number(state, panel.left_out) or 0
        there = "off" if panel.none(state) else count(len(panel.rows(state)) + unsent)
        line.append(f" {at + 1} {panel.title} {there} ", style).append(" ")
    return cut(line, width)


def _title(at: int, state: Node, shown: int, width: int) -> Text:
    panel = PANELS[at]
    there = len(panel.rows(state))
    unsent = (number(state, panel.left_out) if panel.left_out else None) or 0
    more = f", {count(unsent)} more not sent" if unsent else ""
    what = f"{shown} of {there}" if shown != there else str(there)
    none = panel.none(state)
    return heading(f"{panel.title}: {none}" if none else f"{panel.title} {what}{more}", width)


def _panels(state: Node, view: View, width: int, height: int) -> tuple[list[Text], int, int]:
    """(lines, first row, rows of a page): the chosen panel, and what follows it as far as there is room."""
    panel = PANELS[view.panel]
    rows = chosen(panel, state, view.filter, view.sort, view.reverse)
    page = max(1, height - 1)
    first = max(0, min(view.first, len(rows) - page))
    lines = table(panel, rows[first : first + page], width, view.sort, view.reverse)
    if not rows:
        nothing = "nothing here" + (" that contains the filter's text" if view.filter else "")
        lines = [heading(panel.none(state) or nothing, width)]
    for step in range(1, len(PANELS)):
        at = (view.panel + step) % len(PANELS)
        left = height - len(lines) - 1
        if left < _FURTHER:
            break
        lines += [Text(end=""), *_further(at, state, view, width, left)]
    return lines[: max(0, height)], first, page


def _further(at: int, state: Node, view: View, width: int, height: int) -> list[Text]:
    rows = chosen(PANELS[at], state, "", view.sorts[at], False)
    title = _title(at, state, len(rows), width)
    return [title, *table(PANELS[at], rows[: height - 2], width, view.sorts[at])] if rows else [title]


def _foot(view: View, width: int) -> list[Text]:
    if view.typing:
        return [cut(Text(f"/{plain(view.filter)}█", no_wrap=True, end=""), width)]
    line = Text(no_wrap=True, end="")
    if view.paused:
        line.append(" held ", "reverse yellow").append(" ")
    if view.filter:
        line.append(f"/{plain(view.filter)}", "bold").append("  ")
    if view.sort or view.reverse:
        order = view.sort or "the gateway's order"
        line.append(f"by {order}{', reversed' if view.reverse else ''}", "bold").append("  ")
    line.append("q quit  1-5 panel  ↑↓ scroll  s sort  / filter  p hold  ? help", DIM)
    return [cut(line, width)]


def _help(width: int) -> list[Text]:
    lines = [Text(end="")]
    for keys, what in HELP:
        line = Text(no_wrap=True, end="").append(f"{keys:<22}", "bold").append(what)
        lines.append(cut(line, width))
    return lines
