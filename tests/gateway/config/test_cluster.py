"""What serves, and what is said, as objects of a cluster come, change and go."""
# ruff: noqa: E501 - messages are quoted whole

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway import expression
from gateway.config.cluster import Cluster, Part
from gateway.config.decode import Hidden
from gateway.config.scheduler import ProfileSpec, Scheduler
from gateway.config.settings import Kubernetes, Settings
from gateway.config.sharing import ForeignRedis, Redis, State
from gateway.route import RouteTable
from tests.gateway.config.clusters import (
    EARLIER,
    MATRIX,
    POOLS,
    VOLCANO,
    Told,
    pod,
    pod_from,
    pod_tree,
    provider,
    route,
    secret,
    server,
    thing,
)

REDIS = {"rateLimit": {"inputTokensPerUnit": 10, "global": {"redis": {"address": "redis:6379"}}}}


def settings(*profiles: str, **more: Any) -> Settings:
    return Settings(scheduler=Scheduler(profiles={name: ProfileSpec() for name in profiles}), **more)


def key_of(told: Told, name: str) -> bytes:
    return dict(told.pool(name).endpoints[0].headers)[b"authorization"]


# --- a fleet ----------------------------------------------------------------------------------------------------------


def test_a_route_leads_to_the_ready_pods_of_its_server() -> None:
    told = Told()
    told.put(route("r", "a"), server("a", spec={"model": "base"}))
    told.put_pods(pod("a-1", "a"), pod("a-2", "a", ip="10.0.0.2", ready=False), pod("b-1", "b"))
    assert [endpoint.address for endpoint in told.pool("a").endpoints] == ["10.0.0.1:8000"]
    target = RouteTable(told.cluster.part.routes).match("m", "/v1/chat/completions", (), 0.5)
    assert (target.pool, target.model) == ("x/a", "base")
    for kind, name in (("ModelRoute", "r"), ("ModelServer", "a")):
        assert [each.status for each in told.verdicts[kind, name, VOLCANO].conditions] == ["True"] * 3
    assert told.of_server("a", "Ready").message == "1 of 2 pods are ready"


def test_ready_follows_the_pods() -> None:
    told = Told()
    told.put(route("r", "a"), server("a"))
    assert (told.of_server("a", "Ready").reason, told.of_server("a", "Ready").message) == (
        "NoReadyPods",
        "no pod matches the selector",
    )
    assert told.of_route("r", "Ready").message == "$.spec.rules[0]: no target has an endpoint"
    told.put_pods(pod("a-1", "a"))
    assert told.of_route("r", "Ready").status == "True"
    told.put_pods(pod("a-1", "a", ready=False))
    assert (told.of_server("a", "Ready").status, told.of_server("a", "Ready").message) == (
        "False",
        "0 of 1 pods are ready",
    )
    assert told.of_route("r", "Ready").status == "False"


def test_subset_of_targets() -> None:
    """Weights are relative; a target that goes leaves its share to the others."""
    told = Told()
    told.put(route("r", "a=50", "b=30"), server("a"), server("b"))
    assert told.leads("r") == [("x/a", 50), ("x/b", 30)]
    told.remove("ModelServer", "a")
    assert told.leads("r") == [("x/b", 30)]
    refs = told.of_route("r", "ResolvedRefs")
    assert (refs.status, refs.reason) == ("False", "TargetNotFound")
    assert refs.message == (
        '$.spec.rules[0].targetModels[0].modelServerName: no ModelServer "a" in namespace "x"; what there is of it serves'
    )
    told.put(server("a"))
    assert told.leads("r") == [("x/a", 50), ("x/b", 30)]
    assert told.of_route("r", "ResolvedRefs").status == "True"


def test_loras() -> None:
    told = Told()
    loras = {"modelName": "base", "loraAdapters": ["l1", "m"]}
    told.put(server("a", spec={"model": "served"}), route("r", "a", spec=loras), route("own", "a", model="m"))
    table = RouteTable(told.cluster.part.routes)
    assert table.match("l1", "/", (), 0.0).model is None
    assert table.match("base", "/", (), 0.0).model == "served"
    assert (
        told.of_route("r", "Accepted").message
        == 'the LoRA "m" is not asked here: the ModelRoute x/own has a model of that name'
    )
    told.remove("ModelRoute", "own")
    assert told.of_route("r", "Accepted").message == ""


