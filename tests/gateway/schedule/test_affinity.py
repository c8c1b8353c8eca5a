"""Sessions: whose they are, where they stay, what moves when endpoints come and go."""

from __future__ import annotations

from collections import Counter

import pytest

from gateway.config.resources import SessionSticky, StickySource
from gateway.schedule.affinity import SessionAffinity, SessionAffinityScorer, Sessions, session_key, sessions_of
from gateway.schedule.ask import Ask
from gateway.schedule.pickers import RandomChoice
from gateway.schedule.profile import Profile
from tests.gateway.schedule.fleet import Fake, ask, ids, parts, request

HEADER = StickySource(type="Header", name="X-Session-ID")
COOKIE = StickySource(type="Cookie", name="sid")
QUERY = StickySource(type="Query", name="s")
CLAIM = StickySource(type="JWTClaim", name="sub")
FLEET = [Fake(f"10.0.0.{n}:8000") for n in range(8)]


def of(session: str, now: float = 0.0) -> Ask:
    return ask(headers=((b"x-session-id", session.encode()),) if session else (), now=now)


def home(sessions: Sessions, session: str, fleet: list[Fake] = FLEET, now: float = 0.0) -> str:
    index = sessions.home(of(session, now), fleet)
    assert index is not None
    return fleet[index].id


@pytest.mark.parametrize(
    ("sources", "key"),
    [
        ((HEADER,), "h"),
        ((COOKIE,), "c"),
        ((QUERY,), "q q"),
        ((CLAIM,), ""),
        ((CLAIM, QUERY, HEADER), "q q"),
        ((StickySource(type="Header", name="other"), COOKIE), "c"),
        ((StickySource(type="Query", name="other"),), ""),
    ],
)
def test_the_first_source_that_has_a_value_is_the_key(sources: tuple[StickySource, ...], key: str) -> None:
    headers = ((b"x-session-id", b"h"), (b"cookie", b'a=b; sid="c"'))
    assert session_key(request(headers=headers, query="a=1&s=q%20q"), sources) == key


def test_without_a_session_nobody_is_preferred() -> None:
    sessions = Sessions((HEADER,), 60)
    assert sessions.home(of(""), FLEET) is None
    sessions.placed(of(""), FLEET[0])
    assert SessionAffinity().scorer(parts())(of(""), FLEET) == [0.5] * 8
    assert SessionAffinity().filter(parts())(of(""), FLEET) is FLEET


def test_a_session_stays_where_it_was_served() -> None:
    sessions = Sessions((HEADER,), 60)
    usual = home(sessions, "s")
    other = next(fake for fake in FLEET if fake.id != usual)
    sessions.placed(of("s"), other)
    assert home(sessions, "s") == other.id
    assert home(sessions, "s", list(reversed(FLEET))) == other.id
    sessions.forget(other.id)  # its engine restarted
    assert home(sessions, "s") == other.id


def test_a_session_ends_by_itself() -> None:
    sessions = Sessions((HEADER,), 60)
    usual = home(sessions, "s")
    other = next(fake for fake in FLEET if fake.id != usual)
    sessions.placed(of("s", now=100), other)
    assert home(sessions, "s", now=159.9) == other.id
    assert home(sessions, "s", now=160.0) == usual
    sessions.placed(of("s", now=150), other)
    assert home(sessions, "s", now=209.0) == other.id


def test_all_gateways_and_all_restarts_agree_on_a_new_session() -> None:
    keys = [f"session {n}" for n in range(50)]
    first, second = Sessions((HEADER,), 60), Sessions((HEADER,), 60)
    assert [home(first, key) for key in keys] == [home(second, key, list(reversed(FLEET))) for key in keys]


def test_sessions_spread() -> None:
    sessions = Sessions((HEADER,), 60)
    counts = Counter(home(sessions, f"session {n}") for n in range(8000))
    assert len(counts) == 8
    assert all(850 < count < 1150 for count in counts.values())


def test_churn_moves_only_the_sessions_of_who_left() -> None:
    sessions = Sessions((HEADER,), 60)
    keys = [f"session {n}" for n in range(2000)]
    before = {key: home(sessions, key) for key in keys}
    gone, rest = FLEET[3], [fake for fake in FLEET if fake is not FLEET[3]]
    after = {key: home(sessions, key, rest) for key in keys}
    moved = [key for key in keys if before[key] != after[key]]
    assert moved == [key for key in keys if before[key] == gone.id]
    assert len({after[key] for key in moved}) == 7
    assert {key: home(sessions, key) for key in keys} == before


def test_a_session_that_moved_stays_there_when_its_endpoint_returns() -> None:
    """What it holds by then is there."""
    sessions = Sessions((HEADER,), 60)
    first = home(sessions, "s")
    rest = [fake for fake in FLEET if fake.id != first]
    second = home(sessions, "s", rest)
    sessions.placed(of("s"), next(fake for fake in rest if fake.id == second))
    assert home(sessions, "s") == second


def test_memory_is_bounded_and_the_oldest_go_first() -> None:
    sessions = Sessions((HEADER,), 60, limit=10)
    for number in range(30):
        sessions.placed(of(f"s{number}"), FLEET[0])
        sessions.placed(of("kept"), FLEET[1])
    assert len(sessions._homes) == 10
    assert home(sessions, "kept") == FLEET[1].id
    assert home(sessions, "s29") == FLEET[0].id


def test_scores_and_filter() -> None:
    for plugin in (SessionAffinity(), SessionAffinityScorer()):
        scorer, keep = plugin.scorer(parts()), plugin.filter(parts())
        scorer.placed(of("s"), FLEET[2])  # type: ignore[attr-defined]
        keep.placed(of("s"), FLEET[2])  # type: ignore[attr-defined]
        assert scorer(of("s"), FLEET) == [0, 0, 1, 0, 0, 0, 0, 0]
        assert keep(of("s"), FLEET) == [FLEET[2]]


def test_a_sticky_pool_ranks_the_sessions_home_first_and_everybody_after_it() -> None:
    sticky = SessionSticky(sources=(HEADER,), session_affinity_seconds=5)
    profile = Profile((), (), RandomChoice().picker(parts()), sessions=sessions_of(sticky))
    profile.placed(of("s"), FLEET[5])
    for _ in range(20):
        ranked = ids(list(profile.rank(of("s", now=4.9), FLEET)))
        assert ranked[0] == FLEET[5].id
        assert sorted(ranked) == ids(FLEET)
    firsts = {ids(list(profile.rank(of(""), FLEET)))[0] for _ in range(100)}
    assert firsts == set(ids(FLEET))
    profile.forget(FLEET[5].id)
    assert ids(list(profile.rank(of("s"), FLEET)))[0] == FLEET[5].id
