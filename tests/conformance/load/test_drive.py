"""Closed and open loops against real sockets: what is sent, timed and counted."""

from __future__ import annotations

import random
import socket

import pytest
import trio

from conformance.load.answers import Check, FullStreamCheck, QuickStreamCheck, WholeCheck
from conformance.load.client import Address
from conformance.load.drive import Drive, Plan
from conformance.load.workload import Target, Workload, messages

from .served import WHOLE, Serve, engine, listening, plain, scripted


def drive(serve: Serve, plan: Plan, workload: Workload | None = None, *, full: bool = False) -> Drive:
    """Run a plan against a server."""
    work = workload or Workload("m", stream=False)

    def new_check() -> Check:
        if not work.stream:
            return WholeCheck()
        return FullStreamCheck(chat=True, usage=True, numbered=True) if full else QuickStreamCheck()

    async def main() -> Drive:
        async with listening(serve) as port:
            address = Address(socket.AF_INET, ("127.0.0.1", port), "127.0.0.1")
            sent = messages(Target(False, "127.0.0.1", port, "/v1"), work, random.Random(0), 4)
            running = Drive(plan, address, sent, new_check, random.Random(0))
            with trio.fail_after(30):
                await running.run()
            return running

    return trio.run(main)


@pytest.mark.parametrize("full", [False, True])
def test_a_closed_loop_sends_just_the_requests_asked_for(full: bool) -> None:
    plan = Plan(connections=4, duration_s=None, requests=25)
    measured = drive(engine(), plan, Workload("m", max_tokens=10), full=full).measured
    assert (measured.ok, measured.failed, measured.unfinished) == (25, 0, 0)
    assert (measured.tokens, measured.prompt_tokens, measured.events) == (250, 225, 25 * 13)
    assert measured.ttft.count == measured.latency.count == 25
    assert measured.statuses == {200: 25}


def test_gaps_of_a_paced_stream_are_its_pace() -> None:
    plan = Plan(connections=3, duration_s=None, requests=3)
    measured = drive(engine(pace_s=0.02), plan, Workload("m", max_tokens=12)).measured
    # Never before its time: eleven paces lie between the first token and the last. A busy machine only adds to them.
    assert measured.latency.minimum >= 11 * 0.02
    assert measured.ttft.total + measured.itl.total >= 3 * 11 * 0.02
    assert measured.itl.count + measured.ttft.count <= measured.events


def test_a_run_of_seconds_ends_and_drains() -> None:
    running = drive(scripted(WHOLE, after=0.2), Plan(connections=2, duration_s=0.3))
    assert running.window is not None
    assert running.window.elapsed_s >= 0.3
    assert running.window.ok < running.measured.ok  # the last ones ended in the drain
    assert running.measured.unfinished == 0


def test_what_outlasts_the_drain_is_unfinished() -> None:
    running = drive(scripted(WHOLE, after=30), Plan(connections=3, duration_s=0.1, drain_s=0.1))
    assert (running.measured.ok, running.measured.failed, running.measured.unfinished) == (0, 0, 3)


def test_the_warm_up_is_not_measured() -> None:
    running = drive(scripted(plain(b"{}", "503 Busy"), WHOLE), Plan(connections=1, duration_s=0.2, warmup_s=0.5))
    assert running.measured.failed == 0
    assert running.measured.ok > 0


def test_an_open_loop_counts_the_wait_for_a_stalled_server() -> None:
    """One connection, 10 ms for each answer, 1,000 arrivals a second: the queue's time is the server's fault."""
    plan = Plan(mode="open", connections=1, rate=1000, arrival="constant", duration_s=None, requests=20)
    measured = drive(scripted(WHOLE, after=0.01), plan).measured
    assert measured.ok == 20
    assert measured.latency.maximum >= 0.17
    assert measured.late.maximum >= 0.15


def test_an_open_loop_opens_connections_as_it_needs_them() -> None:
    opened = []

    async def serve(stream: trio.abc.Stream) -> None:
        opened.append(stream)
        await scripted(WHOLE, after=0.1)(stream)

    plan = Plan(mode="open", connections=100, rate=500, arrival="constant", duration_s=None, requests=40)
    assert drive(serve, plan).measured.ok == 40
    assert len(opened) > 10


def test_what_was_due_and_never_sent_is_unfinished() -> None:
    plan = Plan(mode="open", connections=1, rate=400, arrival="constant", duration_s=1.0, requests=20, drain_s=0.05)
    measured = drive(scripted(WHOLE, after=30), plan).measured
    assert (measured.ok, measured.unfinished, measured.late.count) == (0, 20, 1)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(plain(b"{}", "429 Slow"), "http_429"), (plain(b"{}"), "no_choices"), (plain(b"<"), "bad_json"), (None, "cut")],
)
def test_failures_are_counted_by_kind(answer: bytes | None, kind: str) -> None:
    measured = drive(scripted(answer), Plan(connections=1, duration_s=None, requests=3)).measured
    assert measured.errors == {kind: 3}
    assert measured.latency.count == 0


def test_a_request_past_its_time_is_a_timeout() -> None:
    plan = Plan(connections=2, duration_s=None, requests=2, timeout_s=0.1)
    assert drive(scripted(WHOLE, after=30), plan).measured.errors == {"timeout": 2}