def test_of_duplicates_the_oldest_is_preferred() -> None:
    told = Told()
    told.put(server("a"), server("b"))
    told.put(route("young", "b", creationTimestamp="2026-02-01T00:00:00Z"))
    told.put(route("old", "a", creationTimestamp="2026-01-01T00:00:00Z"))
    assert RouteTable(told.cluster.part.routes).match("m", "/", (), 0.0).pool == "x/a"
    said = told.of_route("young", "Accepted")
    assert (said.status, said.message) == (
        "True",
        'for the model "m" the ModelRoute x/old is asked first, which is older',
    )
    told.remove("ModelRoute", "old")
    assert RouteTable(told.cluster.part.routes).match("m", "/", (), 0.0).pool == "x/b"
    assert told.of_route("young", "Accepted").message == ""


def test_a_status_that_is_written_moves_nothing() -> None:
    """Its resourceVersion goes up; order by that would change with every status, and with it the status."""
    told = Told()
    told.put(server("a"), route("r1", "a"), route("r2", "a"))
    part = told.cluster.part
    told.put({**route("r1", "a", resourceVersion="99"), "status": {"conditions": []}})
    assert told.cluster.part is part
    assert told.build() == []


def test_a_server_that_is_deleted_and_made_again() -> None:
    told = Told()
    told.put(server("a"), route("r", "a"))
    told.put_pods(pod("a-1", "a"))
    told.remove("ModelServer", "a")
    assert told.leads("r") == []
    assert told.cluster.part.pools == ()
    assert told.of_route("r", "Ready").reason == "NoEndpoints"
    told.put(server("a", uid="another"))
    assert told.leads("r") == [("x/a", 1)]
    assert len(told.pool("a").endpoints) == 1
    assert told.of_route("r", "Ready").status == "True"


# --- versions ---------------------------------------------------------------------------------------------------------


def test_a_version_that_is_invalid_leaves_the_one_before() -> None:
    told = Told()
    told.put(server("a"), route("r", "a"))
    before = told.cluster.part
    told.put(route("r", "a", generation=2, spec={"rules": []}))
    assert told.cluster.part.routes is before.routes
    accepted = told.of_route("r", "Accepted")
    assert (accepted.status, accepted.reason) == ("False", "Invalid")
    assert accepted.message == "$.spec.rules: must not be empty; the version of generation 1 serves"
    assert told.verdicts["ModelRoute", "r", VOLCANO].generation == 2
    assert told.of_route("r", "Ready").status == "False"  # there are no pods
    assert told.cluster.part.warnings == ()  # the verdict says it, and once is enough
    told.put(route("r", "a", generation=3))
    assert told.of_route("r", "Accepted").status == "True"
    assert told.cluster.part.warnings == ()


def test_one_that_was_never_valid_is_left_out() -> None:
    told = Told()
    told.put(server("a", spec={"inferenceEngine": 5}), route("r", "a"))
    assert told.cluster.part.pools == ()
    assert told.leads("r") == []
    assert (
        told.of_server("a", "Accepted").message
        == "$.spec.inferenceEngine: expected str, got int; no version of it can serve"
    )
    assert told.of_server("a", "ResolvedRefs").status == "Unknown"
    assert told.of_server("a", "Ready").reason == "NotServing"
    assert (
        'ModelServer "a" in namespace "x" has no version that can serve' in told.of_route("r", "ResolvedRefs").message
    )


def test_a_version_that_leads_nowhere_does_not_replace_one_that_does() -> None:
    told = Told()
    told.put(server("server"), route("r", "server"))
    told.put(route("r", "serverr", generation=2))
    assert told.leads("r") == [("x/server", 1)]
    refs = told.of_route("r", "ResolvedRefs")
    assert refs.message == (
        '$.spec.rules[0].targetModels[0].modelServerName: no ModelServer "serverr" in namespace "x"; did you mean "server"?; the version of generation 1 serves'
    )
    told.remove("ModelServer", "server")
    assert told.leads("r") == []
    told.put(server("server"))
    assert told.leads("r") == [("x/server", 1)]
    told.put(server("serverr"))
    assert told.leads("r") == [("x/serverr", 1)]
    assert told.of_route("r", "ResolvedRefs").status == "True"


def test_a_version_that_was_replaced_does_not_come_back() -> None:
    told = Told()
    told.cluster.settle(settings("fast"))
    told.put(server("a"), server("b"), route("r", "a"))
    told.put(route("r", "b", generation=2), server("a", generation=2, spec={"schedulingProfile": "fast", "model": "n"}))
    told.remove("ModelServer", "b")
    assert told.leads("r") == []
    told.cluster.settle(settings())
    told.build()
    assert told.pool("a").model == "n"


