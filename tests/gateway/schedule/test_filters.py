"""Filters: who goes, who stays, and that the order does."""

from __future__ import annotations

import pytest
from hypothesis import given

from gateway.config.decode import Fault, Section
from gateway.schedule import registry
from gateway.schedule.ask import Ask
from gateway.schedule.filters import (
    Condition,
    ContextLength,
    Decode,
    Encode,
    HeaderSelection,
    Healthy,
    LabelSelector,
    Prefill,
    Requirement,
    Utilization,
)
from gateway.schedule.queues import LeastRequest
from gateway.schedule.scorers import ContextLengthAware, LoRAAffinity
from gateway.types import Load, ModelCard
from tests.gateway.schedule.fleet import Fake, ask, asks, fleets, ids, parts

FILTERS = sorted(name for name, plugin in registry.BUILT_IN.items() if registry.offers(plugin, "filter"))


def left(plugin: Section, *candidates: Fake, of: Ask | None = None) -> str:
    made = plugin.filter(parts())(of or ask(), candidates)  # type: ignore[attr-defined]
    return "".join(ids(made))


@pytest.mark.parametrize("name", FILTERS)
@given(fleet=fleets, of=asks)
def test_what_is_left_was_there_and_in_order(name: str, fleet: list[Fake], of: Ask) -> None:
    made = ids(registry.find(name)().filter(parts())(of, fleet))  # type: ignore[attr-defined]
    assert made == [id for id in ids(fleet) if id in made]


def test_engines_that_sleep_are_left_alone() -> None:
    assert left(Healthy(), Fake("a", Load(asleep=True)), Fake("b", Load()), Fake("c")) == "bc"


# --- least-request ----------------------------------------------------------------------------------------------------


def test_waiting_requests_are_counted_strictly() -> None:
    fleet = [Fake(id, Load(waiting=waiting)) for id, waiting in (("a", 9), ("b", 10), ("c", 11), ("d", 0))]
    assert left(LeastRequest(), *fleet, Fake("e")) == "ade"
    assert left(LeastRequest(max_waiting_requests=0), *fleet) == "ad"
    assert left(LeastRequest(max_waiting_requests=11), *fleet) == "abd"


def test_what_was_sent_behind_a_queue_waits_too() -> None:
    """The scrape shows 8 waiting; the two sent since are behind them."""
    load = Load(waiting=8, running=4)
    assert left(LeastRequest(), Fake("a", load, inflight=13), Fake("b", load, inflight=14)) == "a"
    assert left(LeastRequest(), Fake("c", load, inflight=2, foreign=12.0)) == ""


def test_what_was_sent_to_an_engine_without_a_queue_runs() -> None:
    assert left(LeastRequest(), Fake("a", Load(running=4), inflight=50)) == "a"


# --- LoRA, context ----------------------------------------------------------------------------------------------------

BASE, LORA, OTHER = ModelCard("base"), ModelCard("l", "base"), ModelCard("o", "base")


def test_a_lora_is_asked_of_who_has_it() -> None:
    fleet = Fake("a", cards=(BASE, LORA)), Fake("b", cards=(BASE, OTHER)), Fake("c")
    running = Fake("d", Load(loras=frozenset(("l",))))
    assert left(LoRAAffinity(), *fleet, running, of=ask(model="l")) == "ad"
    assert left(LoRAAffinity(), *fleet, of=ask(model="l")) == "a"
    assert left(LoRAAffinity(), *fleet, of=ask(model="base")) == "abc"
    assert left(LoRAAffinity(), *fleet, of=ask(model="nobody's")) == "abc"


def test_a_prompt_goes_where_it_fits() -> None:
    short, long, unknown = (
        Fake(id, cards=(ModelCard("m", max_model_len=length),))
        for id, length in (("a", 2000), ("b", 8000), ("c", None))
    )
    assert left(ContextLength(), short, long, unknown, of=ask("x" * 4 * 7000)) == "bc"
    # an estimate half as long again as the context is no certainty
    assert left(ContextLength(), short, long, unknown, of=ask("x" * 4 * 2900)) == "abc"
    assert left(ContextLength(margin=1), short, long, unknown, of=ask("x" * 4 * 2900)) == "bc"
    assert left(ContextLength(), short, long, of=ask("x" * 4 * 90_000)) == "ab"
    other = Fake("d", cards=(ModelCard("other", max_model_len=10), ModelCard("m", max_model_len=8000)))
    assert left(ContextLength(), other, short, of=ask("x" * 4 * 7000)) == "d"


