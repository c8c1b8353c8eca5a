import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.verdict import Condition, Parent, Verdict
from gateway.sources.kube.conditions import MESSAGE_LIMIT, Owner, Write, cut, holds, reason, write

OWNER = Owner("infer-gateway.dev/controller", lambda reference, namespace: reference.get("name") == "ours")
ROUTE = ("networking.serving.volcano.sh/v1alpha1", "ModelRoute")
POOL = ("inference.networking.k8s.io/v1", "InferencePool")
OLD_POOL = ("inference.networking.x-k8s.io/v1alpha2", "InferencePool")
HTTP_ROUTE = ("gateway.networking.k8s.io/v1", "HTTPRoute")
GATEWAY = ("gateway.networking.k8s.io/v1", "Gateway")

ACCEPTED = Condition("Accepted", "True", "Accepted", "")
READY = Condition("Ready", "True", "EndpointsReady", "3 of 4 pods are ready")


def verdict(kind: tuple[str, str], *conditions: Condition, **more: Any) -> Verdict:
    return Verdict(*kind, "ns", "x", "u1", 3, conditions, **more)


def seen(status: object = None, generation: int = 3, uid: str = "u1") -> dict[str, Any]:
    tree: dict[str, Any] = {"metadata": {"uid": uid, "resourceVersion": "7", "generation": generation}}
    return tree if status is None else {**tree, "status": status}


def said(found: Write | None) -> dict[str, Any]:
    assert found is not None
    return found.status


def after(found: Write | None) -> dict[str, Any]:
    return seen(said(found))


def test_our_own_are_applied_with_nothing_but_the_status() -> None:
    found = write(verdict(ROUTE, ACCEPTED), seen(), 1_700_000_000.7, OWNER)
    assert found is not None
    assert found.content_type == "application/apply-patch+yaml"
    assert found.body == {
        "apiVersion": "networking.serving.volcano.sh/v1alpha1",
        "kind": "ModelRoute",
        "metadata": {"name": "x", "namespace": "ns"},
        "status": {
            "conditions": [
                {
                    "type": "Accepted",
                    "status": "True",
                    "observedGeneration": 3,
                    "lastTransitionTime": "2023-11-14T22:13:20Z",
                    "reason": "Accepted",
                    "message": "",
                }
            ]
        },
    }


def test_who_says_it_already_is_left_alone_whatever_the_order() -> None:
    first = write(verdict(ROUTE, ACCEPTED, READY), seen(), 0.0, OWNER)
    assert write(verdict(ROUTE, READY, ACCEPTED), after(first), 99.0, OWNER) is None


def test_times_stay_while_the_status_stays() -> None:
    first = after(write(verdict(ROUTE, ACCEPTED, READY), seen(), 0.0, OWNER))
    worse = Condition("Ready", "False", "NoPods", "0 of 4 pods are ready")
    second = said(write(verdict(ROUTE, Condition("Accepted", "True", "Accepted", "new"), worse), first, 60.0, OWNER))
    assert [c["lastTransitionTime"] for c in second["conditions"]] == ["1970-01-01T00:00:00Z", "1970-01-01T00:01:00Z"]


@pytest.mark.parametrize(
    ("change", "urgent"),
    [
        (Condition("Ready", "True", "EndpointsReady", "2 of 4 pods are ready"), False),
        (Condition("Accepted", "False", "Invalid", "$.spec: no"), True),
    ],
)
def test_readiness_alone_is_not_urgent(change: Condition, urgent: bool) -> None:
    first = after(write(verdict(ROUTE, ACCEPTED, READY), seen(), 0.0, OWNER))
    conditions = {c.type: c for c in (ACCEPTED, READY, change)}.values()
    found = write(verdict(ROUTE, *conditions), first, 1.0, OWNER)
    assert found is not None
    assert found.urgent is urgent


def test_a_new_generation_is_said() -> None:
    first = after(write(verdict(ROUTE, ACCEPTED), seen(), 0.0, OWNER))
    newer = Verdict(*ROUTE, "ns", "x", "u1", 4, (ACCEPTED,))
    assert said(write(newer, first, 1.0, OWNER))["conditions"][0]["observedGeneration"] == 4


def test_who_is_behind_says_nothing_over_who_is_not() -> None:
    newer = Verdict(*ROUTE, "ns", "x", "u1", 4, (Condition("Accepted", "False", "Invalid", ""),))
    now = seen(said(write(newer, seen(generation=4), 0.0, OWNER)), generation=4)
    assert write(verdict(ROUTE, ACCEPTED), now, 1.0, OWNER) is None
    impossible = {"conditions": [{"type": "Accepted", "status": "True", "observedGeneration": 99}]}
    assert write(verdict(ROUTE, ACCEPTED), seen(impossible), 1.0, OWNER) is not None


