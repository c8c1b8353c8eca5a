"""Two replicas at one API server: which of them writes, what the server keeps of it, and what others find there."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec

import pytest
import trio
import yaml
from kubernetes import client as official
from kubernetes import config
from kubernetes.leaderelection.electionconfig import Config
from kubernetes.leaderelection.leaderelection import LeaderElection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock

from gateway.config.verdict import Condition, Parent, Verdict
from gateway.sources.kube.access import Access
from gateway.sources.kube.client import Client
from gateway.sources.kube.conditions import Owner
from gateway.sources.kube.events import Events
from gateway.sources.kube.lease import Election
from gateway.sources.kube.status import StatusWriter
from tests.kube.cluster import (
    MATRIX,
    VOLCANO,
    Cluster,
    Tree,
    http_route,
    inference_pool,
    model_route,
    model_server,
    old_inference_pool,
)

OWNER = Owner("infer-gateway.dev/gateway", lambda reference, namespace: reference["name"] == "ours")
LEASES = "leases.coordination.k8s.io"
STATUSES = "modelroutes.networking.serving.volcano.sh/status"
P = ParamSpec("P")
GOOD = (Condition("Accepted", "True", "Accepted"), Condition("ResolvedRefs", "True", "ResolvedRefs"))
BAD = (Condition("Accepted", "False", "Invalid", "$.spec.rules: expected 1 to 16"), GOOD[1])


def on_trio(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        trio.run(functools.partial(test, *args, **kwargs))

    return run


@pytest.fixture(scope="module")
def shared() -> Iterator[Cluster]:
    with Cluster(crds=()) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: Cluster) -> Iterator[Cluster]:
    yield shared
    shared.heal()
    shared.deny()
    shared.forget_requests()


class Replica:
    """What it sees is what is there; `say` gives its writer a verdict on an object."""

    def __init__(self, cluster: Cluster, client: Client, lease: str, identity: str) -> None:
        self.cluster = cluster
        self.trees: dict[tuple[str, str, str, str], Tree] = {}
        self.election = Election(client, "default", lease, identity, changed=lambda leading: self.writer.wake())
        self.events = Events(client, self.leading, identity, OWNER)
        self.writer = StatusWriter(client, self.observed, self.leading, OWNER, said=self.events.judged)

    def leading(self) -> bool:
        return self.election.leading

    def observed(self, key: tuple[str, str, str, str]) -> Tree:
        return self.cluster.get(self.trees[key])

    def say(self, tree: Tree, *conditions: Condition, parents: tuple[Parent, ...] | None = None) -> None:
        about = self.cluster.get(tree)["metadata"]
        verdict = Verdict(
            tree["apiVersion"],
            tree["kind"],
            about["namespace"],
            about["name"],
            about["uid"],
            about.get("generation", 0),
            conditions,
            parents,
        )
        self.trees[verdict.key] = tree
        self.writer.put([verdict])

    async def run(self, begin: trio.Event) -> None:
        await begin.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.election.run)
            nursery.start_soon(self.writer.run)
            nursery.start_soon(self.events.run)


@contextlib.asynccontextmanager
async def replica(
    cluster: Cluster, lease: str, identity: str = "gateway-0", begin: trio.Event | None = None
) -> AsyncIterator[Replica]:
    """Running from ``begin`` on, or at once."""
    if begin is None:
        begin = trio.Event()
        begin.set()
    access = await Access.find(str(cluster.kubeconfig))
    async with Client(access) as client, trio.open_nursery() as nursery:
        made = Replica(cluster, client, lease, identity)
        nursery.start_soon(made.run, begin)
        yield made
        nursery.cancel_scope.cancel()


async def eventually(true: Callable[[], object]) -> None:
    with trio.fail_after(20):
        while not true():  # noqa: ASYNC110 — another process has to be asked
            await trio.sleep(0.02)


def writes(cluster: Cluster) -> list[int]:
    """Of ModelRoutes' statuses: how they were answered."""
    return [each["code"] for each in cluster.requests("patch", "modelroutes", part="status")]


