"""When a connection is pinged, asked to go and cut; how much nonsense is put up with."""

from __future__ import annotations

import math

from protocols.grpc.lifetime import Lifetime, Verdict
from protocols.grpc.limits import Limits, Patience, Pings

LIMITS = Limits(
    handshake_timeout=10,
    write_timeout=60,
    idle_timeout=600,
    ping_after=30,
    ping_timeout=20,
    max_age=1000,
    age_grace=100,
)


def greeted(limits: Limits = LIMITS) -> Lifetime:
    lifetime = Lifetime(limits, 0.0)
    lifetime.greeted = True
    lifetime.idle(None)
    return lifetime


def verdicts(lifetime: Lifetime, until: int, *, heard: bool = False, stuck: float | None = None) -> dict[int, Verdict]:
    """What else than KEEP was said, by the second."""
    said = {}
    for second in range(1, until):
        verdict = lifetime.verdict(float(second), stuck)
        if verdict is not Verdict.KEEP:
            said[second] = verdict
        if verdict is Verdict.CUT:
            break
        if verdict is Verdict.DRAIN:
            lifetime.draining(float(second))
        if heard:
            lifetime.heard(float(second))
    return said


def test_silence_is_asked_about_once_and_then_ended() -> None:
    assert verdicts(greeted(), 1000) == {31: Verdict.PING, 52: Verdict.CUT}


def test_an_answer_is_a_sign_of_life() -> None:
    lifetime = greeted()
    assert verdicts(lifetime, 32) == {31: Verdict.PING}
    lifetime.heard(32.0)
    assert lifetime.verdict(60.0, None) is Verdict.KEEP
    assert lifetime.verdict(63.0, None) is Verdict.PING


def test_age_and_then_grace() -> None:
    assert verdicts(greeted(), 2000, heard=True) == {1001: Verdict.DRAIN, 1007: Verdict.REFUSE, 1101: Verdict.CUT}
    assert not verdicts(greeted(Limits(max_age=math.inf)), 5000, heard=True)


def test_ages_are_spread() -> None:
    lifetime = Lifetime(LIMITS, 0.0, spread=0.9)
    lifetime.greeted = True
    lifetime.idle(None)
    assert next(iter(verdicts(lifetime, 2000, heard=True))) == 901


def test_unused_connections_are_asked_to_go() -> None:
    lifetime = greeted()
    lifetime.idle(100.0)
    assert next(iter(verdicts(lifetime, 2000, heard=True).items())) == (701, Verdict.DRAIN)


def test_who_does_not_greet_or_read_is_cut() -> None:
    assert verdicts(Lifetime(LIMITS, 0.0), 100) == {11: Verdict.CUT}
    assert verdicts(greeted(), 100, heard=True, stuck=5.0) == {66: Verdict.CUT}


def test_patience_runs_out_and_comes_back() -> None:
    patience = Patience(10, 2.0, 0.0)
    assert [patience.lost(0.0) for _ in range(11)] == [False] * 10 + [True]
    assert not any(patience.lost(100.0 + n / 2) for n in range(100))
    assert not any(patience.lost(200.0) for _ in range(9))
    assert patience.lost(200.0) or patience.lost(200.0)


def test_pings() -> None:
    pings = Pings(10.0, 2)
    assert not any(pings.too_many(10.0 * n) for n in range(100))
    assert [pings.too_many(1000.0 + n / 10) for n in range(4)] == [False, False, False, True]
    pings.sent()
    assert [pings.too_many(1001.0 + n / 10) for n in range(4)] == [False, False, False, True]
