"""A gateway that follows a cluster: what people of Kthena and MatrixInfer rely on, and what breaks on the way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kube.cluster import (
    MATRIX,
    Cluster,
    Tree,
    config_map,
    model_route,
    model_server,
    pod,
    provider,
    secret,
    thing,
)
from tests.kube.fleet import Answer, ask, engine, following, metric, pods, served_by, serves, shared_port
from tests.process import InferGateway, eventually
from tests.redis_server import RedisServer, needs_redis

SMALL, LARGE = {"user-type": "basic"}, {"user-type": "premium"}


HERE = config_map("infer-gateway-config", {"gatewayConfiguration": "kubernetes: {allowLoopback: true}"})
"""Redis and providers are on this machine."""


@pytest.fixture(scope="module")
def port() -> int:
    return shared_port()


@pytest.fixture(scope="module")
def cluster(port: int) -> Iterator[Cluster]:
    """Two servers of one and two pods, on which every test makes routes of its own."""
    with (
        Cluster(tls=True) as cluster,
        pods(cluster, "small", "127.0.1.1", port=port),
        pods(cluster, "large", "127.0.2.1", "127.0.2.2", port=port, arguments=("--lora", "tuned")),
    ):
        cluster.create(HERE)
        cluster.create(model_server("small", {"app": "small"}, port, model="m"))
        cluster.create(model_server("large", {"app": "large"}, port, model="m"))
        yield cluster


@pytest.fixture(scope="module")
def gateway(cluster: Cluster) -> Iterator[InferGateway]:
    with following(cluster) as gateway:
        yield gateway


def rule(*targets: str | tuple[str, int], header: str = "") -> Tree:
    to = [{"modelServerName": t} if isinstance(t, str) else {"modelServerName": t[0], "weight": t[1]} for t in targets]
    match = {"modelMatch": {"headers": {"user-type": {"exact": header}}}} if header else {}
    return {"targetModels": to, **match}


def message(cluster: Cluster, tree: Tree, kind: str) -> str:
    conditions = cluster.get(tree).get("status", {}).get("conditions", [])
    return next((str(each["message"]) for each in conditions if each["type"] == kind), "")


# -- routes


def test_a_route_serves_as_soon_as_it_is_there_and_no_longer_than_that(cluster: Cluster, gateway: InferGateway) -> None:
    (route,) = cluster.create(model_route("simple", "simple", "small"))
    assert serves(gateway, "simple")
    assert ask(gateway, "simple").json["choices"][0]["message"]["content"]
    good = {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("True", "ResolvedRefs"), "Ready": ("True", "Ready")}
    assert eventually(lambda: cluster.conditions(route) == good)
    cluster.delete(route)
    assert serves(gateway, "simple", 404)
    assert ask(gateway, "simple").code == "model_not_found"


def test_headers_choose_the_server(cluster: Cluster, gateway: InferGateway) -> None:
    rules = [rule("large", header="premium"), rule("small")]
    cluster.create(model_route("headers", "headers", "small") | {"spec": {"modelName": "headers", "rules": rules}})
    assert serves(gateway, "headers")
    assert set(served_by(gateway, "headers", 4, **LARGE)) <= {"127.0.2.1", "127.0.2.2"}
    assert set(served_by(gateway, "headers", 4, **SMALL)) == set(served_by(gateway, "headers", 4)) == {"127.0.1.1"}


def test_traffic_is_split_by_weight_whatever_the_weights_add_up_to(cluster: Cluster, gateway: InferGateway) -> None:
    route = model_route("split", "split", ("small", 70), ("large", 30))
    cluster.create(route)
    assert serves(gateway, "split")
    assert 130 <= served_by(gateway, "split", 240)["127.0.1.1"] <= 205  # 168 ± 5 sigma
    cluster.patch(route, {"spec": {"rules": [rule(("small", 50), ("large", 30))]}})
    assert eventually(lambda: cluster.conditions(route).get("Accepted", ("",))[0] == "True")
    assert 110 <= served_by(gateway, "split", 240)["127.0.1.1"] <= 190  # 150
    cluster.patch(route, {"spec": {"rules": [rule(("large", 30))]}})
    assert eventually(lambda: "127.0.1.1" not in served_by(gateway, "split", 10))


def test_a_lora_is_asked_for_by_its_own_name(cluster: Cluster, gateway: InferGateway) -> None:
    cluster.create(model_route("tuned", "", "large", lora=["tuned"]))
    assert serves(gateway, "tuned")
    assert ask(gateway, "tuned").json["model"] == "tuned"
    assert ask(gateway, "untuned").status == 404


def test_of_two_routes_for_a_model_the_older_one_serves_until_it_goes(cluster: Cluster, gateway: InferGateway) -> None:
    young = model_route("young", "twice", "large", created="2026-02-02T00:00:00Z")
    old = model_route("old", "twice", "small", created="2026-01-01T00:00:00Z")
    cluster.create(young)
    assert serves(gateway, "twice")
    cluster.create(old)
    assert eventually(lambda: set(served_by(gateway, "twice", 3)) == {"127.0.1.1"})
    assert eventually(lambda: "default/old" in message(cluster, young, "Accepted"))
    cluster.delete(old)
    assert eventually(lambda: "127.0.1.1" not in served_by(gateway, "twice", 3))


def test_a_routes_limit_is_everybodys(cluster: Cluster, gateway: InferGateway) -> None:
    limit = {"inputTokensPerUnit": 30, "unit": "minute"}
    cluster.create(model_route("limited", "limited", "small", rateLimit=limit))
    assert serves(gateway, "limited")
    refused: list[Answer] = []
    for _ in range(60):
        answer = ask(gateway, "limited", messages=[{"role": "user", "content": "one two three four five"}])
        if answer.status != 200:
            refused.append(answer)
            break
    assert [answer.status for answer in refused] == [429]
    assert "rate limit" in refused[0].text.lower()
    assert int(refused[0].headers["retry-after"]) >= 1


@needs_redis
def test_a_limit_that_is_global_is_one_for_all_replicas(port: int) -> None:
    with (
        RedisServer() as redis,
        Cluster() as cluster,
        engine("127.0.8.1", port),
        following(cluster) as one,
        following(cluster) as two,
    ):
        limit = {"outputTokensPerUnit": 9, "unit": "hour", "global": {"redis": {"address": f"127.0.0.1:{redis.port}"}}}
        cluster.create(HERE)
        cluster.create(pod("it", "127.0.8.1", {"app": "it"}, port), model_server("it", {"app": "it"}, port, model="m"))
        cluster.create(model_route("it", "it", "it", rateLimit=limit), model_route("other", "other", "it"))
        assert serves(one, "other")
        assert serves(two, "other")
        assert eventually(lambda: metric(one, "infer_gateway_store_connected") == 1)
        assert eventually(lambda: metric(two, "infer_gateway_store_connected") == 1)
        told = [ask(each, "it").status for _ in range(6) for each in (one, two)]
        assert told.count(200) in (4, 5)  # of two tokens each, and an estimate at first
        assert ask(one, "it").status == ask(two, "it").status == 429
        redis.kill()
        assert ask(one, "other").status == ask(two, "other").status == 200


def test_objects_of_the_older_group_serve_as_they_are(cluster: Cluster, gateway: InferGateway, port: int) -> None:
    server = model_server("older", {"app": "small"}, port, model="m", api_version=MATRIX)
    cluster.create(server, model_route("older", "older", "older", api_version=MATRIX))
    assert serves(gateway, "older")
    assert eventually(lambda: cluster.conditions(server).get("Ready") == ("True", "Ready"))


# -- what is wrong


def test_an_invalid_version_leaves_the_valid_one_serving_and_says_why(cluster: Cluster, gateway: InferGateway) -> None:
    route = model_route("broken", "broken", "small")
    cluster.create(route)
    assert serves(gateway, "broken")
    # past the server's own schema, as an older definition of the kind would let it
    cluster.load(
        [{**cluster.get(route), "spec": {"modelName": "broken", "rules": [{"targetModels": []}]}}], check=False
    )
    assert eventually(lambda: cluster.conditions(route).get("Accepted") == ("False", "Invalid"))
    assert "$.spec.rules[0].targetModels" in message(cluster, route, "Accepted")
    assert ask(gateway, "broken").status == 200
    assert "ModelRoute default/broken" in gateway.stderr
    cluster.patch(route, {"spec": {"rules": [rule("large")]}})
    assert eventually(lambda: cluster.conditions(route).get("Accepted") == ("True", "Accepted"))
    assert eventually(lambda: "127.0.1.1" not in served_by(gateway, "broken", 3))


def test_a_target_that_is_not_there_is_named_and_used_once_it_is(
    cluster: Cluster, gateway: InferGateway, port: int
) -> None:
    route = model_route("early", "early", "late")
    cluster.create(route)
    assert serves(gateway, "early", 503)
    assert ask(gateway, "early").code == "no_endpoints"
    assert eventually(lambda: cluster.conditions(route).get("ResolvedRefs", ("",))[0] == "False")
    assert '$.spec.rules[0].targetModels[0].modelServerName: no ModelServer "late"' in message(
        cluster, route, "ResolvedRefs"
    )
    late = model_server("late", {"app": "small"}, port, model="m")
    cluster.create(late)
    assert serves(gateway, "early")
    assert eventually(lambda: cluster.conditions(route).get("ResolvedRefs") == ("True", "ResolvedRefs"))
    cluster.delete(late)
    assert serves(gateway, "early", 503)


def test_a_key_may_come_later_than_who_needs_it(cluster: Cluster, gateway: InferGateway, port: int) -> None:
    with engine("127.0.3.1", port, "--api-key", "the-very-secret"):
        public = provider("public", f"http://127.0.3.1:{port}", secret=("key", "token"), model="m")
        targets = [{"targetModels": [{"externalModelProviderName": "public"}]}]
        cluster.create(
            public, model_route("public", "public", "small") | {"spec": {"modelName": "public", "rules": targets}}
        )
        assert eventually(lambda: cluster.conditions(public).get("CredentialsResolved", ("",))[0] == "False")
        assert serves(gateway, "public", 503)  # the route may be heard of after what it leads to
        cluster.create(secret("key", {"token": "the-very-secret"}), secret("other", {"token": "of-nobody"}))
        assert serves(gateway, "public")
        named = {each["query"].get("fieldSelector") for each in cluster.requests("list", "secrets")}
        assert named == {"metadata.name=key"}
        assert "the-very-secret" not in gateway.stderr


# -- pods


def test_pods_come_flap_end_and_come_back(cluster: Cluster, gateway: InferGateway, port: int) -> None:
    cluster.create(model_server("flap", {"app": "flap"}, port, model="m"), model_route("flap", "flap", "flap"))
    assert serves(gateway, "flap", 503)
    with pods(cluster, "flap", "127.0.4.1", port=port) as (only,):
        assert serves(gateway, "flap")
        for _ in range(5):
            cluster.set_ready(only, False)
            cluster.set_ready(only, True)
        assert serves(gateway, "flap")
        cluster.set_ready(only, False)
        assert serves(gateway, "flap", 503)
        cluster.set_ready(only, True)
        assert serves(gateway, "flap")
        cluster.terminate(only)
        assert serves(gateway, "flap", 503)
        cluster.delete(only)
    server = thing("networking.serving.volcano.sh/v1alpha1", "ModelServer", "flap")
    assert eventually(lambda: cluster.conditions(server).get("Ready", ("",))[0] == "False")


def test_every_port_of_a_pool_is_an_endpoint_unless_the_pod_says_otherwise(
    cluster: Cluster, gateway: InferGateway, port: int
) -> None:
    with engine("127.0.5.1", port), engine("127.0.5.1", port + 1):
        both = [{"number": port}, {"number": port + 1}]
        ranks = pod("ranks", "127.0.5.1", {"app": "ranks"}, port)
        cluster.create(
            thing("inference.networking.k8s.io/v1", "InferencePool", "ranks", {
                "selector": {"matchLabels": {"app": "ranks"}}, "targetPorts": both,
                "endpointPickerRef": {"name": "picker", "port": {"number": 9002}},
            }),
            ranks,
        )  # fmt: skip

        def up() -> float:
            return metric(gateway, "infer_gateway_endpoint_up", pool="default/ranks")

        assert eventually(lambda: up() == 2)
        cluster.patch(ranks, {"metadata": {"annotations": {"llm-d.ai/active-ports": str(port + 1)}}})
        assert eventually(lambda: up() == 1)
        assert metric(gateway, "infer_gateway_endpoint_up", endpoint=f"127.0.5.1:{port + 1}") == 1


# -- the API server


def test_an_outage_changes_nothing_and_what_happened_meanwhile_comes_after(
    cluster: Cluster, gateway: InferGateway
) -> None:
    before = model_route("before", "before", "small")
    cluster.create(before)
    assert serves(gateway, "before")
    assert cluster.watched("modelroutes.networking.serving.volcano.sh")
    cluster.outage()
    assert {ask(gateway, "before").status for _ in range(5)} == {200}
    cluster.delete(before)
    cluster.create(model_route("after", "after", "small"))
    cluster.outage(down=False)
    assert serves(gateway, "after", within_s=40)
    assert serves(gateway, "before", 404)


@pytest.mark.parametrize("mode", ["garbage", "truncate", "gone", "huge", "close", "reset"])
def test_whatever_a_watch_does_nothing_is_lost(cluster: Cluster, gateway: InferGateway, mode: str) -> None:
    assert cluster.watched("modelroutes.networking.serving.volcano.sh", "pods")
    kept = model_route(f"kept-{mode}", f"kept-{mode}", "small")
    cluster.create(kept)
    assert serves(gateway, f"kept-{mode}")
    cluster.streams(mode)
    cluster.create(model_route(f"new-{mode}", f"new-{mode}", "small"))
    assert serves(gateway, f"new-{mode}", within_s=40)
    assert ask(gateway, f"kept-{mode}").status == 200


def test_refusals_of_the_server_are_waited_out(port: int) -> None:
    with Cluster() as cluster, engine("127.0.7.1", port), following(cluster) as gateway:
        cluster.fail("list", "*", status=429, retry_after=1, count=2)
        cluster.fail("list", "*", status=500, count=2)
        cluster.streams("gone")
        cluster.create(pod("it", "127.0.7.1", {"app": "it"}, port))
        cluster.create(model_server("it", {"app": "it"}, port, model="m"), model_route("it", "it", "it"))
        assert serves(gateway, "it", within_s=40)


def test_conflicts_about_a_status_are_settled(cluster: Cluster, gateway: InferGateway) -> None:
    cluster.fail("patch", "*", status=409, count=2)
    route = model_route("settled", "settled", "small")
    cluster.create(route)
    assert serves(gateway, "settled")
    assert eventually(lambda: "Accepted" in cluster.conditions(route), within_s=40)
    cluster.heal()


# -- what only some clusters have


def test_what_is_not_installed_or_not_allowed_is_off_and_says_so(port: int) -> None:
    with Cluster(deny=["list:secrets", "list:gateways.gateway.networking.k8s.io"]) as cluster:
        gone = "modelroutes.networking.matrixinfer.ai"
        cluster.ask("DELETE", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{gone}")
        with engine("127.0.6.1", port), following(cluster) as gateway:
            cluster.create(pod("it", "127.0.6.1", {"app": "it"}, port))
            cluster.create(model_server("it", {"app": "it"}, port, model="m"), model_route("it", "it", "it"))
            assert serves(gateway, "it")
            cluster.create(provider("public", "https://127.0.0.1:1", secret=("key", "token")))
            assert eventually(lambda: "keys from Secrets: off, the API server forbids it" in gateway.stderr)
        assert f"{gone}: MatrixInfer's ModelRoutes: off" in gateway.log
        assert "Gateways of our class: off, the API server forbids it" in gateway.log


def test_the_config_map_is_in_force_as_soon_as_it_changes(cluster: Cluster) -> None:
    def configured(scheme: Tree) -> Tree:
        lines = [f"scheduler: {scheme}", "auth: {required: false}"]
        return config_map("of-test", {"gatewayConfiguration": "\n".join(lines)})

    good = configured({"plugins": {"Score": {"enabled": [{"name": "least-request", "weight": 1}]}}})
    cluster.create(good)
    with following(cluster, "--config-map", "of-test") as gateway:
        cluster.replace(configured({"plugins": {"Score": {"enabled": [{"name": "no-such", "weight": 1}]}}}))
        assert eventually(lambda: "no-such" in gateway.stderr)
        assert "old one stays in force" in gateway.stderr
        cluster.replace(configured({"plugins": {"Score": {"enabled": [{"name": "prefix-cache", "weight": 1}]}}}))
        assert eventually(lambda: "configuration reloaded" in gateway.stderr)
        cluster.delete(good)
        assert eventually(lambda: "stays in force" in gateway.stderr.rpartition("configuration reloaded")[2])


# -- statuses


def test_one_of_several_replicas_writes_and_only_what_is_new(cluster: Cluster, gateway: InferGateway) -> None:
    with following(cluster) as second:
        route = model_route("written", "written", "small")
        cluster.create(route)
        assert serves(gateway, "written")
        assert serves(second, "written")
        assert eventually(lambda: cluster.conditions(route).get("Ready") == ("True", "Ready"))

        def writes() -> list[Tree]:
            return cluster.requests("patch", "modelroutes", name="written")

        assert len(writes()) == 1
        cluster.patch(route, {"metadata": {"labels": {"nothing": "of-interest"}}})
        cluster.create(model_route("another", "another", "small"))
        assert eventually(lambda: bool(cluster.conditions(model_route("another", "another", "small"))))
        assert len(writes()) == 1
    assert metric(gateway, "infer_gateway_cluster_watches", state="live") >= 15
    assert metric(gateway, "infer_gateway_cluster_objects", kind="modelservers.networking.serving.volcano.sh") >= 2
    assert metric(gateway, "infer_gateway_cluster_events_total") > 0
    leaders = sum("this replica leads" in each for each in (gateway.stderr, second.log))
    assert leaders == 1
