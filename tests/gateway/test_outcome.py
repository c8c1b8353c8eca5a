"""Whose fault the end of a request is."""

from __future__ import annotations

import pytest

from gateway.meter import Record, Totals
from gateway.outcome import is_error, is_refusal


@pytest.mark.parametrize(
    ("status", "reason", "is_so"),
    [
        (200, "", "well"),
        (200, "upstream_error", "failed"),
        (200, "client_gone", "left"),
        (499, "client_gone", "left"),
        (400, "invalid_request", "wrong"),
        (404, "refused_by_engine", "wrong"),
        (429, "upstream_error", "wrong"),
        (429, "rate_limited", "refused"),
        (401, "unauthorized", "refused"),
        (503, "overloaded", "failed and refused"),
        (503, "no_endpoints", "failed"),
        (504, "upstream_timeout", "failed"),
        (500, "internal", "failed"),
        (0, "other", "too many to tell"),
    ],
)
def test_whose_fault_it_is(status: int, reason: str, is_so: str) -> None:
    assert (is_error(status, reason), is_refusal(status, reason)) == ("failed" in is_so, "refused" in is_so)
    if status:
        totals = Totals()
        totals.finished(Record(pool="p", route="r", status=status, reason=reason))
        (traffic,) = totals.routes.values()
        assert (traffic.ok, traffic.failed) == (is_so == "well", "failed" in is_so)
        assert traffic.requests == 1