def test_a_target_that_comes_and_is_invalid_is_told_from_none() -> None:
    told = Told()
    told.put(route("r", "a"))
    assert "no ModelServer" in told.of_route("r", "ResolvedRefs").message
    told.put(server("a", spec={"workloadPort": 5}))
    assert "has no version that can serve" in told.of_route("r", "ResolvedRefs").message
    told.remove("ModelServer", "a")
    assert "no ModelServer" in told.of_route("r", "ResolvedRefs").message


def test_an_object_of_the_same_name_inherits_nothing() -> None:
    told = Told()
    told.put(server("a"), route("r", "a"))
    told.put(route("r", "a", uid="another", spec={"rules": []}))
    assert told.cluster.part.routes == ()


def test_a_profile_that_goes_does_not_take_the_pool_along() -> None:
    told = Told()
    told.cluster.settle(settings("fast"))
    told.put(server("a", spec={"schedulingProfile": "fast"}))
    assert told.pool("a").profile == "fast"
    told.cluster.settle(settings())
    told.build()
    assert told.pool("a").profile == ""
    accepted = told.of_server("a", "Accepted")
    assert accepted.status == "False"
    assert accepted.message.startswith('$.spec.schedulingProfile: no profile "fast" in the scheduler section')
    told.cluster.settle(settings("fast"))
    told.build()
    assert told.pool("a").profile == "fast"
    told.put(server("a", generation=2, spec={"schedulingProfile": "slow", "model": "other"}))
    assert (told.pool("a").profile, told.pool("a").model) == ("fast", None)
    assert told.of_server("a", "Accepted").message.endswith("; the version of generation 1 serves")


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_secret_may_come_later_change_and_go() -> None:
    told = Told()
    told.put(provider("p", "keys"), route("r", "!p"))
    assert told.cluster.wanted_secrets() == {("x", "keys")}
    assert told.pool("p").endpoints == ()
    for condition in ("ResolvedRefs", "CredentialsResolved"):
        said = told.said("ExternalModelProvider", "p", condition)
        assert (
            said.message
            == '$.spec.auth.secretRef.name: no Secret "keys" in namespace "x"; it has no endpoints until then'
        )
    assert told.of_route("r", "Ready").status == "False"
    told.put(secret("keys", key="one"))
    assert key_of(told, "p") == b"Bearer one"
    assert told.of_route("r", "Ready").status == "True"
    told.put(secret("keys", key="two"))
    assert key_of(told, "p") == b"Bearer two"
    told.put(secret("keys", other="three"))
    assert key_of(told, "p") == b"Bearer two"
    said = told.said("ExternalModelProvider", "p", "CredentialsResolved")
    assert (
        said.message
        == '$.spec.auth.secretRef.key: Secret "keys" has no key "key"; what was last read of it stays in use'
    )
    told.cluster.remove("v1", "Secret", "x", "keys")
    told.put(provider("p", "keys", generation=2, spec={"model": "other"}))
    assert (key_of(told, "p"), told.pool("p").model) == (b"Bearer two", None)
    told.put(secret("keys", key="four"))
    assert (key_of(told, "p"), told.pool("p").model) == (b"Bearer four", "other")
    told.remove("ExternalModelProvider", "p")
    assert told.cluster.wanted_secrets() == frozenset()


def test_a_secret_is_known_until_it_is_removed() -> None:
    told = Told()
    told.put(provider("p", "keys"), secret("keys", key="one"))
    told.remove("ExternalModelProvider", "p")
    told.put(provider("p", "keys", uid="another"))
    assert key_of(told, "p") == b"Bearer one", "whoever follows the Secret does not tell of it once more"
    told.remove("ExternalModelProvider", "p")
    told.cluster.remove("v1", "Secret", "x", "keys")
    told.put(provider("p", "keys"))
    assert told.pool("p").endpoints == ()


@pytest.mark.parametrize("value", ["not a key", "ÿ"])
def test_what_cannot_be_a_key_is_none(value: str) -> None:
    told = Told()
    told.put(provider("p", "keys"), secret("keys", key=value))
    assert told.pool("p").endpoints == ()
    assert value not in str(told.verdicts)


def test_keys_never_show() -> None:
    told = Told()
    told.put(provider("p", "keys"), secret("keys", key="sesame"), route("r", "!p"))
    assert key_of(told, "p") == b"Bearer sesame"
    assert "sesame" not in repr(told.verdicts) + repr(told.cluster.part.warnings)


