"""A progress bar on the terminal while a run goes on. (IO)

Invariant: nothing is written anywhere but stderr, and nothing unless it is a terminal.
"""

from __future__ import annotations

import sys
import time

import trio

from .drive import Drive


async def show(drive: Drive) -> None:
    """Redraw four times a second until cancelled."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    plan = drive.plan
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[state]}"))
    with Progress(*columns, console=Console(file=sys.stderr), transient=True, auto_refresh=False) as progress:
        task = progress.add_task("warm-up", total=plan.duration_s or plan.requests, state="")
        while True:
            measured = drive.measured
            elapsed = time.perf_counter() - drive.started_at
            done = measured.ok + measured.failed
            rate = done / elapsed if elapsed > 0 else 0.0
            progress.update(
                task,
                description="draining" if drive.window else "measuring" if drive.warm else "warm-up",
                completed=0 if not drive.warm else elapsed if plan.duration_s is not None else done,
                state=f"{rate:,.0f} req/s  {measured.failed:,} failed  {drive.open_requests:,} open",
            )
            progress.refresh()
            await trio.sleep(0.25)


def wanted(disabled: bool) -> bool:
    """Whether there is a terminal to draw on."""
    return not disabled and sys.stderr.isatty()
