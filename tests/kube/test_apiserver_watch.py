"""Watches of the fake API server: what they tell, in which order, and how they go wrong when asked to. (IO)"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException

from tests.kube.cluster import Cluster, config_map, inference_pool, pod

LABELS = {"app": "engine"}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster(crds=()) as running:
        yield running


class Stream:
    """One watch, line by line."""

    def __init__(self, cluster: Cluster, path: str, **query: str) -> None:
        self.http = httpx.Client(base_url=cluster.url, timeout=10, trust_env=False)
        request = self.http.build_request("GET", path, params={"watch": "true", **query})
        self.answer = self.http.send(request, stream=True)
        self.lines = self.answer.iter_lines()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: Any) -> None:
        self.answer.close()
        self.http.close()

    def next(self) -> dict[str, Any]:
        tree: dict[str, Any] = json.loads(next(self.lines))
        return tree

    def told(self, count: int) -> list[tuple[str, str]]:
        """Types and names of the next events."""
        events = [self.next() for _ in range(count)]
        return [(each["type"], each["object"]["metadata"]["name"]) for each in events]


def version(cluster: Cluster) -> str:
    return str(cluster.order("settings")["version"])


def test_a_watch_tells_changes_in_their_order(cluster: Cluster) -> None:
    cluster.create(pod("old", "127.0.0.2", LABELS))
    with Stream(cluster, "/api/v1/pods", resourceVersion=version(cluster)) as stream:
        cluster.create(pod("new", "127.0.0.3", LABELS))
        cluster.set_ready(pod("old", "", {}), False)
        cluster.create(config_map("other", {}))
        cluster.delete(pod("new", "", {}))
        events = [stream.next() for _ in range(3)]
    assert [(each["type"], each["object"]["metadata"]["name"]) for each in events] == [
        ("ADDED", "new"),
        ("MODIFIED", "old"),
        ("DELETED", "new"),
    ]
    versions = [int(each["object"]["metadata"]["resourceVersion"]) for each in events]
    assert versions == sorted(set(versions))
    assert events[0]["object"]["apiVersion"] == "v1"


def test_a_watch_resumes_from_any_version(cluster: Cluster) -> None:
    start = version(cluster)
    made = cluster.create(*(config_map(f"c{i}", {}, namespace="resume") for i in range(3)))
    with Stream(cluster, "/api/v1/namespaces/resume/configmaps", resourceVersion=start) as stream:
        assert stream.told(3) == [("ADDED", "c0"), ("ADDED", "c1"), ("ADDED", "c2")]
    after = made[1]["metadata"]["resourceVersion"]
    with Stream(cluster, "/api/v1/namespaces/resume/configmaps", resourceVersion=after) as stream:
        assert stream.told(1) == [("ADDED", "c2")]


def test_a_watch_without_a_version_begins_with_what_is_there(cluster: Cluster) -> None:
    cluster.create(pod("a", "127.0.0.2", LABELS), pod("b", "127.0.0.3", {}))
    with Stream(cluster, "/api/v1/pods", labelSelector="app=engine") as stream:
        cluster.create(pod("c", "127.0.0.4", LABELS))
        assert stream.told(2) == [("ADDED", "a"), ("ADDED", "c")]


def test_an_object_that_starts_or_stops_to_match_comes_and_goes(cluster: Cluster) -> None:
    cluster.create(pod("a", "127.0.0.2", {"app": "other"}))
    start = version(cluster)
    with Stream(cluster, "/api/v1/pods", resourceVersion=start, labelSelector="app=engine") as stream:
        for label in ("engine", "engine", "other", "engine"):
            cluster.patch(pod("a", "", {}), {"metadata": {"labels": {"app": label, "seen": None}}})
            cluster.patch(pod("a", "", {}), {"metadata": {"annotations": {"at": label}}})
        assert stream.told(3) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
        assert stream.told(1) == [("ADDED", "a")]


def test_a_watch_of_one_by_name(cluster: Cluster) -> None:
    start = version(cluster)
    query = {"resourceVersion": start, "fieldSelector": "metadata.name=b"}
    with Stream(cluster, "/api/v1/namespaces/default/configmaps", **query) as stream:
        cluster.create(config_map("a", {}), config_map("b", {}))
        assert stream.told(1) == [("ADDED", "b")]
    (asked,) = cluster.requests("watch", "configmaps")
    assert asked["name"] == "b"


def test_bookmarks_on_demand_at_intervals_and_at_the_end(cluster: Cluster) -> None:
    with Stream(cluster, "/api/v1/pods", resourceVersion=version(cluster), allowWatchBookmarks="true") as stream:
        cluster.create(config_map("other", {}))
        assert cluster.watched("pods")
        cluster.streams("bookmark", "pods")
        mark = stream.next()
        assert mark["type"] == "BOOKMARK"
        assert mark["object"]["kind"] == "Pod"
        assert mark["object"]["metadata"]["resourceVersion"] == version(cluster)
        cluster.order("settings", bookmark_s=0.05)
        assert stream.next()["type"] == "BOOKMARK"
    cluster.order("settings", bookmark_s=60)
    query = {"resourceVersion": version(cluster), "allowWatchBookmarks": "true", "timeoutSeconds": "0"}
    with Stream(cluster, "/api/v1/pods", **query) as stream:
        assert stream.next()["type"] == "BOOKMARK"
        assert list(stream.lines) == []


def test_the_official_watch(cluster: Cluster) -> None:
    with config.new_client_from_config(str(cluster.kubeconfig)) as api:
        core = client.CoreV1Api(api)
        start = core.list_pod_for_all_namespaces().metadata.resource_version
        cluster.create(pod("a", "127.0.0.2", LABELS))
        cluster.delete(pod("a", "", {}))
        events = watch.Watch().stream(core.list_pod_for_all_namespaces, resource_version=start, timeout_seconds=1)
        assert [(each["type"], each["object"].metadata.name) for each in events] == [("ADDED", "a"), ("DELETED", "a")]
        cluster.compact()
        with pytest.raises(ApiException) as gone:
            list(watch.Watch().stream(core.list_pod_for_all_namespaces, resource_version=start, timeout_seconds=1))
        assert gone.value.status == 410


def test_history_that_is_gone_is_said_in_the_stream_or_as_the_status(cluster: Cluster) -> None:
    start = version(cluster)
    cluster.create(config_map("a", {}))
    cluster.compact()
    with Stream(cluster, "/api/v1/configmaps", resourceVersion=start) as stream:
        event = stream.next()
        assert (stream.answer.status_code, event["type"], event["object"]["code"]) == (200, "ERROR", 410)
        assert event["object"]["reason"] == "Expired"
        assert list(stream.lines) == []
    cluster.compact(status=True)
    with Stream(cluster, "/api/v1/configmaps", resourceVersion=start) as stream:
        assert stream.answer.status_code == 410
    with Stream(cluster, "/api/v1/configmaps", resourceVersion=version(cluster)) as stream:
        cluster.create(config_map("b", {}))
        assert stream.told(1) == [("ADDED", "b")]


def test_initial_events_are_refused_as_by_older_servers(cluster: Cluster) -> None:
    with Stream(cluster, "/api/v1/pods", sendInitialEvents="true", resourceVersionMatch="NotOlderThan") as stream:
        assert stream.answer.status_code == 422


@pytest.fixture
def stream(cluster: Cluster) -> Iterator[Stream]:
    with Stream(cluster, "/api/v1/pods", resourceVersion=version(cluster)) as opened:
        assert cluster.watched("pods")
        yield opened


def test_garbage_on_demand(cluster: Cluster, stream: Stream) -> None:
    cluster.streams("garbage", text="no json at all")
    assert next(stream.lines) == "no json at all"
    cluster.create(pod("a", "127.0.0.2", LABELS))
    assert stream.told(1) == [("ADDED", "a")]


def test_a_line_that_ends_in_the_middle(cluster: Cluster, stream: Stream) -> None:
    cluster.streams("truncate", "pods")
    with pytest.raises(httpx.RemoteProtocolError):
        list(stream.lines)


def test_a_stream_that_stalls_and_resumes(cluster: Cluster, stream: Stream) -> None:
    cluster.streams("stall", "pods")
    cluster.create(pod("a", "127.0.0.2", LABELS))
    with Stream(cluster, "/api/v1/pods", resourceVersion="0") as other:
        assert other.told(1) == [("ADDED", "a")]
    cluster.streams("resume", "pods")
    assert stream.told(1) == [("ADDED", "a")]


def test_a_stream_that_is_closed_or_reset(cluster: Cluster, stream: Stream) -> None:
    cluster.streams("close", "pods")
    assert list(stream.lines) == []
    with Stream(cluster, "/api/v1/pods", resourceVersion=version(cluster)) as other:
        assert cluster.watched("pods")
        cluster.streams("reset", "pods")
        with pytest.raises(httpx.RemoteProtocolError):
            list(other.lines)


@pytest.mark.parametrize(("order", "code"), [({"mode": "gone"}, 410), ({"mode": "error", "status": 500}, 500)])
def test_errors_in_the_stream(cluster: Cluster, stream: Stream, order: dict[str, Any], code: int) -> None:
    cluster.streams(**order)
    event = stream.next()
    assert (event["type"], event["object"]["code"]) == ("ERROR", code)
    assert list(stream.lines) == []


def test_a_line_that_is_too_long(cluster: Cluster, stream: Stream) -> None:
    cluster.streams("huge", bytes=1 << 20)
    assert len(next(stream.lines)) > 1 << 20


def test_the_next_watch_may_start_badly(cluster: Cluster) -> None:
    cluster.fail("watch", "pods", mode="stall")
    cluster.fail("watch", "pods", mode="close")
    cluster.create(pod("a", "127.0.0.2", LABELS))
    with Stream(cluster, "/api/v1/pods") as stalled, Stream(cluster, "/api/v1/pods") as closed:
        assert list(closed.lines) == []
        assert [each["resource"] for each in cluster.streams()] == ["pods"]
        stalled.http.timeout = httpx.Timeout(0.1)
        with Stream(cluster, "/api/v1/pods") as healthy:
            assert healthy.told(1) == [("ADDED", "a")]
        cluster.streams("close", "pods")
        assert list(stalled.lines) == []


def test_an_outage_cuts_all_and_ends_at_the_same_address(cluster: Cluster, stream: Stream) -> None:
    cluster.outage()
    with pytest.raises(httpx.TransportError):
        list(stream.lines)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{cluster.url}/version", trust_env=False)
    cluster.create(pod("meanwhile", "127.0.0.2", LABELS))
    cluster.outage(down=False)
    found = httpx.get(f"{cluster.url}/api/v1/pods", trust_env=False).json()
    assert [each["metadata"]["name"] for each in found["items"]] == ["meanwhile"]


def test_requests_fail_as_often_as_asked(cluster: Cluster) -> None:
    cluster.fail("list", "pods", status=429, retry_after=3)
    cluster.fail("list", "pods", status=503, count=2)
    cluster.fail("list", "pods", mode="drop")
    with httpx.Client(base_url=cluster.url, trust_env=False) as http:
        first = http.get("/api/v1/pods")
        assert (first.status_code, first.headers["retry-after"], first.json()["reason"]) == (
            429,
            "3",
            "TooManyRequests",
        )
        assert http.get("/api/v1/configmaps").status_code == 200
        assert [http.get("/api/v1/pods").status_code for _ in range(2)] == [503, 503]
        with pytest.raises(httpx.RemoteProtocolError):
            http.get("/api/v1/pods")
        assert http.get("/api/v1/pods").status_code == 200
        cluster.fail("*", "*", status=500, count=-1)
        assert {http.get("/api/v1/pods").status_code for _ in range(3)} == {500}
        cluster.heal()
        assert http.get("/api/v1/pods").status_code == 200
    assert [each["code"] for each in cluster.requests("list", "pods")] == [429, 503, 503, 0, 200, 500, 500, 500, 200]


def test_a_slow_list(cluster: Cluster) -> None:
    cluster.fail("list", "pods", delay=5)
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{cluster.url}/api/v1/pods", trust_env=False, timeout=0.1)
    assert httpx.get(f"{cluster.url}/api/v1/pods", trust_env=False).status_code == 200


def test_requests_are_on_record_with_their_bodies(cluster: Cluster) -> None:
    pool = inference_pool("a", LABELS)
    cluster.create(pool)
    path = cluster.path(pool, part="status")
    headers = {"content-type": "application/apply-patch+yaml", "user-agent": "tests/1"}
    body = {"apiVersion": pool["apiVersion"], "kind": "InferencePool", "metadata": {"name": "a"}, "status": {}}
    query = {"fieldManager": "gateway", "force": "true"}
    httpx.patch(f"{cluster.url}{path}", json=body, headers=headers, params=query, trust_env=False)
    (asked,) = cluster.requests("patch", "inferencepools")
    assert asked == {
        "verb": "patch",
        "resource": "inferencepools.inference.networking.k8s.io",
        "namespace": "default",
        "name": "a",
        "part": "status",
        "code": 200,
        "query": query,
        "type": "application/apply-patch+yaml",
        "agent": "tests/1",
        "body": body,
    }
    cluster.forget_requests()
    assert cluster.requests() == []