def test_ranges_of_context_lengths() -> None:
    short, long, any_ = (
        Fake(id, labels=(("llm-d.ai/context-length-range", text),) if text else ())
        for id, text in (("a", "0-1000"), ("b", "1000-9000"), ("c", ""))
    )
    of = ask("x" * 4 * 3000)
    assert left(ContextLengthAware(), short, long, any_, of=of) == "abc"
    assert left(ContextLengthAware(enable_filtering=True), short, long, any_, of=of) == "bc"
    assert left(ContextLengthAware(enable_filtering=True), short, of=of) == "a"


# --- labels -----------------------------------------------------------------------------------------------------------


def labelled(**roles: str) -> list[Fake]:
    return [Fake(id, labels=(("llm-d.ai/role", role),) if role else ()) for id, role in roles.items()]


def test_roles() -> None:
    fleet = labelled(a="decode", b="prefill", c="both", d="", e="encode-prefill", f="encode", g="prefill-decode")
    assert left(Decode(), *fleet) == "acdg"
    assert left(Prefill(), *fleet) == "bceg"
    assert left(Encode(), *fleet) == "ef"


def test_label_selectors() -> None:
    fleet = (
        Fake("a", labels=(("gpu", "h100"), ("zone", "1"))), Fake("b", labels=(("gpu", "l4"),)), Fake("c"),
    )  # fmt: skip

    def rule(operator: str, *values: str) -> LabelSelector:
        return LabelSelector(match_expressions=(Requirement(key="gpu", operator=operator, values=values),))  # type: ignore[arg-type]

    assert left(LabelSelector(), *fleet) == "abc"
    assert left(LabelSelector(match_labels={"gpu": "h100"}), *fleet) == "a"
    assert left(LabelSelector(match_labels={"gpu": "h100", "zone": "2"}), *fleet) == ""
    assert left(rule("In", "h100", "l4"), *fleet) == "ab"
    assert left(rule("NotIn", "h100"), *fleet) == "bc"
    assert left(rule("Exists"), *fleet) == "ab"
    assert left(rule("DoesNotExist"), *fleet) == "c"


def test_a_requirement_has_values_exactly_where_they_mean_something() -> None:
    for operator, values in (("In", ()), ("NotIn", ()), ("Exists", ("x",)), ("DoesNotExist", ("x",))):
        with pytest.raises(Fault) as caught:
            Requirement(key="gpu", operator=operator, values=values)  # type: ignore[arg-type]
        assert caught.value.path == ".values"


# --- the reference picker's -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("active-requests", "acd"),
        ("running-requests", "abd"),
        ("waiting-queue", "abd"),
        ("kv-cache-utilization", "abd"),
    ],
)
def test_utilization(metric: str, expected: str) -> None:
    fleet = (
        Fake("a", Load(running=2, waiting=2, kv_usage=2.0), inflight=2), Fake("b", Load(), inflight=3),
        Fake("c", Load(running=3, waiting=3, kv_usage=3.0)), Fake("d"),
    )  # fmt: skip
    plugin = Utilization(conditions=(Condition(metric=metric, max_value=2),))  # type: ignore[arg-type]
    assert left(plugin, *fleet) == expected


def test_utilization_may_fall_back() -> None:
    conditions = (Condition(metric="active-requests", max_value=2),)
    full = Fake("a", inflight=3)
    assert left(Utilization(conditions=conditions), full) == ""
    assert left(Utilization(conditions=conditions, fallback_on_empty=True), full) == "a"


def test_a_conformance_test_names_its_endpoints() -> None:
    fleet = Fake("a", host="10.0.0.1"), Fake("b", host="10.0.0.2"), Fake("c", host="10.0.0.3")

    def of(value: bytes) -> Ask:
        return ask(headers=((b"test-epp-endpoint-selection", value),))

    assert left(HeaderSelection(), *fleet, of=of(b"10.0.0.1, 10.0.0.3:8000")) == "ac"
    assert left(HeaderSelection(), *fleet, of=of(b"10.0.0.3:9999")) == ""
    assert left(HeaderSelection(), *fleet) == "abc"
