"""A panel's rows as lines of a table. (P)

Invariant: no line is wider than asked for; columns stand under their titles whatever is in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.cells import cell_len
from rich.text import Text

from gateway.top.feed import Node
from gateway.top.panels import DIM, Column, Panel
from gateway.top.plain import fit

_GAP: Final = 1
_WIDEST: Final = 64
_NAME: Final = 20
"""Cells of a name that are worth more than the columns that give way first."""


def chosen(panel: Panel, state: Node, filter: str, sort: str, reverse: bool) -> list[Node]:
    """The panel's rows that contain ``filter`` in some cell, by the column ``sort``, or as the gateway has them."""
    rows = panel.rows(state)
    if filter:
        wanted = filter.casefold()
        rows = [row for row in rows if any(wanted in column.show(row)[0].casefold() for column in panel.columns)]
    column = next((column for column in panel.columns if column.title == sort), None)
    if column is not None:
        rows = sorted(rows, key=column.key)
    return rows[::-1] if reverse else rows


def table(panel: Panel, rows: Sequence[Node], width: int, sort: str = "", reverse: bool = False) -> list[Text]:
    """The line of titles and one for each row."""
    shown = [[column.show(row) for column in panel.columns] for row in rows]
    room = _room(panel.columns, [[cell[0] for cell in row] for row in shown], width)
    tails = [_tail(column, [row[at][0] for row in shown]) for at, column in enumerate(panel.columns)]
    titles = Text(no_wrap=True, end="")
    for at, cells in room:
        column = panel.columns[at]
        arrow = "" if column.title != sort else "↑" if reverse else "↓"
        titles.append(fit(column.title + arrow, cells, column.right), "bold")
        titles.append(" " * _GAP)
    lines = [cut(titles, width)]
    for row in shown:
        line = Text(no_wrap=True, end="")
        for at, cells in room:
            text, style = row[at]
            line.append(fit(text, cells, panel.columns[at].right, tails[at]), style or None)
            line.append(" " * _GAP)
        lines.append(cut(line, width))
    return lines


def _tail(column: Column, texts: Sequence[str]) -> bool:
    """Whether texts are cut at their beginnings, which names have in common more than their ends."""
    names = list({text for text in texts if text}) if column.name else []
    if len(names) < 2:
        return column.tail
    before, after = _alike(names), _alike([name[::-1] for name in names])
    return column.tail if before == after else before > after


def _alike(texts: Sequence[str]) -> int:
    """How many characters all begin with."""
    first, last = min(texts), max(texts)
    return next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))


def cut(line: Text, width: int) -> Text:
    """``line`` in at most ``width`` cells."""
    line.rstrip()
    line.truncate(max(0, width), overflow="crop")
    return line


def _room(columns: Sequence[Column], texts: Sequence[Sequence[str]], width: int) -> list[tuple[int, int]]:
    """(which column, its cells) of those that are shown, in order."""
    longest = [max((cell_len(row[at]) for row in texts), default=0) for at in range(len(columns))]
    kept = [at for at, column in enumerate(columns) if not column.drop or longest[at]]
    wide = [
        max(column.width, min(longest[at], _NAME)) if column.grows else column.width
        for at, column in enumerate(columns)
    ]
    _drop(columns, kept, wide, width, 2)
    _drop(columns, kept, [column.width for column in columns], width, 1)
    cells = {at: columns[at].width for at in kept}
    _grow(columns, longest, cells, width - sum(cells.values()) - _GAP * (len(kept) - 1))
    return list(cells.items())


def _drop(columns: Sequence[Column], kept: list[int], wide: Sequence[int], width: int, least: int) -> None:
    """Take those away that give way, from ``least`` up, until ``wide`` fits or none is left."""
    while kept and sum(wide[at] + _GAP for at in kept) - _GAP > width:
        last = max(kept, key=lambda at: columns[at].drop)
        if columns[last].drop < least:
            return
        kept.remove(last)


def _grow(columns: Sequence[Column], longest: Sequence[int], cells: dict[int, int], spare: int) -> None:
    """Share the spare room out, to each that can use it alike; the last one may have all that is left."""
    growing = [at for at in cells if columns[at].grows]
    last = growing[-1] if growing else -1
    while spare > 0:
        wanting = [at for at in growing if cells[at] < (longest[at] if at == last else min(longest[at], _WIDEST))]
        if not wanting:
            return
        for at in wanting[:spare]:
            cells[at] += 1
            spare -= 1


def heading(text: str, width: int) -> Text:
    return cut(Text(text, style=DIM, no_wrap=True, end=""), width)
