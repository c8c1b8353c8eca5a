"""Server-side apply of the fake API server: what is merged, what goes, who is in the way. (IO)"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.kube.cluster import VOLCANO, Cluster, http_route, model_route, pod, thing

WHEN = "2026-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(crds=()) as running:
        yield running


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """An object's name that no other test has."""
    return request.node.originalname.replace("_", "-")[:60].strip("-")


def apply(
    cluster: Cluster, tree: dict[str, Any], manager: str, *, force: bool = False, part: str = ""
) -> httpx.Response:
    query = {"fieldManager": manager} | ({"force": "true"} if force else {})
    kind = {"content-type": "application/apply-patch+yaml"}
    return httpx.patch(
        cluster.url + cluster.path(tree, part=part), json=tree, params=query, headers=kind, trust_env=False
    )


def condition(kind: str, status: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": "Because", "message": "", "lastTransitionTime": WHEN} | more


def managers(tree: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["manager"]: each["fieldsV1"] for each in tree["metadata"]["managedFields"]}


def test_what_is_not_there_is_created(cluster: Cluster, name: str) -> None:
    first = apply(cluster, thing(VOLCANO, "ModelServer", name, {"model": "a"}), "me")
    assert (first.status_code, first.json()["metadata"]["generation"]) == (201, 1)
    (entry,) = first.json()["metadata"]["managedFields"]
    assert {key: entry[key] for key in ("manager", "operation", "fieldsType", "fieldsV1")} == {
        "manager": "me",
        "operation": "Apply",
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:spec": {"f:model": {}}},
    }


def test_the_same_again_makes_no_version(cluster: Cluster, name: str) -> None:
    tree = thing(VOLCANO, "ModelServer", name, {"model": "a"})
    first, second = apply(cluster, tree, "me"), apply(cluster, tree, "me")
    assert second.status_code == 200
    assert second.json() == first.json()


def test_fields_no_longer_applied_go_unless_others_have_them(cluster: Cluster, name: str) -> None:
    def server(**spec: Any) -> dict[str, Any]:
        return thing(VOLCANO, "ModelServer", name, spec)

    apply(cluster, server(model="a", engine={"kind": "vLLM", "port": 1}, note="x"), "me")
    apply(cluster, server(model="a"), "you")
    left = apply(cluster, server(engine={"kind": "vLLM"}), "me").json()
    assert left["spec"] == {"model": "a", "engine": {"kind": "vLLM"}}
    assert managers(left) == {"you": {"f:spec": {"f:model": {}}}, "me": {"f:spec": {"f:engine": {"f:kind": {}}}}}
    assert apply(cluster, server(), "you").json()["spec"] == {"engine": {"kind": "vLLM"}}


def test_a_field_of_somebody_else_needs_force(cluster: Cluster, name: str) -> None:
    tree = thing(VOLCANO, "ModelServer", name, {"model": "a"})
    apply(cluster, tree, "me")
    tree["spec"]["model"] = "b"
    refused = apply(cluster, tree, "you")
    assert refused.status_code == 409
    assert refused.json()["message"] == 'Apply failed with 1 conflict: conflict with "me": .spec.model'
    assert refused.json()["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "me"', "field": ".spec.model"}
    ]
    forced = apply(cluster, tree, "you", force=True).json()
    assert forced["spec"] == {"model": "b"}
    assert managers(forced) == {"you": {"f:spec": {"f:model": {}}}}


def test_who_updates_is_in_the_way_too(cluster: Cluster, name: str) -> None:
    tree = thing(VOLCANO, "ModelServer", name, {"model": "a"})
    apply(cluster, tree, "me")
    headers = {"content-type": "application/merge-patch+json", "user-agent": "editor/1.0"}
    changed = {"spec": {"model": "b", "port": 1}}
    after = httpx.patch(cluster.url + cluster.path(tree), json=changed, headers=headers, trust_env=False).json()
    assert managers(after) == {"editor": {"f:spec": {"f:model": {}, "f:port": {}}}}
    refused = apply(cluster, tree, "me")
    assert 'conflict with "editor" using networking.serving.volcano.sh/v1alpha1' in refused.json()["message"]


def test_conditions_of_several_managers_stand_side_by_side(cluster: Cluster, name: str) -> None:
    route = model_route(name, "m", "s")
    cluster.create(route)

    def status(*conditions: dict[str, Any]) -> dict[str, Any]:
        return thing(VOLCANO, "ModelRoute", name, status={"conditions": list(conditions)})

    apply(cluster, status(condition("Accepted", "True")), "gateway", part="status")
    apply(cluster, status(condition("Seen", "True")), "other", part="status")
    after = apply(cluster, status(condition("Accepted", "False")), "gateway", part="status").json()
    assert {each["type"]: each["status"] for each in after["status"]["conditions"]} == {
        "Accepted": "False",
        "Seen": "True",
    }
    assert after["metadata"]["generation"] == 1
    (entry,) = [each for each in after["metadata"]["managedFields"] if each["manager"] == "gateway"]
    assert entry["subresource"] == "status"
    fields = {key: {} for key in (".", "f:lastTransitionTime", "f:message", "f:reason", "f:status", "f:type")}
    assert entry["fieldsV1"] == {"f:status": {"f:conditions": {'k:{"type":"Accepted"}': fields}}}
    gone = apply(cluster, status(), "gateway", part="status").json()
    assert [each["type"] for each in gone["status"]["conditions"]] == ["Seen"]


def test_an_apply_to_the_status_changes_nothing_else_nor_the_other_way_round(cluster: Cluster, name: str) -> None:
    cluster.create(model_route(name, "m", "s"))
    both = thing(VOLCANO, "ModelRoute", name, {"modelName": "x"}, status={"conditions": [condition("Ready", "True")]})
    told = apply(cluster, both, "gateway", part="status").json()
    assert (told["spec"]["modelName"], len(told["status"]["conditions"])) == ("m", 1)
    both["status"]["conditions"][0]["status"] = "False"
    changed = apply(cluster, both, "someone", force=True).json()
    assert (changed["spec"]["modelName"], changed["status"]) == ("x", told["status"])


def test_parents_are_one_value(cluster: Cluster, name: str) -> None:
    cluster.create(http_route(name, "gw", "pool"))

    def status(controller: str) -> dict[str, Any]:
        parent = {
            "controllerName": controller,
            "parentRef": {"name": "gw"},
            "conditions": [condition("Accepted", "True")],
        }
        return thing("gateway.networking.k8s.io/v1", "HTTPRoute", name, status={"parents": [parent]})

    apply(cluster, status("a"), "a", part="status")
    assert apply(cluster, status("b"), "b", part="status").status_code == 409
    after = apply(cluster, status("b"), "b", part="status", force=True).json()
    assert [each["controllerName"] for each in after["status"]["parents"]] == ["b"]


def test_lists_of_built_in_kinds_are_merged_by_their_keys(cluster: Cluster, name: str) -> None:
    cluster.create(pod(name, "127.0.0.2", {"a": "b"}))
    config = thing("v1", "Pod", name, {"containers": [{"name": "sidecar", "image": "s"}]})
    config["metadata"]["labels"] = {"c": "d"}
    after = apply(cluster, config, "me").json()
    assert [each["name"] for each in after["spec"]["containers"]] == ["engine", "sidecar"]
    assert after["metadata"]["labels"] == {"a": "b", "c": "d"}
    config["spec"], config["metadata"]["labels"] = {}, {}
    after = apply(cluster, config, "me").json()
    assert [each["name"] for each in after["spec"]["containers"]] == ["engine"]
    assert after["metadata"]["labels"] == {"a": "b"}


def test_what_an_apply_has_to_bring(cluster: Cluster, name: str) -> None:
    tree = thing(VOLCANO, "ModelServer", name, {"model": "a"})
    path, kind = cluster.url + cluster.path(tree), {"content-type": "application/apply-patch+yaml"}
    nobody = httpx.patch(path, json=tree, headers=kind, trust_env=False)
    assert (nobody.status_code, "fieldManager: Required value" in nobody.json()["message"]) == (422, True)
    managed = tree | {"metadata": {**tree["metadata"], "managedFields": [{"manager": "x"}]}}
    query = {"fieldManager": "me"}
    refused = httpx.patch(path, json=managed, headers=kind, params=query, trust_env=False)
    assert refused.json()["message"] == "metadata.managedFields must be nil"
    assert apply(cluster, tree, "me", part="status").status_code == 404
    yaml = b"apiVersion: networking.serving.volcano.sh/v1alpha1\nkind: ModelServer\nspec:\n  model: a\n"
    assert httpx.patch(path, content=yaml, headers=kind, params=query, trust_env=False).status_code == 201
    stale = tree | {"metadata": {**tree["metadata"], "resourceVersion": "1"}}
    assert apply(cluster, stale, "me").status_code == 409
    strategic = {"content-type": "application/strategic-merge-patch+json"}
    assert httpx.patch(path, json={}, headers=strategic, trust_env=False).status_code == 415


@pytest.mark.parametrize(
    "part", [{"metadata": "x"}, {"metadata": {"labels": ["a"]}}, {"status": {"conditions": ["x"]}}]
)
def test_nonsense_is_refused_and_harms_nothing(cluster: Cluster, name: str, part: dict[str, Any]) -> None:
    route = model_route("nonsense", "m", "s")
    cluster.apply(route)
    before = cluster.get(route)
    query, kind = {"fieldManager": "me", "force": "true"}, {"content-type": "application/apply-patch+yaml"}
    tree = {"apiVersion": VOLCANO, "kind": "ModelRoute"} | part
    url = cluster.url + cluster.path(route, part="status")
    assert httpx.patch(url, json=tree, params=query, headers=kind, trust_env=False).status_code in (400, 422)
    assert cluster.get(route) == before