def told(cluster: Cluster, name: str) -> list[tuple[str, str, str]]:
    found = cluster.list("events.k8s.io/v1", "Event", "default")
    return [(each["type"], each["reason"], each["note"]) for each in found if each["regarding"]["name"] == name]


@on_trio
async def test_one_of_two_writes_and_the_other_goes_on_where_it_ends(cluster: Cluster) -> None:
    tree = model_route("chat", "llama", "servers")
    cluster.create(tree)
    led = trio.Event()
    async with replica(cluster, "two", "b", led) as second:
        async with replica(cluster, "two", "a") as first:
            await eventually(first.leading)
            led.set()
            await eventually(lambda: second.election.holder == "a")
            for each in (first, second):
                each.say(tree, *GOOD)
            await eventually(lambda: cluster.conditions(tree))
            assert cluster.conditions(tree) == {
                "Accepted": ("True", "Accepted"),
                "ResolvedRefs": ("True", "ResolvedRefs"),
            }
            managers = {each["manager"]: each for each in cluster.get(tree)["metadata"]["managedFields"]}
            assert managers["infer-gateway"]["operation"] == "Apply"
            assert managers["infer-gateway"]["subresource"] == "status"
            assert not second.leading()
        await eventually(second.leading)
        second.say(tree, *BAD)
        await eventually(lambda: cluster.conditions(tree)["Accepted"] == ("False", "Invalid"))
        await eventually(lambda: told(cluster, "chat"))
    assert told(cluster, "chat") == [("Warning", "Invalid", "$.spec.rules: expected 1 to 16")]
    assert writes(cluster) == [200, 200]
    spec = cluster.get({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "two"}})["spec"]
    assert spec["holderIdentity"] == ""
    assert spec["leaseTransitions"] == 1


@on_trio
async def test_who_takes_over_writes_nothing_that_stands_there(cluster: Cluster) -> None:
    trees = [model_route(f"same-{index}", "llama", "servers") for index in range(15)]
    cluster.create(*trees)
    for turn in range(2):
        async with replica(cluster, "same", f"replica-{turn}") as one:
            await eventually(one.leading)
            for tree in trees:
                one.say(tree, *GOOD)
            await eventually(lambda: one.writer.statistics().waiting == 0)
            await eventually(lambda: all(cluster.conditions(tree) for tree in trees))
    assert writes(cluster) == [200] * 15


@on_trio
async def test_lost_answers_and_refusals_are_made_good(cluster: Cluster) -> None:
    tree = model_route("lossy", "llama", "servers")
    cluster.create(tree)
    async with replica(cluster, "lossy") as one:
        await eventually(one.leading)
        cluster.fail("patch", STATUSES, mode="drop", count=1)
        cluster.fail("patch", STATUSES, status=429, retry_after=1, count=1)
        one.say(tree, *GOOD)
        await eventually(lambda: cluster.conditions(tree))
    assert writes(cluster) == [0, 429, 200]


def parents(tree: Tree, member: str = "parents") -> list[tuple[str, str]]:
    return [(each["parentRef"]["name"], each.get("controllerName", "")) for each in tree["status"][member]]


def entry(name: str, **more: Any) -> Tree:
    conditions = [
        {
            "type": "Accepted",
            "status": "True",
            "reason": "A",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
    ]
    return {
        "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": name},
        "conditions": conditions,
    } | more


