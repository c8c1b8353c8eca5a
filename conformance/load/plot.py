"""The distributions of one run as a picture, if matplotlib is installed. (IO)

Invariant: matplotlib is imported only when a plot is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools

from .histogram import Histogram
from .measure import Measurements


class NoPlot(Exception):
    """Says what to install."""


def require() -> None:
    """Raise NoPlot now, rather than after the run, when matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise NoPlot("--plot needs matplotlib: pip install 'infer-gateway[plot]'")


def curve(histogram: Histogram) -> tuple[list[float], list[float]]:
    """(milliseconds, fraction of samples at or below), for a cumulative plot."""
    buckets = list(histogram.buckets())
    counts = itertools.accumulate(count for _, count in buckets)
    return [middle * 1000 for middle, _ in buckets], [count / histogram.count for count in counts]


def save(path: str, title: str, measured: Measurements) -> None:
    """Write cumulative distributions of every duration measured to ``path`` (format by its suffix)."""
    require()
    importlib.import_module("matplotlib").use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    named = (("TTFT", measured.ttft), ("ITL", measured.itl), ("TPOT", measured.tpot), ("request", measured.latency))
    for name, histogram in named:
        if histogram.count:
            axes.step(*curve(histogram), where="post", label=name)
    axes.set(title=title, xlabel="milliseconds", ylabel="fraction at or below", xscale="symlog", ylim=(0, 1.01))
    axes.grid(visible=True, alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