def test_objects_name_no_files_and_variables_of_ours_by_default() -> None:
    told = Told()
    told.put(
        provider("p", spec={"auth": {"keyFile": "/etc/hostname"}}), provider("q", spec={"auth": {"keyEnv": "PATH"}})
    )
    assert all(pool.endpoints == () for pool in told.cluster.part.pools)
    messages = [told.said("ExternalModelProvider", name, "ResolvedRefs").message for name in "pq"]
    assert all("objects of a cluster get nothing of the gateway's own" in message for message in messages)
    told = Told(Cluster({"PATH": "abc"}, lambda name: b"content"))
    told.put(
        provider("p", spec={"auth": {"keyFile": "/etc/hostname"}}), provider("q", spec={"auth": {"keyEnv": "PATH"}})
    )
    assert [key_of(told, name) for name in "pq"] == [b"Bearer content", b"Bearer abc"]
    assert told.cluster.part.files == ("/etc/hostname",)


# --- names ------------------------------------------------------------------------------------------------------------


def test_of_two_groups_the_present_one_serves() -> None:
    told = Told()
    told.put(server("a", "old", version=MATRIX, uid="m"), route("r", "a"))
    told.put_pods(pod("old-1", "old", ip="10.0.0.1"), pod("new-1", "new", ip="10.0.0.2"))
    assert told.pool("a").endpoints[0].host == "10.0.0.1"
    told.put(server("a", "new"))
    assert told.pool("a").endpoints[0].host == "10.0.0.2"
    assert told.of_server("a", "Accepted").status == "True"
    said = told.said("ModelServer", "a", "Accepted", MATRIX)
    assert (said.reason, said.message) == ("Superseded", f"the ModelServer of the same name in {VOLCANO} serves")
    told.remove("ModelServer", "a")
    assert told.pool("a").endpoints[0].host == "10.0.0.1"
    assert told.said("ModelServer", "a", "Accepted", MATRIX).status == "True"
    told.put(server("a", spec={"workloadPort": 5}, uid="third"))
    assert told.pool("a").endpoints[0].host == "10.0.0.1"
    assert told.of_server("a", "Accepted").message == (
        f"$.spec.workloadPort: expected an object, got integer; the ModelServer of the same name in {MATRIX} serves"
    )
    assert told.cluster.part.warnings == (
        f"ModelServer x/a of {VOLCANO}: not used: the ModelServer of the same name in {MATRIX} serves",
        f"ModelServer x/a of {VOLCANO}: $.spec.workloadPort: expected an object, got integer",
    )


def test_pools_of_one_name_are_told_apart_whatever_came_first() -> None:
    pool = thing(
        "InferencePool", "a", {"selector": {"matchLabels": {"app": "a"}}, "targetPorts": [{"number": 1}]}, version=POOLS
    )
    objects = [server("a"), provider("a"), pool, route("r", "a"), route("s", "!a", model="n")]
    told, other = Told(), Told()
    told.put(*objects)
    other.put(*reversed(objects))
    assert told.cluster.part == other.cluster.part
    assert {pool.name for pool in told.cluster.part.pools} == {"x/a", "x/a.externalmodelprovider", "x/a.inferencepool"}
    assert (told.leads("r"), told.leads("s")) == ([("x/a", 1)], [("x/a.externalmodelprovider", 1)])
    told.remove("ModelServer", "a")
    assert {pool.name for pool in told.cluster.part.pools} == {"x/a", "x/a.inferencepool"}
    assert told.leads("s") == [("x/a", 1)]


def test_pools_of_files_serve_in_place_of_those_of_their_name() -> None:
    told = Told()
    told.cluster.settle(Settings(), {"x/a"})
    told.put(server("a"), route("r", "a"))
    assert told.cluster.part.pools == ()
    assert told.leads("r") == [("x/a", 1)]
    assert told.of_server("a", "Accepted").reason == "Conflicted"
    assert told.cluster.part.warnings == ("ModelServer x/a: not used: a pool x/a is configured in files",)
    told.cluster.settle(Settings())
    told.build()
    assert len(told.cluster.part.pools) == 1
    assert told.of_server("a", "Accepted").status == "True"


# --- further kinds ----------------------------------------------------------------------------------------------------


def test_inference_pools_of_both_forms() -> None:
    told = Told()
    early = thing("InferencePool", "p", {"selector": {"app": "a"}, "targetPortNumber": 1}, version=EARLIER)
    told.put(early)
    told.put_pods(pod("a-1", "a"))
    assert told.pool("p").endpoints[0].port == 1
    spec = {"selector": {"matchLabels": {"app": "a"}}, "targetPorts": [{"number": 2}, {"number": 3}]}
    told.put(thing("InferencePool", "p", spec, version=POOLS))
    assert [endpoint.port for endpoint in told.pool("p").endpoints] == [2, 3]
    state = told.cluster.pool("x/p")
    assert state is not None
    assert (state.head.api_version, state.ready, state.pods, state.problems) == (POOLS, 1, 1, ())
    assert told.cluster.pool("x/q") is None
    assert told.verdicts == {}