@pytest.mark.parametrize(
    ("tree", "member", "more"),
    [
        (http_route("web", "ours", "llama"), "parents", {"controllerName": "example.com/other"}),
        (inference_pool("llama", {"app": "llama"}), "parents", {}),
        (old_inference_pool("old", {"app": "llama"}), "parent", {}),
    ],
)
@on_trio
async def test_lists_of_parents_are_shared(cluster: Cluster, tree: Tree, member: str, more: Tree) -> None:
    cluster.create(tree)
    theirs = entry("theirs", **more)
    cluster.patch(tree, {"status": {member: [theirs]}}, part="status")
    async with replica(cluster, f"shared-{member}-{tree['metadata']['name']}") as one:
        await eventually(one.leading)
        one.say(tree, parents=(Parent({"name": "ours"}, GOOD),))
        await eventually(lambda: len(cluster.get(tree)["status"][member]) == 2)
        assert [name for name, _ in parents(cluster.get(tree), member)] == ["theirs", "ours"]
        assert cluster.get(tree)["status"][member][0] == theirs
        cluster.forget_requests()
        one.say(tree, parents=())
        await eventually(lambda: len(cluster.get(tree)["status"][member]) == 1)
        assert cluster.get(tree)["status"][member] == [theirs]


def definition(group: str, plural: str, kind: str, status: Tree | None) -> Tree:
    """With that schema of its status; None: without a status subresource."""
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "properties": {"spec": anything, "status": anything if status is None else status}}
    version: Tree = {"name": "v1alpha1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": names,
            "versions": [version if status is None else version | {"subresources": {"status": {}}}],
        },
    }


@on_trio
async def test_definitions_that_keep_no_conditions_are_not_asked_again_and_again(tmp_path: Path) -> None:
    volcano, matrix = VOLCANO.partition("/")[0], MATRIX.partition("/")[0]
    other = {"type": "object", "properties": {"phase": {"type": "string"}}}
    kinds = [
        definition(volcano, "modelroutes", "ModelRoute", {"type": "object"}),
        definition(volcano, "modelservers", "ModelServer", other),
        definition(matrix, "modelroutes", "ModelRoute", None),
    ]
    (tmp_path / "crds.yaml").write_text(yaml.safe_dump_all(kinds))
    trees = [
        model_route("empty", "llama", "servers"),
        model_server("undeclared", {"app": "llama"}),
        model_route("bare", "llama", "servers", api_version=MATRIX),
    ]
    with Cluster(crds=(tmp_path,)) as cluster:
        cluster.create(*trees)
        async with replica(cluster, "old") as one:
            await eventually(one.leading)
            for _ in range(20):
                for tree in trees:
                    one.say(tree, *BAD)
                await trio.sleep(0.05)
            await eventually(lambda: all(told(cluster, tree["metadata"]["name"]) for tree in trees))
        assert len(cluster.requests("patch", part="status")) == 2  # where there is no such place nothing is on record
        assert not any(cluster.conditions(tree) for tree in trees)


@pytest.fixture
def other(cluster: Cluster) -> Iterator[LeaderElection]:
    """A candidate of the official client's for the same Lease."""
    config.load_kube_config(str(cluster.kubeconfig))
    lock = LeaseLock("mixed", "default", "theirs")
    yield LeaderElection(Config(lock, 15, 10, 2, onstarted_leading=lambda: None, onstopped_leading=lambda: None))
    lock.api_instance.api_client.close()
    official.Configuration.set_default(None)


@on_trio
async def test_the_official_client_s_election_and_ours_elect_one(cluster: Cluster, other: LeaderElection) -> None:
    async with replica(cluster, "mixed", "ours") as one:
        await eventually(one.leading)
        assert not await trio.to_thread.run_sync(other.try_acquire_or_renew)
        assert other.observed_record.holder_identity == "ours"
    assert await trio.to_thread.run_sync(other.try_acquire_or_renew)
    async with replica(cluster, "mixed", "ours") as one:
        await eventually(lambda: one.election.holder == "theirs")
        assert not one.leading()


@on_trio
async def test_without_the_right_to_leases_nobody_writes(cluster: Cluster) -> None:
    cluster.deny(f"*:{LEASES}")
    async with replica(cluster, "denied") as one:
        await eventually(lambda: one.election.problem)
        assert "leases of coordination.k8s.io in namespace default" in one.election.problem
        assert not one.leading()
