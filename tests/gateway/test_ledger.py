"""Limits: whom they are kept for, what is reserved and given back, what outlives an edit, and how a refusal reads."""

from __future__ import annotations

import math
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.sharing import LimitMatch, RateLimits
from gateway.config.snapshot import RouteLimit, Snapshot
from gateway.ledger import REMEMBERED, Ledger, Reservation, elapse
from gateway.store.local import Local
from gateway.types import Identity, Taken
from protocols.openai import errors

CI = Identity(user="ci", tenant="infra", tier="batch", claims=(("org", "x"), ("none", "")))
BOB = Identity(user="bob", tenant="infra", tier="free")
NOBODY = Identity(address="10.0.0.1")


def reserved(ledger: Ledger, who: Identity = CI, model: str = "m", route: str = "default/r") -> Reservation:
    found = ledger.reservation(who, model, route, 100.0, 20.0)
    assert found is not None
    return found


def keys(limits: RateLimits, who: Identity = CI, model: str = "m", route: str = "default/r") -> list[str]:
    found = Ledger([limits]).reservation(who, model, route, 1.0, 1.0)
    return [] if found is None else [demand.key for demand in found.demands]


def per_minute(**match: object) -> RateLimits:
    return RateLimits(match=LimitMatch(**match), requests_per_minute=60)


# --- which limits -----------------------------------------------------------------------------------------------------


def test_nothing_is_asked_where_nothing_is_limited() -> None:
    assert Ledger.of(Snapshot()) is None
    assert Ledger().reservation(CI, "m", "default/r", 1.0, 1.0) is None
    assert Ledger([per_minute(user="bob")]).reservation(CI, "m", "default/r", 1.0, 1.0) is None


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        ({}, True),
        ({"user": "*"}, True),
        ({"user": "c?"}, True),
        ({"user": "c"}, False),
        ({"user": "CI"}, False),
        ({"tenant": "inf*", "tier": "batch"}, True),
        ({"tenant": "inf*", "tier": "free"}, False),
        ({"model": "llama-*"}, True),
        ({"model": "llama"}, False),
        ({"route": "default/r"}, True),
        ({"route": "other/r"}, False),
        ({"route": "r"}, True),
        ({"route": "default"}, False),
        ({"route": "*"}, True),
        ({"claims": {"org": "*"}}, True),
        ({"claims": {"org": "y"}}, False),
        ({"claims": {"none": "*"}}, False),
        ({"claims": {"other": "*"}}, False),
    ],
)
def test_all_patterns_have_to_fit(match: dict[str, object], fits: bool) -> None:
    assert bool(keys(per_minute(**match), model="llama-3")) is fits


@pytest.mark.parametrize(
    ("limits", "who", "key"),
    [
        (per_minute(), CI, "requests/minute|user=ci|"),
        (per_minute(tier="*"), CI, "requests/minute|tier=batch&user=ci|tier=*"),
        (per_minute(tenant="*"), CI, "requests/minute|tenant=infra|tenant=*"),
        (per_minute(tenant="*"), Identity(user="ci"), "requests/minute|user=ci|tenant=*"),
        (per_minute(tenant="*"), NOBODY, "requests/minute|address=10.0.0.1|tenant=*"),
        (per_minute(), NOBODY, "requests/minute|address=10.0.0.1|"),
        (RateLimits(per=(), requests_per_day=1), CI, "requests/day||"),
        (RateLimits(per=("tenant", "user", "user"), requests_per_day=1), CI, "requests/day|tenant=infra&user=ci|"),
        (RateLimits(per=("tenant", "user"), requests_per_day=1), NOBODY, "requests/day|address=10.0.0.1|"),
        (RateLimits(per=("claims.org",), requests_per_day=1), CI, "requests/day|claims.org=x|"),
        (RateLimits(per=("claims.org",), requests_per_day=1), BOB, "requests/day|claims.org=|"),
        (RateLimits(per=("model", "route"), concurrent_requests=1), CI, "places/|model=m&route=default/r|"),
    ],
)
def test_an_account_is_kept_for_each_value(limits: RateLimits, who: Identity, key: str) -> None:
    assert keys(limits, who) == [key]


