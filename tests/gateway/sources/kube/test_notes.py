import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.config.verdict import Condition, Parent, Verdict
from gateway.sources.kube.conditions import Owner
from gateway.sources.kube.notes import Note, Regarding, changes, event, said, series, stands

OWNER = Owner("us")
ROUTE = ("networking.serving.volcano.sh/v1alpha1", "ModelRoute", "ns", "x", "u1", 1)
HTTP_ROUTE = ("gateway.networking.k8s.io/v1", "HTTPRoute", "ns", "x", "u1", 1)
GOOD = Condition("Accepted", "True", "Accepted")
BAD = Condition("Accepted", "False", "Invalid", "$.spec.rules: expected 1 to 16")
WORSE = Condition("Accepted", "False", "Invalid", "$.spec.rules[0]: expected an object")
READY = Condition("Ready", "False", "NoPods", "0 of 4 pods are ready")


def verdict(*conditions: Condition) -> Verdict:
    return Verdict(*ROUTE, conditions)


def told(before: Verdict | None, now: Verdict) -> list[tuple[bool, str, str]]:
    return [(n.warning, n.reason, n.text) for n in changes(now, {} if before is None else said(before))]


def test_bad_news_are_told_and_good_ones_after_bad() -> None:
    assert told(None, verdict(GOOD)) == []
    assert told(verdict(GOOD), verdict(BAD)) == [(True, "Invalid", BAD.message)]
    assert told(None, verdict(BAD)) == [(True, "Invalid", BAD.message)]
    assert told(verdict(BAD), verdict(BAD)) == []
    assert told(verdict(BAD), verdict(WORSE)) == [(True, "Invalid", WORSE.message)]
    assert told(verdict(BAD), verdict(GOOD)) == [(False, "Accepted", "")]


def test_pods_that_come_and_go_are_no_news() -> None:
    assert told(verdict(GOOD), verdict(GOOD, READY)) == []


def test_what_a_gateway_says_of_a_route_names_the_gateway() -> None:
    parents = (Parent({"name": "g", "sectionName": "http"}, (BAD,)),)
    shared = Verdict(*HTTP_ROUTE, parents=parents)
    assert told(None, shared) == [(True, "Invalid", f"Gateway ns/g (http): {BAD.message}")]
    ours: dict[str, Any] = {
        "parentRef": {"name": "g", "sectionName": "http"},
        "controllerName": "us",
        "conditions": [{"type": "Accepted", "status": "False", "reason": "Invalid", "message": BAD.message}],
    }
    assert changes(shared, stands(shared, {"status": {"parents": [ours]}}, OWNER)) == []
    assert changes(shared, stands(shared, {"status": {"parents": [{**ours, "controllerName": "them"}]}}, OWNER)) != []


def test_an_event_is_as_events_k8s_io_wants_it() -> None:
    note = Note(Regarding("v1", "ConfigMap", "ns", "gateway", "u9"), True, "ReloadFailed", "line 3: no")
    assert event(note, "gateway-0", "00ff", 1_700_000_000.5) == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "gateway.00ff", "namespace": "ns"},
        "eventTime": "2023-11-14T22:13:20.500000Z",
        "reportingController": "infer-gateway",
        "reportingInstance": "gateway-0",
        "action": "Reconcile",
        "reason": "ReloadFailed",
        "regarding": {"apiVersion": "v1", "kind": "ConfigMap", "name": "gateway", "namespace": "ns", "uid": "u9"},
        "note": "line 3: no",
        "type": "Warning",
    }
    assert series(2, 0.0)["series"] == {"count": 2, "lastObservedTime": "1970-01-01T00:00:00.000000Z"}


def test_about_what_is_in_no_namespace_it_stands_in_default() -> None:
    note = Note(Regarding("gateway.networking.k8s.io/v1", "GatewayClass", "", "c"), False, "Accepted", "")
    made = event(note, "gateway-0", "0", 0.0)
    assert made["metadata"]["namespace"] == "default"
    assert "namespace" not in made["regarding"]
    assert made["type"] == "Normal"


@given(
    st.from_regex(r"\A[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?\Z"), st.text(), st.text(max_size=3000), st.text(min_size=1)
)
def test_whatever_it_says_is_within_bounds(name: str, why: str, text: str, identity: str) -> None:
    made = event(Note(Regarding("v1", "ConfigMap", "ns", name), True, why, text), identity, "0" * 16, 0.0)
    assert len(made["metadata"]["name"]) <= 253
    assert not re.search(r"[-.]\.0+\Z", made["metadata"]["name"])
    assert len(made["note"].encode()) <= 1024
    assert 1 <= len(made["reason"]) <= 128
    assert 1 <= len(made["reportingInstance"]) <= 128
    assert made["note"] == text or made["note"].endswith("…")