def test_objectives_and_rewrites() -> None:
    told = Told()
    ref = {"poolRef": {"name": "p"}}
    told.put(thing("InferenceObjective", "o", {**ref, "priority": 5}, version="llm-d.ai/v1alpha2"))
    told.put(thing("InferenceObjective", "o", {**ref, "priority": 6}, version=EARLIER))
    rules = {**ref, "rules": [{"targets": [{"modelRewrite": "n"}]}]}
    told.put(thing("InferenceModelRewrite", "w", rules, version=EARLIER))
    part = told.cluster.part
    assert [(each.name, each.pool, each.priority, each.legacy) for each in part.objectives] == [
        ("x/o", "x/p", 5, False),
        ("x/o", "x/p", 6, True),
    ]
    assert [each.name for each in part.rewrites] == ["x/w"]
    told.put(thing("InferenceModelRewrite", "w", {**ref, "rules": []}, version=EARLIER, generation=2))
    assert told.cluster.part.rewrites is part.rewrites
    told.remove("InferenceModelRewrite", "w", EARLIER)
    assert told.cluster.part.rewrites == ()


class Seen:
    """A handler that remembers."""

    def __init__(self) -> None:
        self.kinds = frozenset({("v9", "Strange"), (POOLS, "InferencePool")})
        self.calls: list[Any] = []

    def put(self, tree: Any) -> None:
        self.calls.append(("put", tree["kind"]))

    def remove(self, *named: str) -> None:
        self.calls.append(("remove", *named))

    def settle(self, settings: Settings) -> None:
        self.calls.append("settle")

    def build(self, cluster: Cluster, changed: Any) -> Any:
        state = [cluster.pool(name) for name in changed]
        self.calls.append(("build", [each and each.spec and each.spec.name for each in state]))
        yield

    @property
    def made(self) -> object:
        return "made"

    def verdicts(self) -> list[Any]:
        return []


def test_what_others_handle() -> None:
    seen = Seen()
    told = Told(Cluster(handlers=[seen]))
    told.put({"apiVersion": "v9", "kind": "Strange", "metadata": {"name": "s"}})
    spec = {"selector": {"matchLabels": {"app": "a"}}, "targetPorts": [{"number": 2}]}
    told.put(
        thing("InferencePool", "p", spec, version=POOLS),
        {"apiVersion": "v9", "kind": "Other", "metadata": {"name": "o"}},
    )
    told.remove("InferencePool", "p", POOLS)
    assert seen.calls == [
        ("put", "Strange"), ("build", []), ("put", "InferencePool"), ("build", ["x/p"]),
        ("remove", POOLS, "InferencePool", "x", "p"), ("build", [None]),
    ]  # fmt: skip
    assert told.cluster.part.more == ("made",)


# --- limits and state -------------------------------------------------------------------------------------------------


def test_limits_are_those_of_the_version_that_serves() -> None:
    told = Told()
    told.put(server("a"), route("r", "a", spec={"rateLimit": {"inputTokensPerUnit": 5}}))
    told.put(route("r", "b", generation=2, spec={"rateLimit": {"inputTokensPerUnit": 9}}))
    assert [limit.input_tokens for limit in told.cluster.part.route_limits] == [5]
    told.put(server("b"))
    assert [limit.input_tokens for limit in told.cluster.part.route_limits] == [9]


def test_replicas_meet_where_the_oldest_route_says() -> None:
    told = Told()
    told.put(server("a"), route("young", "a", spec=REDIS, creationTimestamp="2026-03-01T00:00:00Z"))
    assert told.cluster.part.redis == ForeignRedis(url=Hidden("redis://redis:6379"))
    other = {"rateLimit": {"outputTokensPerUnit": 1, "global": {"redis": {"address": "elsewhere:1"}}}}
    told.put(route("old", "a", model="n", spec=other))
    assert told.cluster.part.redis == ForeignRedis(url=Hidden("redis://elsewhere:1"))
    accepted = told.of_route("young", "Accepted")
    assert accepted.status == "True"
    assert (
        "$.spec.rateLimit.global.redis.address: redis:6379 is not used: elsewhere:1, given by ModelRoute x/old, is where"
        in accepted.message
    )
    own = State(redis=Redis(url=Hidden("redis://own:1")))
    told.cluster.settle(settings(state=own))
    told.build()
    assert told.cluster.part.redis == own.redis
    assert "elsewhere:1 is not used: state.redis is where replicas meet" in told.of_route("old", "Accepted").message
    told.cluster.settle(Settings())
    told.remove("ModelRoute", "old")
    assert told.cluster.part.redis == ForeignRedis(url=Hidden("redis://redis:6379"))
    assert told.of_route("young", "Accepted").message == ""
    told.remove("ModelRoute", "young")
    assert told.cluster.part.redis is None


