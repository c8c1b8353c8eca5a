"""How long requests waited for their first token, policy by policy, as a picture. (IO)

Invariant: matplotlib is imported only when a plot is asked for.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from conformance.load.plot import require
from conformance.replay.report import title

SUFFIXES = (".eps", ".jpeg", ".jpg", ".pdf", ".png", ".ps", ".svg", ".svgz", ".tif", ".tiff", ".webp")


def unknown(path: str) -> str | None:
    """Why no picture can be made of that name; None if one can."""
    if Path(path).suffix.lower() in SUFFIXES:
        return None
    return f"--plot: {path} does not end in one of {', '.join(SUFFIXES)}"


def save(path: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write the cumulative distribution of TTFT, one field for each workload, to ``path`` (format by its suffix)."""
    require()
    importlib.import_module("matplotlib").use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    fields = [(name, list(group)) for name, group in groupby(rows, key=title)]
    columns = min(3, len(fields))
    lines = math.ceil(len(fields) / columns)
    figure, grid = pyplot.subplots(
        lines, columns, figsize=(7 * columns, 4.5 * lines), layout="constrained", squeeze=False
    )
    for axes in grid.flat[len(fields) :]:
        axes.set_axis_off()
    for axes, (name, group) in zip(grid.flat, fields, strict=False):
        for row in group:
            curve = row["ttft_curve_s"]
            axes.plot(curve, [index / max(1, len(curve) - 1) for index in range(len(curve))], label=row["policy"])
        axes.set(xlabel="seconds to the first token", ylabel="fraction at or below", xscale="log", ylim=(0, 1.01))
        axes.set_title(name, fontsize="small")
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
