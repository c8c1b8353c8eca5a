"""The tree of tasks, and where each of them waits. (T)

Invariant: names and places only, no values; so many tasks at most, others are counted.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from pathlib import Path
from typing import Any, Final

import trio

_TASKS: Final = 1000
_FRAMES: Final = 12
_SLICE: Final = 25

Node = dict[str, Any]
"""``name``, ``waits`` (where, the innermost last), ``tasks`` (those it has started)."""


async def tree() -> Node:
    """From the first task on. ``left_out``: tasks that are not shown."""
    root = trio.lowlevel.current_root_task()
    shown: Node = {"tasks": []}
    todo: deque[tuple[trio.lowlevel.Task, list[Node]]] = deque([] if root is None else [(root, shown["tasks"])])
    count = left_out = 0
    while todo:
        task, among = todo.popleft()
        if count >= _TASKS:
            left_out += 1
        else:
            count += 1
            node: Node = {"name": task.name, "waits": _waits(task), "tasks": []}
            among.append(node)
            among = node["tasks"]
        todo += [(child, among) for nursery in task.child_nurseries for child in nursery.child_tasks]
        if not (count + left_out) % _SLICE:
            await trio.lowlevel.checkpoint()
    return {**shown, "count": count + left_out, "left_out": left_out}


def _waits(task: trio.lowlevel.Task) -> list[str]:
    """The outermost first; of a long chain the innermost."""
    places = [
        f"{frame.f_code.co_qualname} ({'/'.join(Path(frame.f_code.co_filename).parts[-2:])}:{line})"
        for frame, line in islice(task.iter_await_frames(), 256)
    ]
    return places[-_FRAMES:]