def test_an_address_that_is_none_is_the_routes_own_fault() -> None:
    told = Told()
    bad = {"rateLimit": {"inputTokensPerUnit": 1, "global": {"redis": {"address": "http://x y"}}}}
    told.put(server("a"), route("r", "a", spec=bad), route("s", "a", model="n"))
    assert [route.name for route in told.cluster.part.routes] == ["x/s"]
    assert told.of_route("r", "Accepted").message.startswith("$.spec.rateLimit.global.redis.address: ")


# --- oddities ---------------------------------------------------------------------------------------------------------


def test_what_does_nothing_is_said() -> None:
    told = Told()
    group = {"groupKey": "g", "prefillLabels": {"role": "prefill"}, "decodeLabels": {"role": "decode"}}
    selector = {"matchLabels": {"app": "a"}, "pdGroup": group}
    told.put(server("a", spec={"workloadSelector": selector}), route("r", "a"))
    told.put_pods(pod("a-1", "a", role="prefill"), pod("a-2", "a", role="decode"))
    assert len(told.pool("a").endpoints) == 1
    assert told.of_server("a", "Accepted").message == (
        "$.spec.workloadSelector.pdGroup: prefill pods get no requests: prefill is not split off in this version"
    )
    odd = pod_tree("a-3", "a")
    odd["metadata"]["annotations"] = {"llm-d.ai/active-ports": "none"}
    told.put_pods(pod_from(odd))
    assert 'Pod x/a-3: active-ports: "none" cannot be ports, ignored' in told.of_server("a", "Accepted").message


DEEP: Any = []
for _ in range(100_000):
    DEEP = [DEEP]
HUGE = 10**5000

HOSTILE: list[Any] = [
    None, 5, "x", [], {}, {"kind": "ModelRoute"}, {"apiVersion": VOLCANO, "kind": "ModelRoute"},
    {"apiVersion": VOLCANO, "kind": "ModelRoute", "metadata": 5},
    {"apiVersion": VOLCANO, "kind": "ModelRoute", "metadata": {"name": ["a"]}},
    {"apiVersion": [], "kind": {}, "metadata": {"name": "a"}},
    {"apiVersion": VOLCANO, "kind": "ModelRoute", "metadata": {"name": "r"}},
    {"apiVersion": VOLCANO, "kind": "ModelRoute", "metadata": {"name": "r", "uid": 5, "generation": "x"}, "spec": []},
    {"apiVersion": "v2", "kind": "ModelRoute", "metadata": {"name": "r"}},
    {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "data": 5},
    {"apiVersion": "infer-gateway.dev/v1alpha1", "kind": "GatewayConfiguration", "metadata": {"name": "g"}},
    route("r", "a", creationTimestamp=5), route("r", "a", creationTimestamp="soon"),
    route("r", "a", creationTimestamp="9999-12-31T23:59:59.999999-23:59"),
    route("r", "a", spec={"rules": "all"}), route("r", "a", spec={"modelName": HUGE}), route("r", "a", spec={"modelName": "\ud800"}),
    route("r", "a", spec={"rules": [{"targetModels": [{"modelServerName": "a", "weight": HUGE}]}]}),
    route("r", "a", spec={"parentRefs": [{"deep": DEEP}]}), route("r", "a", spec=dict.fromkeys(map(str, range(10_000)))),
    route("r", "a", spec={"rules": [{"modelMatch": {"uri": {"regex": "(" * 5000}}, "targetModels": [{"modelServerName": "a"}]}]}),
    server("a", spec={"workloadSelector": {"matchLabels": {}}}), server("a", spec={"workloadPort": {"port": -1}}),
]  # fmt: skip