Text = st.text(max_size=8) | st.sampled_from(["a&b=c", "a|b", "a%26", "#a", "é", "\ud800", "x" * 200, "x" * 201])
Who = st.builds(Identity, user=Text, tenant=Text, tier=Text, address=Text)


@given(Who, Who, st.lists(st.sampled_from(["user", "tenant", "tier", "model"]), min_size=1, unique=True), Text, Text)
def test_no_two_share_an_account_by_their_names(one: Identity, other: Identity, per: list[str], a: str, b: str) -> None:
    limits = RateLimits(per=tuple(per), requests_per_minute=1)

    def owner(who: Identity, model: str) -> tuple[object, ...]:
        caller = ("user", who.user) if who.user else ("address", who.address)
        values = {"user": caller, "tenant": who.tenant or caller, "tier": who.tier, "model": model}
        return tuple(values[name] for name in sorted(per))

    (first,), (second,) = keys(limits, one, a), keys(limits, other, b)
    if set(per) >= {"user", "tenant"} and not (one.tenant and other.tenant):
        return  # who has no tenant is its own
    assert (first == second) is (owner(one, a) == owner(other, b))


def test_names_that_look_like_two_are_one() -> None:
    limits = RateLimits(per=("tier", "user"), requests_per_minute=1)
    assert keys(limits, Identity(tier="x&user=y", user="z")) != keys(limits, Identity(tier="x", user="y&user=z"))
    assert keys(limits, Identity(tier="x", user="y|z")) == ["requests/minute|tier=x&user=y%7Cz|"]


def test_keys_are_short() -> None:
    ((key,), (other,)) = (keys(per_minute(tier="*"), Identity(tier="é" * 5000, user=name)) for name in ("a", "b" * 500))
    assert len(key) < 100
    assert len(other) < 130
    assert keys(per_minute(tier="*"), Identity(tier="é" * 5001, user="a")) != [key]


@given(Text, Text, Text, Text)
def test_limits_of_different_requests_share_no_account(a: str, b: str, c: str, d: str) -> None:
    one, other = per_minute(user=a, model=b), per_minute(user=c, model=d)
    who = Identity(user="u")
    scopes = []
    for limits in (one, other):
        rules = Ledger([limits])._rules
        scopes.append(rules[0].scope)
    assert (scopes[0] == scopes[1]) is ((a, b) == (c, d))
    assert keys(per_minute(user="*"), who) != keys(per_minute(user="u"), who)


def test_of_limits_on_one_account_the_lowest_holds() -> None:
    low, high = RateLimits(requests_per_minute=5), RateLimits(requests_per_minute=50)
    for limits in ([low, high], [high, low]):
        (demand,) = reserved(Ledger(limits)).demands
        assert (demand.burst, demand.rate) == (5.0, 5 / 60)


def test_a_limit_of_each_kind_is_reserved() -> None:
    limits = RateLimits(
        requests_per_second=1,
        input_tokens_per_minute=2,
        output_tokens_per_hour=3,
        total_tokens_per_month=30 * 24 * 60 * 60,
        concurrent_requests=4,
    )
    found = {demand.key.partition("|")[0]: demand for demand in reserved(Ledger([limits])).demands}
    assert {name: (demand.amount, demand.rate, demand.burst) for name, demand in found.items()} == {
        "requests/second": (1.0, 1.0, 1.0),
        "input_tokens/minute": (100.0, 2 / 60, 2.0),
        "output_tokens/hour": (20.0, 3 / 3600, 3.0),
        "total_tokens/month": (120.0, 1.0, 30 * 24 * 60 * 60),
        "places/": (1.0, 0.0, 4.0),
    }