def test_nothing_is_said_of_its_successor_by_the_same_name() -> None:
    assert write(verdict(ROUTE, ACCEPTED), seen(uid="u2"), 0.0, OWNER) is None


@pytest.mark.parametrize(
    "status",
    [
        None, "x", {"conditions": "x"}, {"conditions": [1, {"type": 2}, {"type": {}}]}, {"parents": {}},
        {"parents": [{"parentRef": {"name": {}, "kind": []}, "controllerName": OWNER.controller}]},
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [ROUTE, HTTP_ROUTE, POOL])
def test_statuses_of_any_shape_are_replaced(kind: tuple[str, str], status: object) -> None:
    parents = None if kind == ROUTE else (Parent({"name": "g"}, (ACCEPTED,)),)
    found = write(verdict(kind, ACCEPTED, parents=parents), {**seen(), "status": status}, 0.0, OWNER)
    assert write(verdict(kind, ACCEPTED, parents=parents), after(found), 1.0, OWNER) is None


def test_conditions_of_listeners_keep_their_times_too_and_defaults_of_the_server_are_no_difference() -> None:
    def gateway(count: int, programmed: Condition) -> Verdict:
        listeners = [{"name": "http", "attachedRoutes": count, "conditions": (programmed,)}]
        addresses = [{"value": "10.0.0.1"}]
        return verdict(GATEWAY, ACCEPTED, more={"listeners": listeners, "addresses": addresses})

    programmed = Condition("Programmed", "True", "Programmed")
    first = said(write(gateway(1, programmed), seen(), 0.0, OWNER))
    assert first["listeners"][0]["conditions"][0]["lastTransitionTime"] == "1970-01-01T00:00:00Z"
    kept = {**first, "addresses": [{"type": "IPAddress", "value": "10.0.0.1"}]}
    assert write(gateway(1, programmed), seen(kept), 60.0, OWNER) is None
    second = said(write(gateway(2, programmed), seen(kept), 60.0, OWNER))
    assert second["listeners"][0]["attachedRoutes"] == 2
    assert second["listeners"][0]["conditions"][0]["lastTransitionTime"] == "1970-01-01T00:00:00Z"
    third = said(write(gateway(1, Condition("Programmed", "False", "Pending")), seen(kept), 60.0, OWNER))
    assert third["listeners"][0]["conditions"][0]["lastTransitionTime"] == "1970-01-01T00:01:00Z"


def entry(name: str, controller: str = "", **more: Any) -> dict[str, Any]:
    parent: dict[str, Any] = {"parentRef": {"name": name}, "conditions": [], **more}
    return {**parent, "controllerName": controller} if controller else parent


def names(found: Write | None, member: str = "parents") -> list[str]:
    return [parent["parentRef"]["name"] for parent in said(found)[member]]


def test_entries_of_others_stay_as_they_are_and_where_they_are() -> None:
    old = [
        entry("a", "other/one", extra=[1]),
        entry("gone", OWNER.controller),
        entry("mine", OWNER.controller),
        entry("mine", "other/one"),
    ]
    mine = Parent({"name": "mine"}, (ACCEPTED,))
    added = Parent({"name": "added", "namespace": "ns2", "sectionName": "http"}, (ACCEPTED,))
    found = write(verdict(HTTP_ROUTE, parents=(added, mine)), seen({"parents": old}), 0.0, OWNER)
    assert found is not None
    assert found.content_type == "application/merge-patch+json"
    assert found.body["metadata"] == {"resourceVersion": "7"}
    assert names(found) == ["a", "mine", "mine", "added"]
    assert said(found)["parents"][0] == old[0]
    assert said(found)["parents"][2] == old[3]
    assert {parent["controllerName"] for parent in said(found)["parents"][1::2]} == {OWNER.controller}
    assert write(verdict(HTTP_ROUTE, parents=(mine, added)), after(found), 9.0, OWNER) is None


def test_entries_of_pools_are_known_by_their_gateway_where_they_do_not_say_whose_they_are() -> None:
    old = [entry("theirs"), entry("ours"), entry("default", parentRef={"kind": "Status", "name": "default"})]
    found = write(verdict(POOL, parents=()), seen({"parents": old}), 0.0, OWNER)
    assert names(found) == ["theirs", "default"]
    found = write(verdict(POOL, parents=(Parent({"name": "ours"}, (ACCEPTED,)),)), seen({"parents": old}), 0.0, OWNER)
    assert names(found) == ["theirs", "ours"]
    assert write(verdict(POOL, parents=()), seen(), 0.0, OWNER) is None


def test_an_old_pool_has_a_member_of_its_own_and_no_controllers() -> None:
    parents = (Parent({"name": "ours"}, (ACCEPTED,)),)
    found = write(verdict(OLD_POOL, parents=parents), seen(), 0.0, OWNER)
    assert list(said(found)) == ["parent"]
    assert "controllerName" not in said(found)["parent"][0]
    assert write(verdict(OLD_POOL, parents=parents), after(found), 0.0, OWNER) is None


def test_a_reference_with_its_defaults_is_the_same_reference() -> None:
    mine = Parent(
        {"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "ns", "name": "g"}, (ACCEPTED,)
    )
    first = after(write(verdict(HTTP_ROUTE, parents=(Parent({"name": "g"}, (ACCEPTED,)),)), seen(), 0.0, OWNER))
    assert len(said(write(verdict(HTTP_ROUTE, parents=(mine,)), first, 0.0, OWNER))["parents"]) == 1


def test_a_full_list_stays_within_what_is_allowed() -> None:
    old = [entry(str(index), "other/one") for index in range(31)]
    ours = tuple(Parent({"name": name}, (ACCEPTED,)) for name in ("a", "b"))
    assert names(write(verdict(HTTP_ROUTE, parents=ours), seen({"parents": old}), 0.0, OWNER))[31:] == ["a"]


@given(st.text(max_size=1200))
def test_any_reason_becomes_one_that_is_allowed(text: str) -> None:
    assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", reason(text), re.ASCII)
    assert len(reason(text)) <= 1024


@given(st.from_regex(r"\A[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?\Z"))
def test_a_reason_that_is_allowed_stays(text: str) -> None:
    assert reason(text) == text[:1024].rstrip(",:")


def test_a_long_message_is_cut() -> None:
    found = said(write(verdict(ROUTE, Condition("Accepted", "False", "Invalid", "x" * 99_999)), seen(), 0.0, OWNER))
    message = found["conditions"][0]["message"]
    assert len(message) == MESSAGE_LIMIT <= 32_768
    assert message.endswith("x…")
    assert cut("abc", 3) == "abc"


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=10,
)


@given(json)
def test_everything_holds_itself(value: Any) -> None:
    assert holds(value, value)


CONDITION = st.builds(
    Condition,
    st.sampled_from(["Accepted", "ResolvedRefs", "Ready"]),
    st.sampled_from(["True", "False", "Unknown"]),
    st.text(max_size=8),
    st.text(max_size=8),
)
CONDITIONS = st.lists(CONDITION, max_size=3, unique_by=lambda condition: condition.type).map(tuple)
PARENTS = st.lists(
    st.builds(Parent, st.builds(dict, name=st.sampled_from(["ours", "b", "c"])), CONDITIONS),
    max_size=3,
    unique_by=lambda parent: str(parent.reference["name"]),
).map(tuple)
ENTRIES = st.lists(
    st.builds(entry, st.sampled_from(["ours", "b", "c", "d"]), st.sampled_from(["", "other/one", OWNER.controller])),
    max_size=5,
)


@given(st.sampled_from([HTTP_ROUTE, POOL, OLD_POOL]), PARENTS, ENTRIES)
def test_one_write_is_enough_and_takes_nothing_from_others(
    kind: tuple[str, str], parents: tuple[Parent, ...], old: list[dict[str, Any]]
) -> None:
    member = "parent" if kind == OLD_POOL else "parents"
    wanted = verdict(kind, parents=parents)
    found = write(wanted, seen({member: old}), 0.0, OWNER)
    new = old if found is None else said(found)[member]
    assert [e for e in new if e.get("controllerName") == "other/one"] == [
        e for e in old if e.get("controllerName") == "other/one"
    ]
    assert {p.reference["name"] for p in parents} <= {e["parentRef"]["name"] for e in new}
    assert write(wanted, seen({member: new}), 60.0, OWNER) is None


@given(st.lists(CONDITIONS, min_size=1, max_size=5))
def test_a_condition_is_as_old_as_its_status(history: list[tuple[Condition, ...]]) -> None:
    now, since = seen(), dict[str, tuple[str, str]]()
    for step, conditions in enumerate(history):
        time = f"1970-01-01T00:00:{step:02}Z"
        for condition in conditions:
            if since.get(condition.type, ("", ""))[0] != condition.status:
                since[condition.type] = (condition.status, time)
        since = {c.type: since[c.type] for c in conditions} if conditions else since
        found = write(verdict(ROUTE, *conditions), now, float(step), OWNER)
        now = now if found is None else after(found)
        for old in now.get("status", {}).get("conditions", []):
            assert since[old["type"]] == (old["status"], old["lastTransitionTime"])
