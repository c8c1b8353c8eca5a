"""Which pods are members of which pools, whatever comes in whichever order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.pods import ACTIVE_PORTS, POD_NAME, Membership, Pod, PodIndex, pod_of
from gateway.config.resources import PDGroup
from gateway.config.snapshot import Selector
from gateway.types import Endpoint
from tests.gateway.config.clusters import pod, pod_from, pod_tree

TEMPLATE = Endpoint("vllm", "https", "", 8000, headers=((b"authorization", b"Bearer k"),))


def changed(tree: Any, **members: Any) -> Any:
    """``tree`` with members set by dotted path."""
    for path, value in members.items():
        at = tree
        *way, last = path.split("__")
        for step in way:
            at = at.setdefault(step, {})
        at[last] = value
    return tree


def selector(ports: tuple[int, ...] = (8000,), group: PDGroup | None = None, **labels: str) -> Selector:
    return Selector("x", tuple(labels.items()), ports, pd_group=group)


def addresses(membership: Membership) -> list[str]:
    return [endpoint.address for endpoint in membership.endpoints()]


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_ready_pod_is_read() -> None:
    found = pod("a-1", "a", zone="z")
    assert found.labels == (("app", "a"), (POD_NAME, "a-1"), ("zone", "z"))
    assert (found.namespace, found.name, found.address) == ("x", "a-1", "10.0.0.1")
    assert found.serves


@pytest.mark.parametrize(
    ("members", "alive", "serves"),
    [
        ({}, True, True),
        ({"metadata__deletionTimestamp": "2026-01-01T00:00:00Z"}, False, False),
        ({"status__phase": "Succeeded"}, False, False),
        ({"status__phase": "Failed"}, False, False),
        ({"status__conditions": []}, True, False),
        ({"status__conditions": [{"type": "Ready", "status": "Unknown"}]}, True, False),
        ({"status__conditions": None}, True, False),
        ({"status__podIP": ""}, True, False),
        ({"status__podIP": None}, True, False),
        ({"status__podIP": "evil.example.com/"}, True, False),
        ({"status__podIP": "fe80::1%eth0"}, True, False),
        ({"status__podIP": None, "status__podIPs": [{"ip": "10.0.0.9"}, {"ip": "fd00::9"}]}, True, True),
    ],
)
def test_what_can_be_asked(members: Any, alive: bool, serves: bool) -> None:
    found = pod_from(changed(pod_tree("a-1", "a"), **members))
    assert (found.alive, found.serves) == (alive, serves)


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b"{}", b'{"metadata": {}}', b'{"metadata": {"name": 1}}', b'{"metadata": {"name": "\xff"}}',
     b'{"metadata": {"name": "a", "labels": {"a": 1}}}', b"[" * 100_000],
)  # fmt: skip
def test_what_is_no_pod_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        pod_of(data)


@pytest.mark.parametrize(
    ("text", "ports", "rubbish"),
    [
        ("8000,8001", (8000, 8001), ""),
        (" 8000 , ", (8000,), ""),
        ("", None, ""),
        ("all", None, "all"),
        ("8000,x,70000,-1,٣", (8000,), "x, 70000, -1, ٣"),
        ("9" * 5000, None, "9" * 100),
    ],
)
@pytest.mark.parametrize("name", ACTIVE_PORTS)
def test_active_ports(name: str, text: str, ports: Any, rubbish: str) -> None:
    found = pod_from(changed(pod_tree("a-1", "a"), metadata__annotations={name: text}))
    assert (found.ports, found.rubbish) == (ports, rubbish)


# --- membership -------------------------------------------------------------------------------------------------------


def test_one_endpoint_for_each_port_that_is_active() -> None:
    index: PodIndex[str] = PodIndex()
    membership = index.watch("p", selector((8000, 8001), app="a"), TEMPLATE)
    index.put(pod("a-1", "a"))
    index.put(pod_from(changed(pod_tree("a-2", "a", ip="fd00::1"), metadata__annotations={ACTIVE_PORTS[0]: "8001,y"})))
    assert addresses(membership) == ["10.0.0.1:8000", "10.0.0.1:8001", "[fd00::1]:8001"]
    endpoint = membership.endpoints()[0]
    assert (endpoint.scheme, endpoint.headers) == ("https", TEMPLATE.headers)
    assert dict(endpoint.labels) == {"app": "a", POD_NAME: "a-1"}
    assert membership.warnings() == ['Pod x/a-2: active-ports: "y" cannot be ports, ignored']


def test_of_pods_at_one_address_there_is_one_endpoint() -> None:
    """An address goes over to another pod before the one that had it is gone."""
    index: PodIndex[int] = PodIndex()
    membership = index.watch(0, selector((8000, 8001), app="a"), TEMPLATE)
    for name, ip in (("old", "10.0.0.1"), ("new", "10.0.0.1"), ("other", "10.0.0.2")):
        index.put(pod(name, "a", ip=ip))
    assert addresses(membership) == ["10.0.0.1:8000", "10.0.0.1:8001", "10.0.0.2:8000", "10.0.0.2:8001"]
    assert (membership.ready, len(membership)) == (3, 3)
    index.remove("x", "old")
    assert dict(membership.endpoints()[0].labels)[POD_NAME] == "new"
    index.put(pod("new", "a", ip="10.0.0.3"))
    assert addresses(membership) == ["10.0.0.3:8000", "10.0.0.3:8001", "10.0.0.2:8000", "10.0.0.2:8001"]
    index.put(pod("new", "a", ip="10.0.0.3", ready=False))
    assert len(membership.endpoints()) == 2


def test_prefill_pods_take_no_requests() -> None:
    group = PDGroup(group_key="g", prefill_labels={"role": "prefill"}, decode_labels={"role": "decode"})
    index: PodIndex[str] = PodIndex()
    membership = index.watch("p", selector(group=group, app="a"), TEMPLATE)
    for number, role in enumerate(("prefill", "decode", "other")):
        index.put(pod(f"a-{number}", "a", ip=f"10.0.0.{number}", role=role))
    assert addresses(membership) == ["10.0.0.1:8000", "10.0.0.2:8000"]
    assert len(membership) == 2


def test_another_template_makes_other_endpoints() -> None:
    index: PodIndex[str] = PodIndex()
    index.put(pod("a-1", "a"))
    membership = index.watch("p", selector(app="a"), TEMPLATE)
    before = membership.endpoints()
    assert index.watch("p", selector(app="a"), TEMPLATE).endpoints() is before
    plain = Endpoint("vllm", "http", "", 8000)
    assert index.watch("p", selector(app="a"), plain).endpoints()[0].scheme == "http"


def test_what_does_not_matter_changes_nothing() -> None:
    index: PodIndex[str] = PodIndex()
    index.put(pod("a-1", "a"))
    membership = index.watch("p", selector(app="a"), TEMPLATE)
    before = membership.endpoints()
    index.changed.clear()
    index.put(pod_from(changed(pod_tree("a-1", "a"), metadata__resourceVersion="7")))
    assert not index.changed
    assert membership.endpoints() is before


def test_selectors_that_share_a_label_are_told_apart_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod costs what it matches: of 100 selectors with one label in common, hardly any others are looked at."""
    index: PodIndex[int] = PodIndex()
    for number in range(100):
        index.watch(number, selector(app="a", model=str(number)), TEMPLATE)
    asked: list[Membership] = []
    takes = Membership.takes

    def counted(self: Membership, labels: frozenset[tuple[str, str]]) -> bool:
        asked.append(self)
        return takes(self, labels)

    monkeypatch.setattr(Membership, "takes", counted)
    index.put(pod("a-1", "a", model="7"))
    assert index.changed == {7}
    assert len(asked) <= 2


LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("12"), max_size=3)
PODS = st.builds(
    lambda number, labels, ready, alive, ip: Pod(
        "x", f"p{number}", tuple(sorted({**labels, POD_NAME: f"p{number}"}.items())), f"10.0.0.{ip}", ready, alive
    ),
    st.integers(0, 5),
    LABELS,
    st.booleans(),
    st.booleans(),
    st.integers(1, 2),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), PODS),
        st.tuples(st.just("remove"), st.integers(0, 5)),
        st.tuples(st.just("watch"), st.tuples(st.integers(0, 3), LABELS.filter(bool))),
        st.tuples(st.just("unwatch"), st.integers(0, 3)),
    ),
    max_size=40,
)


@given(STEPS)
def test_members_are_those_that_a_search_of_all_pods_finds(steps: list[tuple[str, Any]]) -> None:
    index: PodIndex[int] = PodIndex()
    pods: dict[str, Pod] = {}
    selectors: dict[int, dict[str, str]] = {}
    for what, value in steps:
        before = {key: index[key].endpoints() for key in selectors}
        index.changed.clear()
        if what == "put":
            index.put(value)
            pods[value.name] = value
        elif what == "remove":
            index.remove("x", f"p{value}")
            pods.pop(f"p{value}", None)
        elif what == "watch":
            index.watch(value[0], selector(**value[1]), TEMPLATE)
            selectors[value[0]] = value[1]
        else:
            index.unwatch(value)
            selectors.pop(value, None)
        for key, labels in selectors.items():
            found = [pods[name] for name in sorted(pods) if labels.items() <= dict(pods[name].labels).items()]
            living = [each for each in found if each.alive]
            serving = [each for each in living if each.serves]
            assert addresses(index[key]) == list(dict.fromkeys(f"{each.address}:8000" for each in serving))
            assert (index[key].ready, len(index[key])) == (len(serving), len(living))
            if what in ("put", "remove") and key not in index.changed:
                assert index[key].endpoints() is before[key]
    for name in list(pods):
        index.remove("x", name)
    for key in range(4):
        index.unwatch(key)
    assert not index._spaces