def test_a_route_limits_its_model_whichever_lora_is_asked_for() -> None:
    routes = [
        RouteLimit("default/r", "m", "minute", input_tokens=100, output_tokens=50),
        RouteLimit("default/l", "", "minute", input_tokens=100),
    ]
    ledger = Ledger([], routes)
    first = reserved(ledger, CI, "m", "default/r").demands
    assert [demand.key for demand in first] == [
        "input_tokens/minute|model=m|rateLimit",
        "output_tokens/minute|model=m|rateLimit",
    ]
    assert reserved(ledger, BOB, "lora", "default/r").demands == first
    assert reserved(ledger, BOB, "x", "default/l").demands[0].key == "input_tokens/minute|route=default/l|rateLimit"
    assert ledger.reservation(CI, "m", "default/other", 1, 1) is None


def test_what_is_remembered_is_bounded() -> None:
    ledger = Ledger([per_minute()])
    for index in range(REMEMBERED + 100):
        reserved(ledger, Identity(user=str(index)))
    assert ledger._lines.cache_info().currsize == REMEMBERED


# --- what is given back -----------------------------------------------------------------------------------------------

EACH = RateLimits(
    requests_per_minute=10,
    input_tokens_per_minute=1000,
    output_tokens_per_minute=200,
    total_tokens_per_minute=1100,
    concurrent_requests=2,
)


def test_what_was_not_used_is_given_back_and_what_ran_over_is_debt() -> None:
    reservation = reserved(Ledger([EACH]))
    assert reservation.given_back(60, 30) == (0.0, 40.0, -10.0, 30.0, 1.0)
    assert reservation.given_back(0, 0) == (0.0, 100.0, 20.0, 120.0, 1.0)


def test_what_nobody_worked_for_costs_nothing() -> None:
    ledger, store = Ledger([EACH]), Local()
    reservation = reserved(ledger)
    taken = store.take_nowait(reservation.demands, 0.0)
    back = reservation.given_back(0, 0, served=False)
    assert back == (1.0, 100.0, 20.0, 120.0, 1.0)
    store.settle(reservation.demands, taken, back, 0.0)
    assert store.take_nowait(reservation.demands, 0.0).used == taken.used


def test_an_edit_of_amounts_keeps_what_has_been_used() -> None:
    store = Local()
    for _ in range(5):
        assert store.take_nowait(reserved(Ledger([RateLimits(requests_per_minute=5)])).demands, 0.0).granted
    for amount, more in ((6, 1), (5, 0), (4, 0), (8, 2)):
        reservation = reserved(Ledger([per_minute(user="z"), RateLimits(requests_per_minute=amount)]))
        granted = [store.take_nowait(reservation.demands, 0.0).granted for _ in range(10)]
        assert sum(granted) == more


Act = st.tuples(
    st.sampled_from(("reserve", "reserve", "settle", "fail")),
    st.integers(0, 3),
    st.sampled_from((0.0, 0.0, 0.2, 1.0, 7.0, 30.0)),
    st.integers(0, 80),
    st.floats(0, 1),
)


@given(st.lists(Act, max_size=60))
def test_no_order_of_events_lets_in_more_than_is_allowed_or_refuses_what_fits(
    acts: list[tuple[str, int, float, int, float]],
) -> None:
    """Four callers of two tenants under three limits, held against sums over everything that was let in."""
    limits = [
        RateLimits(match=LimitMatch(tenant="*"), total_tokens_per_minute=120),
        RateLimits(requests_per_minute=6, concurrent_requests=4),
    ]
    ledger, store, now = Ledger(limits), Local(), 0.0
    people = [Identity(user=f"u{index}", tenant=f"t{index % 2}") for index in range(4)]
    charges: dict[str, list[list[float]]] = {}
    held: list[tuple[Reservation, Taken, list[list[float]], int]] = []
    for what, person, passed, number, share in acts:
        now += passed
        if what == "reserve":
            reservation = ledger.reservation(people[person], "m", "default/r", float(number), 0.0)
            assert reservation is not None
            fits = all(
                level(charges.get(demand.key, []), demand.rate, now) + demand.amount <= demand.burst + 1e-6
                for demand in reservation.demands
            )
            taken = store.take_nowait(reservation.demands, now)
            assert taken.granted is fits
            if taken.granted:
                mine = [[now, demand.amount] for demand in reservation.demands]
                for demand, charge in zip(reservation.demands, mine, strict=True):
                    charges.setdefault(demand.key, []).append(charge)
                held.append((reservation, taken, mine, number))
        elif held:
            reservation, taken, mine, estimate = held.pop(number % len(held))
            used = int(estimate * share) if what == "settle" else 0
            back = reservation.given_back(used, 0, served=what == "settle")
            store.settle(reservation.demands, taken, back, now)
            for charge, given_back in zip(mine, back, strict=True):
                charge[1] -= given_back


