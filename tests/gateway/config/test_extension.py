"""Objectives, model rewrites and pools of the first form: what is read, what is refused, and what it comes to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.config.cluster import Cluster
from gateway.config.document import ConfigError, parse
from gateway.config.load import load
from gateway.config.snapshot import Snapshot
from gateway.directives import RewriteRule

LLM_D, X = "llm-d.ai/v1alpha2", "inference.networking.x-k8s.io/v1alpha2"
POOL = {
    "apiVersion": "inference.networking.k8s.io/v1",
    "kind": "InferencePool",
    "metadata": {"name": "pool", "namespace": "ns"},
    "spec": {"selector": {"matchLabels": {"app": "a"}}, "targetPorts": [{"number": 8000}]},
}


TO_M: dict[str, Any] = {"targets": [{"modelRewrite": "m"}]}


def made(kind: str, name: str, spec: dict[str, Any], version: str = LLM_D, **metadata: str) -> dict[str, Any]:
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "namespace": "ns", **metadata},
        "spec": spec,
    }


def objective(name: str, version: str = LLM_D, pool: str = "pool", **spec: object) -> dict[str, Any]:
    return made("InferenceObjective", name, {"poolRef": {"name": pool}, **spec}, version)


def rewrite(name: str, *rules: object, version: str = LLM_D, **metadata: str) -> dict[str, Any]:
    spec = {"poolRef": {"name": "pool"}, "rules": list(rules)}
    return made("InferenceModelRewrite", name, spec, version, **metadata)


def loaded(*trees: object, kubernetes: bool = True) -> Snapshot:
    text = "\n---\n".join(json.dumps(tree) for tree in trees)
    return load(parse("f.yaml", text.encode()), kubernetes=kubernetes)


def problems(*trees: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(*trees, kubernetes=False)
    return [problem.partition("): ")[2] for problem in caught.value.problems]


def test_objectives_of_both_groups_are_read() -> None:
    snapshot = loaded(POOL, objective("a", priority=-3), objective("a", X, priority=9), objective("b", X))
    found = [(each.name, each.pool, each.priority, each.legacy) for each in snapshot.objectives]
    assert found == [("ns/a", "ns/pool", -3, False), ("ns/a", "ns/pool", 9, True), ("ns/b", "ns/pool", 0, True)]


def test_an_objective_means_the_inference_pool_though_another_pool_has_its_name() -> None:
    server = made(
        "ModelServer", "pool", {"inferenceEngine": "vLLM", "endpoints": ["http://a:1"]},
        "networking.serving.volcano.sh/v1alpha1",
    )  # fmt: skip
    snapshot = loaded(server, POOL, objective("a"))
    assert [pool.name for pool in snapshot.pools] == ["ns/pool", "ns/pool.inferencepool"]
    assert snapshot.objectives[0].pool == "ns/pool.inferencepool"


def test_rewrites_keep_the_order_of_rules_and_know_their_age() -> None:
    exact = {
        "matches": [{"model": {"type": "Exact", "value": "m"}}, {"model": {"value": "n"}}],
        "targets": [{"modelRewrite": "x", "weight": 3}, {"modelRewrite": "y", "weight": 1}],
    }
    generic = {"targets": [{"modelRewrite": "x"}, {"modelRewrite": "y"}]}
    (found,) = loaded(POOL, rewrite("r", exact, generic, creationTimestamp="2026-01-01T00:00:00Z")).rewrites
    assert found.rules == (
        RewriteRule(("m", "n"), (("x", 3), ("y", 1))),
        RewriteRule((), (("x", 1), ("y", 1))),
    )
    assert (found.name, found.pool, found.age[0]) == ("ns/r", "ns/pool", 1767225600.0)


def test_a_match_without_a_model_matches_any() -> None:
    rule = {"matches": [{"model": {"value": "m"}}, {}], "targets": [{"modelRewrite": "x"}]}
    assert loaded(POOL, rewrite("r", rule)).rewrites[0].rules[0].models == ()


def test_where_some_targets_have_weights_the_others_are_not_chosen() -> None:
    rule = {"targets": [{"modelRewrite": "x"}, {"modelRewrite": "y", "weight": 2}]}
    assert loaded(POOL, rewrite("r", rule)).rewrites[0].rules[0].targets == (("y", 2),)


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        (objective("a", priority=2**31), "$.spec.priority: expected int <= 2147483647"),
        (objective("a", prioity=1), '$.spec.prioity: unknown field; did you mean "priority"?'),
        (made("InferenceObjective", "a", {}), '$.spec: missing required field "poolRef"'),
        (objective("a", pool="b"), '$.spec.poolRef.name: no InferencePool "b" in namespace "ns"'),
        (
            made("InferenceObjective", "a", {"poolRef": {"name": "pool", "kind": "Service"}}),
            "$.spec.poolRef.kind: expected InferencePool, got 'Service'",
        ),
        (rewrite("a"), "$.spec.rules: must not be empty"),
        (rewrite("a", {"targets": []}), "$.spec.rules[0].targets: must not be empty"),
        (
            rewrite("a", {"targets": [{"modelRewrite": "m", "weight": 0}]}),
            "$.spec.rules[0].targets[0].weight: expected int >= 1",
        ),
        (
            rewrite("a", {"matches": [{"model": {"type": "Prefix", "value": "m"}}], **TO_M}),
            '$.spec.rules[0].matches[0].model.type: expected "Exact", got "Prefix"',
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_its_path(tree: dict[str, Any], problem: str) -> None:
    (found,) = problems(POOL, tree)
    assert found.startswith(problem)


def test_in_a_cluster_the_pool_to_pick_from_may_be_yet_to_come() -> None:
    tree = {
        "apiVersion": "infer-gateway.dev/v1alpha1",
        "kind": "GatewayConfiguration",
        "listeners": {"extProc": {"pool": "ns/later"}},
    }
    assert loaded(tree).settings.listeners.ext_proc is not None
    (problem,) = problems(tree)
    assert problem.startswith('$.listeners.extProc.pool: no pool "ns/later"')


def test_a_pool_of_the_first_form_is_what_one_of_today_is() -> None:
    spec = {"selector": {"app": "a"}, "targetPortNumber": 8000, "extensionRef": {"name": "picker"}}
    old, new = loaded(made("InferencePool", "pool", spec, X)), loaded(POOL)
    assert old.pools == new.pools
    assert old.inert == new.inert == ()


def test_pods_of_a_pool_that_speaks_http2_are_not_asked_what_they_are() -> None:
    spec = {**POOL["spec"], "appProtocol": "kubernetes.io/h2c"}  # type: ignore[dict-item]
    plain, asked = loaded({**POOL, "spec": spec}).pools[0], loaded(POOL).pools[0]
    assert (plain.engine, plain.external, plain.bare) == ("plain", True, True)
    assert (asked.engine, asked.external, asked.bare) == ("any", False, True)


def accepted(cluster: Cluster) -> dict[tuple[str, str], tuple[str, str]]:
    """Version and name of each object of which something is to be said → reason and message."""
    for _ in cluster.build_steps():
        pass
    found = {}
    for verdict in cluster.verdicts():
        (condition,) = verdict.conditions
        assert (condition.type, condition.status) == ("Accepted", "False" if condition.reason == "Invalid" else "True")
        found[verdict.api_version, verdict.name] = condition.reason, condition.message
    return found


def test_what_is_said_of_objects_of_a_cluster() -> None:
    cluster = Cluster()
    for tree in (
        objective("a"),
        objective("b", X),
        objective("c", priority="high"),
        rewrite("r", {"targets": [{"modelRewrite": "x"}]}),
    ):
        cluster.put(tree)
    absent = '$.spec.poolRef.name: no InferencePool "pool" in namespace "ns"'
    said = accepted(cluster)
    assert said[LLM_D, "a"] == said[X, "b"] == ("Accepted", absent)
    assert said[LLM_D, "c"][0] == "Invalid"
    assert said[LLM_D, "c"][1].startswith("$.spec.priority: expected int")
    cluster.put(POOL)
    said = accepted(cluster)
    assert said == {(LLM_D, "a"): ("Accepted", ""), (X, "b"): ("Accepted", ""), (LLM_D, "r"): ("Accepted", "")}
    cluster.put(objective("b"))
    said = accepted(cluster)
    assert said[X, "b"] == ("Accepted", f"not used: the InferenceObjective of that name in {LLM_D} comes first")
    assert {(each.name, each.legacy) for each in cluster.part.objectives} == {
        ("ns/a", False), ("ns/b", True), ("ns/b", False)
    }  # fmt: skip


def test_an_object_that_becomes_invalid_serves_as_it_was() -> None:
    cluster = Cluster()
    for tree in (POOL, objective("a", priority=3)):
        cluster.put(tree)
    accepted(cluster)
    cluster.put({**objective("a", priority="high"), "metadata": {"name": "a", "namespace": "ns", "generation": 2}})
    reason, message = accepted(cluster)[LLM_D, "a"]
    assert (reason, "serves" in message) == ("Invalid", True)
    assert [each.priority for each in cluster.part.objectives] == [3]
    cluster.remove(LLM_D, "InferenceObjective", "ns", "a")
    accepted(cluster)
    assert cluster.part.objectives == ()