@pytest.mark.parametrize("tree", HOSTILE, ids=map(str, range(len(HOSTILE))))
def test_nothing_an_object_holds_hurts_another(tree: Any) -> None:
    told = Told()
    told.put(server("well"), route("well", "well", model="well"))
    told.put(tree)
    told.put(tree)
    assert {"x/well"} <= {route.name for route in told.cluster.part.routes}
    assert all(len(condition.message) <= 2000 for said in told.verdicts.values() for condition in said.conditions)
    told.put(route("r", "well"), server("a"))
    assert told.of_route("r", "Accepted").status == "True"


def expressions(*texts: str, **more: Any) -> Any:
    """One rule with all of them."""
    match = {"headers": {f"x-{index}": {"regex": text} for index, text in enumerate(texts)}}
    return {"rules": [{"modelMatch": match, "targetModels": [{"modelServerName": "a"}]}], **more}


def test_expressions_of_a_route_are_bounded_together_and_what_is_behind_them_is_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[str] = []
    matcher = expression._matcher
    monkeypatch.setattr(expression, "_matcher", lambda text, whole: (read.append(text), matcher(text, whole))[1])
    texts = [f"^{'[a-z]' * 200}{index:04}" for index in range(32)]  # which the interpreter's own matcher takes
    size = expression.Expression(texts[0], whole=False).size
    least = expression.TOGETHER // size
    told = Told()
    told.put(server("a"), route("r", "a"))
    read.clear()
    rules = [rule for _ in range(16) for rule in expressions(*texts)["rules"]]
    told.put(route("r", "a", spec={"rules": rules}))
    assert len(read) == least + 1
    index, number = divmod(least, len(texts))
    accepted = told.of_route("r", "Accepted")
    assert accepted.message.startswith(
        f"$.spec.rules[{index}].modelMatch.headers.x-{number}.regex: "
        "with this one the regular expressions are too large together; the version"
    )
    told.put(route("s", "a", spec=expressions(*texts)))  # each object has its own allowance
    assert told.of_route("s", "Accepted").status == "True"


def test_an_expression_is_read_once_however_often_its_route_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    told.put(server("a"), route("r", "a", spec=expressions("b+")))
    monkeypatch.setattr(expression, "_matcher", lambda text, whole: pytest.fail(text))
    told.put(server("a", spec={"model": "other"}))
    (made,) = told.cluster.part.routes
    assert made.rules[0].shares[0].model == "other"


# --- building ---------------------------------------------------------------------------------------------------------


def test_what_has_not_changed_is_the_same_object() -> None:
    told = Told()
    told.put(*(server(name) for name in "abc"), *(route(f"r{name}", name, model=name) for name in "abc"))
    told.put_pods(pod("a-1", "a"))
    before = told.cluster.part
    told.cluster.settle(Settings())
    assert told.cluster.build() is before
    told.put_pods(pod("b-1", "b"))
    after = told.cluster.part
    assert after.routes is before.routes
    assert [old is new for old, new in zip(before.pools, after.pools, strict=True)] == [True, False, True]
    told.put_pods(pod("b-1", "b", ready=False))
    told.cluster.put_pod(pod("b-1", "b"))
    told.cluster.put_pod(pod("b-1", "b", ready=False))
    assert told.build() == []


def test_building_may_be_left_and_gone_on_with() -> None:
    told = Told()
    for name in "abc":
        told.cluster.put(server(name))
        told.cluster.put(route(f"r{name}", name, model=name))
    steps = told.cluster.build_steps()
    next(steps)
    assert told.cluster.part == Part()
    steps.close()
    told.cluster.put(server("d"))
    told.cluster.remove(VOLCANO, "ModelServer", "x", "a")
    steps = told.cluster.build_steps()
    for _ in range(5):
        next(steps)
    told.cluster.put(route("late", "d", model="d"))
    for _ in steps:
        pass
    fresh = Told()
    fresh.put(
        *(server(name) for name in "bcd"),
        *(route(f"r{name}", name, model=name) for name in "abc"),
        route("late", "d", model="d"),
    )
    assert told.cluster.part == fresh.cluster.part


def test_nothing_is_said_of_what_is_not_built_yet() -> None:
    told = Told()
    told.cluster.put(server("a"))
    told.cluster.put(server("b"))
    for number, _ in enumerate(told.cluster.build_steps()):
        if number == 2:  # one has been judged
            told.cluster.put(server("c"))
            told.cluster.put(server("b", generation=2, spec={"workloadPort": 5}))
    assert [verdict.name for verdict in told.cluster.verdicts()] == ["a"]
    assert {(verdict.name, verdict.generation) for verdict in told.build()} == {("b", 2), ("c", 1)}