def level(charges: list[list[float]], rate: float, now: float) -> float:
    """What exact foreknowledge of ``charges`` would have in the bucket."""
    used = at = 0.0
    for then, amount in charges:
        used, at = max(0.0, used - rate * (then - at)) + amount, then
    return max(0.0, used - rate * (now - at))


# --- how it reads -----------------------------------------------------------------------------------------------------


HOURLY = "requests per hour of all callers together: 1. Try again in 1h0m0s."


def spent(limits: list[RateLimits], times: int, who: Identity = CI) -> tuple[Reservation, Taken]:
    ledger, store = Ledger(limits), Local()
    reservation = reserved(ledger, who)
    taken = store.take_nowait(reservation.demands, 0.0)
    for _ in range(times):
        taken = store.take_nowait(reservation.demands, 0.0)
    return reservation, taken


def test_a_refusal_names_the_limit_and_when_to_come_back() -> None:
    reservation, taken = spent([RateLimits(requests_per_minute=2), EACH], 2)
    error = reservation.refusal(taken)
    assert error.message == "Rate limit reached: requests per minute of user 'ci': 2. Try again in 30s."
    assert (error.status, error.code, error.type) == (429, "rate_limit_exceeded", "rate_limit_error")
    assert error.retry_after == 30.0
    fields = dict(errors.fields(error))
    assert (fields[b"retry-after"], fields[b"retry-after-ms"]) == (b"30", b"30000")
    assert fields[b"x-ratelimit-limit-requests"] == b"2"
    assert fields[b"x-ratelimit-remaining-requests"] == b"0"
    assert fields[b"x-ratelimit-reset-requests"] == b"1m0s"


def test_the_limit_that_refuses_is_the_one_that_is_shown() -> None:
    """Though another one has fewer left."""
    limits = RateLimits(output_tokens_per_second=45, input_tokens_per_hour=190)
    reservation, taken = spent([limits], 1)
    fields = dict(reservation.refusal(taken).headers)
    assert fields[b"x-ratelimit-limit-tokens"] == b"190"
    assert fields[b"x-ratelimit-remaining-tokens"] == b"90"
    assert fields[b"retry-after"] == b"190"  # 10 of 190 leak in 189.47 s


def test_of_several_that_refuse_the_longest_wait_is_told() -> None:
    limits = RateLimits(input_tokens_per_second=145, output_tokens_per_hour=30, total_tokens_per_second=145)
    reservation, taken = spent([limits], 1)
    error = reservation.refusal(taken)
    assert error.message.startswith("Rate limit reached: output tokens per hour of user 'ci': 30.")
    assert dict(error.headers)[b"x-ratelimit-remaining-tokens"] == b"10"


