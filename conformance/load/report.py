"""A run's results as JSON-able values and as text. (P)

Invariant: every duration in the values is in seconds; only the text turns them into milliseconds.
"""

from __future__ import annotations

from typing import Any

from .measure import Measurements, Window

_TITLES = {
    "ttft_s": "time to first token",
    "itl_s": "between tokens (ITL)",
    "tpot_s": "per output token (TPOT)",
    "latency_s": "whole request",
    "refused_s": "refused after",
    "late_s": "sent late by",
}
_COLUMNS = ("mean", "p50", "p90", "p99", "p99_9", "max")


def values(setup: dict[str, Any], measured: Measurements, window: Window) -> dict[str, Any]:
    """The whole result; ``setup`` (what was asked for) goes first."""
    return {
        **setup,
        "elapsed_s": window.elapsed_s,
        "requests": {"ok": measured.ok, "failed": measured.failed, "unfinished": measured.unfinished},
        "requests_per_s": window.per_second(window.ok),
        "failed_per_s": window.per_second(window.failed),
        "events_per_s": window.per_second(window.events),
        "output_tokens_per_s": window.per_second(window.tokens),
        "bytes_per_s": window.per_second(window.bytes),
        "output_tokens": measured.tokens,
        "prompt_tokens": measured.prompt_tokens,
        "reconnects": measured.reconnects,
        "errors": dict(measured.errors.most_common()),
        "statuses": {str(status): count for status, count in sorted(measured.statuses.items())},
        "latency_s": measured.latency.summary(),
        "ttft_s": measured.ttft.summary(),
        "itl_s": measured.itl.summary(),
        "tpot_s": measured.tpot.summary(),
        "refused_s": measured.refused.summary(),
        "late_s": measured.late.summary(),
    }


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"


def _milliseconds(seconds: float) -> str:
    ms = seconds * 1000
    return f"{ms:,.0f}" if ms >= 10_000 else f"{ms:,.2f}" if ms < 100 else f"{ms:,.1f}"


def _durations(result: dict[str, Any]) -> list[str]:
    """The table of what was measured; none where nothing was."""
    rows = [
        f"  {title:<24}" + "".join(f"{_milliseconds(result[key][name]):>11}" for name in _COLUMNS)
        for key, title in _TITLES.items()
        if result[key]["count"]
    ]
    head = f"  {'milliseconds':<24}" + "".join(f"{name.replace('_', '.'):>11}" for name in _COLUMNS)
    return ["", head, *rows] if rows else []


def text(result: dict[str, Any]) -> str:
    """The report for the terminal."""
    requests = result["requests"]
    lines = [
        f"{result['url']}  {result['api']}  {result['model']}  {result['loop']}",
        f"  requests   {requests['ok']:,} ok, {requests['failed']:,} failed, {requests['unfinished']:,} unfinished"
        f" in {result['elapsed_s']:.2f} s",
        f"  rates      {_count(result['requests_per_s'])} requests/s, {_count(result['output_tokens_per_s'])}"
        f" output tokens/s, {_count(result['events_per_s'])} stream events/s",
    ]
    lines += _durations(result)
    if result["errors"]:
        lines += ["", "  errors     " + ", ".join(f"{kind} {count:,}" for kind, count in result["errors"].items())]
    if result["reconnects"]:
        lines.append(f"  reconnects {result['reconnects']:,}")
    return "\n".join(lines) + "\n"
