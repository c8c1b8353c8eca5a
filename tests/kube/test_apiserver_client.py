"""The official client works against the fake API server, for every verb and every way to prove who one is. (IO)"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config, dynamic
from kubernetes.client.exceptions import ApiException
from kubernetes.config.incluster_config import InClusterConfigLoader

from tests.kube.cluster import VOLCANO, Cluster, Refused, config_map, model_route, pod, thing

GROUP, VERSION = VOLCANO.split("/")
LABELS = {"app": "engine"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(crds=()) as running:
        yield running


@pytest.fixture
def api(cluster: Cluster) -> Iterator[client.ApiClient]:
    with config.new_client_from_config(str(cluster.kubeconfig)) as connected:
        yield connected


def failure(call: Any, *arguments: Any, **named: Any) -> dict[str, Any]:
    """The Status that a call gets instead of an answer."""
    with pytest.raises(ApiException) as refused:
        call(*arguments, **named)
    return json.loads(refused.value.body)


def test_core_objects_are_created_read_changed_and_deleted(api: client.ApiClient) -> None:
    core = client.CoreV1Api(api)
    meta = client.V1ObjectMeta(name="settings", labels={"a": "b"})
    made = core.create_namespaced_config_map("default", client.V1ConfigMap(metadata=meta, data={"x": "1"}))
    assert made.metadata.uid
    assert made.metadata.creation_timestamp
    made.data["x"] = "2"
    replaced = core.replace_namespaced_config_map("settings", "default", made)
    assert int(replaced.metadata.resource_version) > int(made.metadata.resource_version)
    core.patch_namespaced_config_map("settings", "default", {"data": {"y": "3"}})
    assert core.read_namespaced_config_map("settings", "default").data == {"x": "2", "y": "3"}
    deleted = core.delete_namespaced_config_map("settings", "default")
    assert (deleted if isinstance(deleted, dict) else deleted.to_dict())["status"] == "Success"
    assert failure(core.read_namespaced_config_map, "settings", "default") == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": 'configmaps "settings" not found',
        "reason": "NotFound",
        "details": {"name": "settings", "kind": "configmaps", "group": ""},
        "code": 404,
    }


def test_a_name_is_taken_only_once_and_can_be_made_up(api: client.ApiClient) -> None:
    core = client.CoreV1Api(api)
    core.create_namespaced_secret("default", client.V1Secret(metadata=client.V1ObjectMeta(name="once")))
    again = failure(
        core.create_namespaced_secret, "default", client.V1Secret(metadata=client.V1ObjectMeta(name="once"))
    )
    assert (again["code"], again["reason"]) == (409, "AlreadyExists")
    made_up = [
        core.create_namespaced_secret("default", client.V1Secret(metadata=client.V1ObjectMeta(generate_name="gen-")))
        for _ in range(2)
    ]
    first, second = (each.metadata.name for each in made_up)
    assert first != second
    assert first.startswith("gen-")


def test_a_stale_version_is_refused(api: client.ApiClient) -> None:
    core = client.CoreV1Api(api)
    stale = core.create_namespaced_config_map(
        "default", client.V1ConfigMap(metadata=client.V1ObjectMeta(name="stale"), data={"x": "1"})
    )
    core.patch_namespaced_config_map("stale", "default", {"data": {"x": "2"}})
    status = failure(core.replace_namespaced_config_map, "stale", "default", stale)
    assert (status["code"], status["reason"]) == (409, "Conflict")
    assert "the object has been modified" in status["message"]


def test_a_write_that_changes_nothing_makes_no_version(api: client.ApiClient) -> None:
    core = client.CoreV1Api(api)
    made = core.create_namespaced_config_map(
        "default", client.V1ConfigMap(metadata=client.V1ObjectMeta(name="same"), data={"x": "1"})
    )
    same = core.patch_namespaced_config_map("same", "default", {"data": {"x": "1"}})
    assert same.metadata.resource_version == made.metadata.resource_version


def test_selectors(cluster: Cluster, api: client.ApiClient) -> None:
    cluster.load(
        [
            *(pod(f"s{i}", f"127.0.7.{i + 1}", {"n": str(i), "parity": "odd" if i % 2 else "even"}) for i in range(4)),
            {**pod("s-pending", "127.0.7.9", {"parity": "none"}), "status": {"phase": "Pending"}},
        ]
    )
    core = client.CoreV1Api(api)

    def names(**query: str) -> list[str]:
        return [each.metadata.name for each in core.list_namespaced_pod("default", **query).items]

    assert names(label_selector="parity=odd") == ["s1", "s3"]
    assert names(label_selector="parity in (odd, even),n notin (0,1)") == ["s2", "s3"]
    assert names(label_selector="parity,!n") == ["s-pending"]
    assert names(label_selector="n!=0,parity==even") == ["s2"]
    assert names(field_selector="metadata.name=s2") == ["s2"]
    assert names(field_selector="status.phase!=Running,metadata.namespace=default") == ["s-pending"]
    assert core.list_namespaced_pod("kube-system").items == []
    assert len(core.list_pod_for_all_namespaces(label_selector="parity").items) == 5
    status = failure(core.list_namespaced_pod, "default", field_selector="spec.hostname=x")
    assert status["message"] == 'field label not supported: "spec.hostname"'


def test_pages_are_of_one_moment(cluster: Cluster, api: client.ApiClient) -> None:
    core = client.CoreV1Api(api)
    cluster.load([config_map(f"page-{i}", {}, namespace="pages") for i in range(7)])
    first = core.list_namespaced_config_map("pages", limit=3)
    assert first.metadata.remaining_item_count == 4
    cluster.delete(config_map("page-4", {}, namespace="pages"))
    cluster.create(config_map("page-9", {}, namespace="pages"))
    second = core.list_namespaced_config_map("pages", limit=3, _continue=first.metadata._continue)
    third = core.list_namespaced_config_map("pages", limit=3, _continue=second.metadata._continue)
    assert [each.metadata.name for page in (first, second, third) for each in page.items] == [
        f"page-{i}" for i in range(7)
    ]
    assert {page.metadata.resource_version for page in (first, second, third)} == {first.metadata.resource_version}
    assert third.metadata._continue is None
    cluster.compact()
    status = failure(core.list_namespaced_config_map, "pages", limit=3, _continue=first.metadata._continue)
    assert (status["code"], status["reason"]) == (410, "Expired")


def test_custom_objects(api: client.ApiClient) -> None:
    custom = client.CustomObjectsApi(api)
    of = (GROUP, VERSION, "default", "modelroutes")
    made = custom.create_namespaced_custom_object(*of, model_route("chat", "llama", "servers"))
    assert made["metadata"]["generation"] == 1
    changed = custom.patch_namespaced_custom_object(*of, "chat", {"spec": {"modelName": "qwen"}})
    assert (changed["spec"]["modelName"], changed["metadata"]["generation"]) == ("qwen", 2)
    del changed["metadata"]["resourceVersion"]
    status = failure(custom.replace_namespaced_custom_object, *of, "chat", changed)
    assert (status["code"], "must be specified for an update" in status["message"]) == (422, True)
    assert len(custom.list_namespaced_custom_object(*of)["items"]) == 1
    custom.delete_namespaced_custom_object(*of, "chat")
    assert custom.list_namespaced_custom_object(*of)["items"] == []


def test_a_status_is_apart_and_makes_no_generation(api: client.ApiClient) -> None:
    custom = client.CustomObjectsApi(api)
    of = (GROUP, VERSION, "default", "modelservers")
    body = thing(VOLCANO, "ModelServer", "engines", {"model": "a"}, status={"phase": "made up"})
    made = custom.create_namespaced_custom_object(*of, body)
    assert "status" not in made
    told = custom.patch_namespaced_custom_object_status(
        *of, "engines", {"spec": {"model": "b"}, "status": {"seen": True}}
    )
    assert (told["spec"]["model"], told["status"], told["metadata"]["generation"]) == ("a", {"seen": True}, 1)
    told["spec"]["model"], told["status"] = "c", {"seen": False}
    changed = custom.replace_namespaced_custom_object(*of, "engines", told)
    assert (changed["spec"]["model"], changed["status"], changed["metadata"]["generation"]) == ("c", {"seen": True}, 2)


def test_json_patch_and_its_failures(api: client.ApiClient) -> None:
    custom = client.CustomObjectsApi(api)
    of = (GROUP, VERSION, "default", "modelroutes")
    custom.create_namespaced_custom_object(*of, model_route("patched", "llama", "a", "b"))
    operations = [
        {"op": "test", "path": "/spec/modelName", "value": "llama"},
        {"op": "add", "path": "/spec/rules/0/targetModels/-", "value": {"modelServerName": "c"}},
        {"op": "remove", "path": "/spec/rules/0/targetModels/0"},
    ]
    kind = {"_content_type": "application/json-patch+json"}
    changed = custom.patch_namespaced_custom_object(*of, "patched", operations, **kind)
    assert [each["modelServerName"] for each in changed["spec"]["rules"][0]["targetModels"]] == ["b", "c"]
    untrue = [{"op": "test", "path": "/spec/modelName", "value": "other"}]
    assert failure(custom.patch_namespaced_custom_object, *of, "patched", untrue, **kind)["code"] == 422


def test_strategic_merge_patch(api: client.ApiClient, cluster: Cluster) -> None:
    core = client.CoreV1Api(api)
    cluster.create(pod("strategic", "127.0.8.1", LABELS))
    change = {"spec": {"containers": [{"name": "engine", "image": "engine:2"}, {"name": "sidecar", "image": "s"}]}}
    changed = core.patch_namespaced_pod("strategic", "default", change)
    assert {each.name: each.image for each in changed.spec.containers} == {"engine": "engine:2", "sidecar": "s"}
    assert changed.spec.containers[0].ports[0].container_port == 8000
    gone = {"spec": {"containers": [{"name": "sidecar", "$patch": "delete"}]}}
    changed = core.patch_namespaced_pod("strategic", "default", gone)
    assert [each.name for each in changed.spec.containers] == ["engine"]


def test_leases(api: client.ApiClient) -> None:
    leases = client.CoordinationV1Api(api)
    spec = client.V1LeaseSpec(holder_identity="a", lease_duration_seconds=15)
    made = leases.create_namespaced_lease("default", client.V1Lease(metadata={"name": "leader"}, spec=spec))
    other = leases.read_namespaced_lease("leader", "default")
    made.spec.holder_identity = "b"
    leases.replace_namespaced_lease("leader", "default", made)
    other.spec.holder_identity = "c"
    assert failure(leases.replace_namespaced_lease, "leader", "default", other)["code"] == 409
    assert leases.read_namespaced_lease("leader", "default").spec.holder_identity == "b"


def test_both_kinds_of_events_are_one(api: client.ApiClient, cluster: Cluster) -> None:
    about = {"kind": "ModelRoute", "name": "chat", "namespace": "default", "apiVersion": VOLCANO}
    event = thing("events.k8s.io/v1", "Event", "chat.1", note="what is wrong", reason="Invalid", regarding=about)
    cluster.create(event | {"type": "Warning", "action": "Check", "reportingController": "gateway"})
    found = client.CoreV1Api(api).list_namespaced_event("default", field_selector="involvedObject.name=chat").items
    assert [(each.message, each.reason, each.involved_object.kind) for each in found] == [
        ("what is wrong", "Invalid", "ModelRoute")
    ]
    assert cluster.get(event)["note"] == "what is wrong"


def test_finalizers_hold_an_object(cluster: Cluster, api: client.ApiClient) -> None:
    core = client.CoreV1Api(api)
    held = config_map("held", {})
    held["metadata"]["finalizers"] = ["example.com/hold"]
    cluster.create(held)
    core.delete_namespaced_config_map("held", "default")
    assert core.read_namespaced_config_map("held", "default").metadata.deletion_timestamp
    core.patch_namespaced_config_map("held", "default", {"metadata": {"finalizers": None}})
    assert failure(core.read_namespaced_config_map, "held", "default")["code"] == 404


def test_a_deletion_may_have_conditions_and_be_of_many(cluster: Cluster, api: client.ApiClient) -> None:
    core = client.CoreV1Api(api)
    cluster.create(*(config_map(f"many-{i}", {}, namespace="many") for i in range(3)))
    other = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="another"))
    assert failure(core.delete_namespaced_config_map, "many-0", "many", body=other)["code"] == 409
    core.delete_collection_namespaced_config_map("many", field_selector="metadata.name!=many-1")
    assert [each.metadata.name for each in core.list_namespaced_config_map("many").items] == ["many-1"]
    core.delete_namespace("many")
    assert core.list_namespaced_config_map("many").items == []


def test_an_object_needs_its_namespace(api: client.ApiClient) -> None:
    status = failure(
        client.CoreV1Api(api).create_namespaced_config_map, "nowhere", client.V1ConfigMap(metadata={"name": "x"})
    )
    assert (status["code"], status["message"]) == (404, 'namespaces "nowhere" not found')


def test_the_dynamic_client(cluster: Cluster, api: client.ApiClient, tmp_path: Path) -> None:
    found = dynamic.DynamicClient(api, cache_file=str(tmp_path / "cache"))
    pools = found.resources.get(api_version="inference.networking.k8s.io/v1", kind="InferencePool")
    body = thing("inference.networking.k8s.io/v1", "InferencePool", "dynamic", {"selector": {}, "targetPorts": []})
    body["spec"]["targetPorts"] = [{"number": 8000}]
    pools.create(body=body, namespace="default")
    applied = pools.server_side_apply(
        body={**body, "spec": {**body["spec"], "targetPorts": [{"number": 8001}]}},
        namespace="default",
        field_manager="tests",
        force_conflicts=True,
    )
    assert applied.spec.targetPorts[0].number == 8001
    assert pools.get(name="dynamic", namespace="default").spec.targetPorts[0].number == 8001


def test_definitions_make_resources_at_once(api: client.ApiClient) -> None:
    definitions = client.ApiextensionsV1Api(api)
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}}
    names = {"plural": "things", "kind": "Thing"}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    spec = {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [version]}
    body = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "spec": spec}
    custom = client.CustomObjectsApi(api)
    of = ("example.com", "v1", "default", "things")
    assert failure(custom.list_namespaced_custom_object, *of)["code"] == 404
    made = definitions.create_custom_resource_definition(body | {"metadata": {"name": "things.example.com"}})
    assert {each.type: each.status for each in made.status.conditions}["Established"] == "True"
    tree = thing("example.com/v1", "Thing", "one", {"size": 1, "colour": "red"})
    assert custom.create_namespaced_custom_object(*of, tree)["spec"] == {"size": 1}
    definitions.delete_custom_resource_definition("things.example.com")
    assert failure(custom.list_namespaced_custom_object, *of)["code"] == 404


def test_versions_of_one_resource_share_their_objects(cluster: Cluster) -> None:
    cluster.create(
        {"apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "GatewayClass", "metadata": {"name": "g"}}
    )
    found = cluster.list("gateway.networking.k8s.io/v1", "GatewayClass")
    assert [(each["metadata"]["name"], each["apiVersion"]) for each in found] == [("g", "gateway.networking.k8s.io/v1")]


def test_what_the_server_says_of_itself(api: client.ApiClient) -> None:
    assert client.VersionApi(api).get_code().major == "1"
    groups = {group.name: group.preferred_version.version for group in client.ApisApi(api).get_api_versions().groups}
    assert groups[GROUP] == VERSION
    assert groups["gateway.networking.k8s.io"] == "v1"
    listed = {each.name: each for each in client.CoordinationV1Api(api).get_api_resources().resources}
    assert "watch" in listed["leases"].verbs
    assert client.CustomObjectsApi(api).get_api_resources(GROUP, VERSION)


@pytest.mark.parametrize("way", ["token", "token-file", "certificate", "exec"])
def test_every_way_to_prove_who_one_is(secured: Cluster, way: str) -> None:
    with config.new_client_from_config(str(secured.kubeconfig_by(way))) as connected:
        assert client.CoreV1Api(connected).list_namespaced_pod("default").items == []


@pytest.fixture(scope="module")
def secured() -> Iterator[Cluster]:
    with Cluster(tls=True, crds=()) as running:
        yield running


def test_a_wrong_token_gets_401(secured: Cluster) -> None:
    with config.new_client_from_config(str(secured.kubeconfig_by("given", token="wrong"))) as connected:
        status = failure(client.CoreV1Api(connected).list_namespaced_pod, "default")
    assert (status["code"], status["reason"]) == (401, "Unauthorized")


def test_from_within_a_pod(secured: Cluster) -> None:
    mounted = secured.service_account("models")
    settings = client.Configuration()
    InClusterConfigLoader(
        token_filename=str(mounted / "token"),
        cert_filename=str(mounted / "ca.crt"),
        environ=secured.in_cluster,
    ).load_and_set(settings)
    with client.ApiClient(settings) as connected:
        assert client.VersionApi(connected).get_code().minor


def test_permissions(cluster: Cluster, api: client.ApiClient) -> None:
    core = client.CoreV1Api(api)
    cluster.deny("list:pods:secret-place", "get:secrets")
    try:
        status = failure(core.list_namespaced_pod, "secret-place")
        assert status["reason"] == "Forbidden"
        assert 'cannot list resource "pods" in API group "" in the namespace "secret-place"' in status["message"]
        assert core.list_namespaced_pod("default") is not None
        assert failure(core.read_namespaced_secret, "x", "default")["code"] == 403
        cluster.deny()
        cluster.allow([{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"], "namespace": "default"}])
        assert core.list_namespaced_pod("default") is not None
        assert "at the cluster scope" in failure(core.list_pod_for_all_namespaces)["message"]
        review = {"spec": {"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}}}
        cluster.allow(None)
        cluster.deny("get:pods")
        said = client.AuthorizationV1Api(api).create_self_subject_access_review(review)
        assert said.status.allowed is False
    finally:
        cluster.deny()
        cluster.allow(None)


def test_ten_thousand_pods_and_a_thousand_routes(cluster: Cluster, api: client.ApiClient) -> None:
    pods = [pod(f"p{i}", f"127.1.{i // 250}.{i % 250 + 1}", LABELS, namespace="bulk") for i in range(10_000)]
    assert cluster.load(pods) == 10_000
    assert cluster.load([model_route(f"r{i}", f"m{i}", "s", namespace="bulk") for i in range(1000)]) == 1000
    core = client.CoreV1Api(api)
    seen, token = 0, None
    while True:
        page = core.list_namespaced_pod("bulk", limit=500, _continue=token, _preload_content=False)
        tree = json.loads(page.data)
        seen += len(tree["items"])
        token = tree["metadata"].get("continue")
        if not token:
            break
    assert seen == 10_000


def test_tests_ask_as_admins(cluster: Cluster) -> None:
    cluster.forget_requests()
    cluster.deny("*:*")
    try:
        route = model_route("admin", "m", "s", namespace="new", created="2020-01-01T00:00:00Z")
        made = cluster.create(route | {"status": {"kept": True}})[0]
        assert made["metadata"]["creationTimestamp"] == "2020-01-01T00:00:00Z"
        assert made["status"] == {"kept": True}
        with pytest.raises(Refused) as taken:
            cluster.create(route)
        assert taken.value.reason == "AlreadyExists"
        assert cluster.requests() == []
    finally:
        cluster.deny()


def test_what_is_loaded_again_is_changed(cluster: Cluster) -> None:
    route = model_route("loaded", "m", "s")
    cluster.load([route, route])
    first = cluster.get(route)
    cluster.load([model_route("loaded", "other", "s")], check=False)
    second = cluster.get(route)
    assert (first["metadata"]["generation"], second["metadata"]["generation"]) == (1, 2)
    assert first["metadata"]["uid"] == second["metadata"]["uid"]
