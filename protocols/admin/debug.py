"""What the process is doing, for whoever has to find out: a profile, the tree of tasks. (IO)"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from quart import Response, request
from quart_trio import QuartTrio

from gateway.profiler import Profiler
from gateway.task_tree import tree
from protocols.admin.answers import as_json, error

_LONGEST_S: Final = 60.0
_SLOWEST: Final = 1.0
_FASTEST: Final = 1000.0
_EXPECTED: Final = (
    f"expected seconds up to {_LONGEST_S:g}, hz from {_SLOWEST:g} to {_FASTEST:g}, "
    "format collapsed (the default) or speedscope"
)


def add_debug(app: QuartTrio, held: Callable[[], object]) -> None:
    """``held``: what the process holds, as plain values."""
    profiler = Profiler()

    @app.get("/debug/profile")
    async def profile() -> Response:
        seconds, hz = _number("seconds", 5.0, 0.0, _LONGEST_S), _number("hz", 100.0, _SLOWEST, _FASTEST)
        form = request.args.get("format", "collapsed")
        if seconds is None or hz is None or form not in ("collapsed", "speedscope"):
            return error(400, _EXPECTED)
        if request.method == "HEAD":
            return Response(b"")
        if profiler.busy:
            return error(409, "a profile is being taken; one at a time")
        stacks = await profiler.take(seconds, hz)
        if form == "speedscope":
            return as_json(stacks.speedscope(hz))
        return Response(stacks.collapsed(), content_type="text/plain; charset=utf-8")

    @app.get("/debug/tasks")
    async def tasks() -> Response:
        return as_json(await tree())

    @app.get("/debug/statistics")
    async def statistics() -> Response:
        return as_json(held())


def _number(name: str, default: float, least: float, most: float) -> float | None:
    """Above 0, and within these; None if it is anything else."""
    try:
        value = float(request.args.get(name, default))
    except ValueError:
        return None
    return value if value > 0.0 and least <= value <= most else None