@pytest.mark.parametrize(
    ("limits", "who", "words"),
    [
        (RateLimits(concurrent_requests=1), CI, "concurrent requests of user 'ci': 1. Try again in 1s."),
        (RateLimits(concurrent_requests=1), NOBODY, "concurrent requests of address '10.0.0.1': 1. Try again in 1s."),
        (RateLimits(per=(), requests_per_hour=1), BOB, HOURLY),
        (
            RateLimits(per=("tenant", "model"), input_tokens_per_second=100),
            CI,
            "input tokens per second of model 'm' and tenant 'infra': 100. Try again in 1s.",
        ),
        (
            RateLimits(per=("claims.org",), output_tokens_per_day=1),
            CI,
            "output tokens per day of claims.org: 1. Try again in 480h0m0s.",
        ),
    ],
)  # fmt: skip
def test_limits_in_words(limits: RateLimits, who: Identity, words: str) -> None:
    reservation, taken = spent([limits], 1, who)
    assert reservation.refusal(taken).message == f"Rate limit reached: {words}"


def test_long_names_are_cut_in_words() -> None:
    reservation, taken = spent([RateLimits(concurrent_requests=1)], 1, Identity(user="u" * 300))
    assert f"user '{'u' * 64}'" in reservation.refusal(taken).message


def test_headers_show_what_is_left_of_the_tightest_of_each_kind() -> None:
    reservation = reserved(Ledger([EACH, RateLimits(per=(), requests_per_day=1000)]))
    assert reservation.headers() == ()
    taken = Local().take_nowait(reservation.demands, 0.0)
    reservation.granted(taken)
    assert reservation.headers() == [
        (b"x-ratelimit-limit-requests", b"10"),
        (b"x-ratelimit-remaining-requests", b"9"),
        (b"x-ratelimit-reset-requests", b"6s"),
        (b"x-ratelimit-limit-tokens", b"200"),
        (b"x-ratelimit-remaining-tokens", b"180"),
        (b"x-ratelimit-reset-tokens", b"6s"),
    ]


def test_debt_leaves_nothing() -> None:
    reservation = reserved(Ledger([RateLimits(output_tokens_per_minute=60)]))
    reservation.granted(Taken(True, 0.0, (90.0,)))
    assert dict(reservation.headers())[b"x-ratelimit-remaining-tokens"] == b"0"
    assert dict(reservation.headers())[b"x-ratelimit-reset-tokens"] == b"1m30s"


def test_rounding_takes_no_request_away() -> None:
    reservation = reserved(Ledger([per_minute()]))
    reservation.granted(Taken(True, 0.0, (59.0 + 1e-9,)))
    assert dict(reservation.headers())[b"x-ratelimit-remaining-requests"] == b"1"


def test_places_have_no_headers() -> None:
    reservation = reserved(Ledger([RateLimits(concurrent_requests=2)]))
    reservation.granted(Taken(True, 0.0, (1.0,)))
    assert reservation.headers() == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0001, "1ms"),
        (0.02, "20ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (1.5, "1.5s"),
        (59.9991, "1m0s"),
        (60, "1m0s"),
        (361.25, "6m1.25s"),
        (3600, "1h0m0s"),
        (2_592_000, "720h0m0s"),
        (0.1 * 3, "300ms"),
    ],
)
def test_durations_as_openai_writes_them(seconds: float, text: str) -> None:
    assert elapse(seconds) == text


@given(st.floats(0, 1e8))
def test_durations_are_never_too_short(seconds: float) -> None:
    text = elapse(seconds)
    if text.endswith("ms"):
        told = float(text[:-2]) / 1000
    else:
        hours, _, rest = text.rpartition("h")
        minutes, _, rest = rest.rpartition("m")
        told = 3600 * int(hours or 0) + 60 * int(minutes or 0) + float(rest[:-1])
    assert seconds - 1e-6 <= told <= seconds + 0.001 + 1e-6
    assert math.isfinite(told)


@pytest.mark.usefixtures("uncollected")
def test_a_ledger_that_is_replaced_goes_at_once() -> None:
    """And with it all that it remembers of callers, without the garbage collector."""
    ledger = Ledger([per_minute()])
    reserved(ledger)
    gone = weakref.ref(ledger._lines)
    del ledger
    assert gone() is None
