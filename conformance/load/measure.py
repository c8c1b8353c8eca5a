"""What one run measured. (P)

Invariant: a request is counted once: in ``ok``, in ``errors`` under one kind, or in ``unfinished``.
"""

from __future__ import annotations

from collections import Counter

from .histogram import Histogram


class Measurements:
    """Histograms (seconds) and counts of one measured window; reads and finished requests are added as they come.

    ``events`` are the streams' data events other than ``[DONE]``, counted as they arrive; ``tokens`` are the output
    tokens of finished requests: from the engine's usage where it was given, else one for each event.
    ``late`` is how long after its intended time a request was sent (open loop only); ``refused`` how long whoever was
    answered with an error had to wait for that.
    """

    __slots__ = (
        "bytes", "errors", "events", "itl", "late", "latency", "ok", "prompt_tokens", "reconnects",
        "refused", "statuses", "tokens", "tpot", "ttft", "unfinished",
    )  # fmt: skip

    def __init__(self) -> None:
        self.latency = Histogram()
        self.ttft = Histogram()
        self.itl = Histogram()
        self.tpot = Histogram()
        self.late = Histogram()
        self.refused = Histogram()
        self.errors: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.ok = 0
        self.unfinished = 0
        self.reconnects = 0
        self.events = 0
        self.tokens = 0
        self.prompt_tokens = 0
        self.bytes = 0

    @property
    def failed(self) -> int:
        """Requests that ended in an error of any kind."""
        return self.errors.total()


class Window:
    """The counts at the end of the measured time, before requests still open are waited for: what rates come from."""

    __slots__ = ("bytes", "elapsed_s", "events", "failed", "ok", "tokens")

    def __init__(self, measured: Measurements, elapsed_s: float) -> None:
        self.elapsed_s = elapsed_s
        self.ok = measured.ok
        self.failed = measured.failed
        self.events = measured.events
        self.tokens = measured.tokens
        self.bytes = measured.bytes

    def per_second(self, count: int) -> float:
        """A rate over the window; 0 for an empty one."""
        return count / self.elapsed_s if self.elapsed_s > 0 else 0.0