def test_handlers_hear_of_pools_even_if_a_build_is_left() -> None:
    handlers = Seen(), Seen()
    told = Told(Cluster(handlers=handlers))
    spec = {"selector": {"matchLabels": {"app": "a"}}, "targetPorts": [{"number": 2}]}
    told.cluster.put(thing("InferencePool", "p", spec, version=POOLS))
    steps = told.cluster.build_steps()
    next(steps)
    next(steps)
    steps.close()
    told.build()
    assert ("build", ["x/p"]) in handlers[1].calls


def test_settings_are_for_all() -> None:
    told = Told()
    told.put(server("a"), provider("p"))
    timeouts = msgspec.structs.replace(Settings().timeouts, connect=9.0)
    told.cluster.settle(settings(timeouts=timeouts))
    told.build()
    assert [pool.policy.connect for pool in told.cluster.part.pools] == [9.0, 9.0]


# --- what objects of a cluster may name -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.9.9.9", "localhost", "[::1]", "[::]", "0.0.0.0", "[::ffff:127.0.0.1]", "224.0.0.1", "127.1",
        "2130706433", "0x7f000001", "0177.0.0.1", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "0",
    ],
)  # fmt: skip
def test_no_object_leads_to_the_gateways_own_machine(host: str) -> None:
    told = Told()
    told.put(
        provider("p", spec={"baseURL": f"https://{host}:9090"}),
        server("s", spec={"endpoints": ["http://10.0.0.1:80", f"http://{host}:9090"], "workloadSelector": None}),
    )
    assert not told.cluster.part.pools
    for kind, name, path in (("ExternalModelProvider", "p", "baseURL"), ("ModelServer", "s", "endpoints[1]")):
        accepted = told.verdicts[kind, name, VOLCANO].conditions[0]
        assert (accepted.status, accepted.reason) == ("False", "Invalid")
        assert f"$.spec.{path}: {host.strip('[]')} is the gateway's own machine" in accepted.message
        assert "kubernetes.allowLoopback" in accepted.message


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "100.100.100.200", "[::ffff:a9fe:a9fe]", "0xa9fea9fe"]
)
@pytest.mark.parametrize("loopback", [False, True])
def test_no_object_leads_to_a_metadata_server(host: str, loopback: bool) -> None:
    told = Told()
    told.cluster.settle(Settings(kubernetes=Kubernetes(allow_loopback=loopback)))
    told.put(provider("p", spec={"baseURL": f"https://{host}"}))
    assert not told.cluster.part.pools
    accepted = told.verdicts["ExternalModelProvider", "p", VOLCANO].conditions[0]
    assert (accepted.status, accepted.reason) == ("False", "Invalid")
    assert f"$.spec.baseURL: {host.strip('[]')}: link-local and metadata" in accepted.message
    assert "egress.allow" in accepted.message


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1:6379", "own machine"),
        ("redis://localhost", "own machine"),
        ("redis+cluster://10.0.0.1:1,127.1:2", "own machine"),
        ("unix:///run/redis.sock", "own machine"),
        ("169.254.169.254:80", "egress.allow"),
    ],
)
def test_no_route_has_replicas_meet_on_the_gateways_own_machine(address: str, why: str) -> None:
    told = Told()
    spec = {"rateLimit": {"inputTokensPerUnit": 1, "global": {"redis": {"address": address}}}}
    told.put(server("a"), route("r", "a", spec=spec))
    assert told.cluster.part.redis is None
    accepted = told.of_route("r", "Accepted")
    assert accepted.status == "True"
    assert "$.spec.rateLimit.global.redis.address: not used: " in accepted.message
    assert why in accepted.message
    if why == "own machine":
        told.cluster.settle(Settings(kubernetes=Kubernetes(allow_loopback=True)))
        told.build()
        assert type(told.cluster.part.redis) is Redis


def test_an_object_leads_there_where_the_configuration_lets_it() -> None:
    told = Told()
    told.put(provider("p", spec={"baseURL": "http://127.0.0.1:9090"}))
    told.cluster.settle(Settings(kubernetes=Kubernetes(allow_loopback=True)))
    told.build()
    (endpoint,) = told.pool("p").endpoints
    assert (endpoint.address, endpoint.outward) == ("127.0.0.1:9090", False)


def test_names_are_looked_at_when_they_are_resolved_and_pods_are_where_kubelets_say() -> None:
    told = Told()
    told.put(provider("p", spec={"baseURL": "https://api.example.com"}), server("s"))
    told.put_pods(pod("s-1", "s", ip="127.0.0.1"))
    assert told.pool("p").endpoints[0].outward
    assert not told.pool("s").endpoints[0].outward
