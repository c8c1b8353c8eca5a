"""`infer-gateway top`: what is printed once, or shown live. (IO)

Exit codes: 0, and 2 if there is nothing to show to begin with.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Final

import msgspec
import trio

from gateway.top import live
from gateway.top.address import Address, UnreachableError
from gateway.top.follow import Link
from gateway.top.panels import PANELS
from gateway.top.plain import plain
from gateway.top.screen import snapshot
from gateway.top.terminal import print_lines, write
from gateway.top.view import View, sorted_by

OK, NOTHING = 0, 2
_WIDTH: Final = 160
"""Of what goes to no terminal, unless $COLUMNS says otherwise."""
SORTS: Final = tuple(dict.fromkeys(column.title for panel in PANELS for column in panel.columns))


class Options(msgspec.Struct, frozen=True):
    """``sort``: one of `SORTS`, or ""; ``interval`` in seconds."""

    admin: str
    token: str = ""
    token_file: Path | None = None
    ca_file: Path | None = None
    once: bool = False
    json: bool = False
    interval: float = 1.0
    sort: str = ""


def run(options: Options) -> int:
    """Until told to stop; the exit code."""
    address = Address(options.admin, options.token, options.token_file, options.ca_file)
    link = Link(address)
    try:
        if options.once or options.json or not _can_paint():
            trio.run(link.hello, True)
            _print(link, options)
        else:
            trio.run(_live, link, options)
    except UnreachableError as error:
        told = f"infer-gateway: {plain(options.admin)}: {error.what}{f' ({error.hint})' if error.hint else ''}\n"
        sys.stderr.write(told.encode("ascii", "backslashreplace").decode())
        return NOTHING
    return OK


def _can_paint() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "").lower() not in ("", "dumb", "unknown")


async def _live(link: Link, options: Options) -> None:
    await link.hello()
    await live.show(link, _view(options), options.interval)


def _view(options: Options) -> View:
    """Every panel that has the column is sorted by it."""
    view = View()
    for at, panel in enumerate(PANELS):
        if options.sort in [column.title for column in panel.columns]:
            view = sorted_by(view, at, options.sort)
    return view


def _print(link: Link, options: Options) -> None:
    if options.json:
        # ASCII: what clients have sent stands there as \u…, and a terminal shows just that
        whole = {"version": link.feed.version, "url": options.admin, "state": link.feed.state}
        write(sys.stdout.fileno(), json.dumps(whole).encode() + b"\n")
        return
    painted = _can_paint()
    width = shutil.get_terminal_size((80 if painted else _WIDTH, 24)).columns
    print_lines(snapshot(live.picture(link, 0.0), _view(options), width), painted)
