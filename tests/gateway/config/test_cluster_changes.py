"""Whatever comes, changes, breaks and goes in whichever order: what serves is what the versions that serve make."""

from __future__ import annotations

import base64
from typing import Any

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.config.cluster import Cluster, Part
from gateway.config.pods import Pod
from gateway.config.scheduler import ProfileSpec, Scheduler
from gateway.config.settings import Settings
from gateway.config.snapshot import PoolSpec
from gateway.config.verdict import Verdict
from tests.gateway.config.clusters import MATRIX, VOLCANO, pod, provider, route, secret, server

PROVIDER = "ExternalModelProvider"
Key = tuple[str, str, str]
"""(apiVersion, kind, name)"""
NAMES = st.sampled_from(["a", "b", "c"])
TARGETS = st.lists(st.sampled_from(["a=1", "b=1", "c=2", "!a=3"]), min_size=1, max_size=3, unique=True)
GROUPS = st.sampled_from([VOLCANO, VOLCANO, VOLCANO, MATRIX])


def profiles(*names: str) -> Settings:
    return Settings(scheduler=Scheduler(profiles={name: ProfileSpec() for name in names}))


class Changes(RuleBasedStateMachine):
    """``trees``: what the API server has; ``history``: every version it ever had of an object that is there."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()
        self.settings = Settings()
        self.trees: dict[Key, Any] = {}
        self.history: dict[Key, dict[int, Any]] = {}
        self.broken: dict[Key, bool] = {}
        self.bad: dict[tuple[Key, int], bool] = {}
        self.secrets: dict[str, Any] = {"s": secret("s", key="one")}
        self.sent: set[str] = set()
        self.pods: dict[str, Pod] = {}
        self.told: dict[tuple[str, str, str, str], Verdict] = {}
        self.generation = 0
        self.left = False
        self.built = True

    @initialize()
    def settled(self) -> None:
        self.cluster.settle(self.settings)

    def _put(self, tree: Any, *, broken: bool = False) -> None:
        self.generation += 1
        tree["metadata"]["generation"] = self.generation
        key = (tree["apiVersion"], tree["kind"], tree["metadata"]["name"])
        self.trees[key] = tree
        self.broken[key] = self.bad[key, self.generation] = broken
        self.history.setdefault(key, {})[self.generation] = tree
        self.cluster.put(tree)
        self.built = False

    def _follow(self) -> bool:
        """After a build, Secrets that are named are watched, others no longer; whether there is anything new in it."""
        wanted = {name for _, name in self.cluster.wanted_secrets()}
        for name in self.sent - wanted:
            self.cluster.remove("v1", "Secret", "x", name)
        new = (wanted - self.sent) & self.secrets.keys()
        for name in new:
            self.cluster.put(self.secrets[name])
        self.sent = wanted
        return bool(new)

    @rule(
        name=NAMES,
        leads=TARGETS,
        model=st.sampled_from("mn"),
        broken=st.booleans(),
        version=GROUPS,
        day=st.integers(1, 2),
    )
    def put_route(self, name: str, leads: list[str], model: str, broken: bool, version: str, day: int) -> None:
        spec: Any = {"modelMatch": 5} if broken else {}
        created = f"2026-01-0{day}T00:00:00Z"
        known = self.trees.get((version, "ModelRoute", name))
        if known is not None:
            created = known["metadata"]["creationTimestamp"]
        self._put(
            route(name, *leads, model=model, spec=spec, version=version, creationTimestamp=created), broken=broken
        )

    @rule(name=NAMES, app=NAMES, variant=st.sampled_from(["pods", "listed", "profile", "broken"]), version=GROUPS)
    def put_server(self, name: str, app: str, variant: str, version: str) -> None:
        spec: Any = {
            "pods": {},
            "listed": {"endpoints": ["http://h:1"]},
            "profile": {"schedulingProfile": "fast"},
            "broken": {"workloadPort": {"port": 0}},
        }[variant]
        self._put(server(name, app, spec=spec, version=version), broken=variant == "broken")

    @rule(name=st.sampled_from("ab"), wanted=st.sampled_from(["s", "t", ""]), model=st.sampled_from("mn"))
    def put_provider(self, name: str, wanted: str, model: str) -> None:
        self._put(provider(name, wanted, spec={"model": model}))

    @precondition(lambda self: self.trees)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        self._remove(data.draw(st.sampled_from(sorted(self.trees))))

    def _remove(self, key: Key) -> None:
        version, kind, name = key
        del self.trees[key], self.history[key], self.broken[key]
        self.cluster.remove(version, kind, "x", name)
        self.told.pop((version, kind, "x", name), None)
        self.built = False

    @precondition(lambda self: self.trees)
    @rule(data=st.data())
    def make_anew(self, data: st.DataObject) -> None:
        """Deleted and created again, before anybody looked."""
        key = data.draw(st.sampled_from(sorted(self.trees)))
        tree, broken = self.trees[key], self.broken[key]
        self._remove(key)
        self._put({**tree, "metadata": dict(tree["metadata"])}, broken=broken)

    @rule(name=st.sampled_from("st"), value=st.sampled_from(["one", "two", None]))
    def change_secret(self, name: str, value: str | None) -> None:
        if value is None:
            self.secrets.pop(name, None)
        else:
            self.secrets[name] = secret(name, key=value)
        if name in self.sent:
            if value is None:
                self.cluster.remove("v1", "Secret", "x", name)
            else:
                self.cluster.put(self.secrets[name])
        self.built = False

    @rule(name=st.sampled_from("pq"), app=NAMES, ready=st.booleans())
    def put_pod(self, name: str, app: str, ready: bool) -> None:
        self.pods[name] = pod(name, app, ready=ready, ip="10.0.0.1" if name == "p" else "10.0.0.2")
        self.cluster.put_pod(self.pods[name])
        self.built = False

    @rule(name=st.sampled_from("pq"))
    def remove_pod(self, name: str) -> None:
        self.pods.pop(name, None)
        self.cluster.remove_pod("x", name)
        self.built = False

    @rule(fast=st.booleans())
    def settle(self, fast: bool) -> None:
        self.settings = profiles("fast") if fast else Settings()
        self.cluster.settle(self.settings)
        self.built = False

    # --- what has to hold ---------------------------------------------------------------------------------------------

    @rule(steps=st.integers(0, 4))
    def begin(self, steps: int) -> None:
        """A build that is left: what it made and nobody has seen may be made again, the same."""
        for _, _ in zip(range(steps), self.cluster.build_steps(), strict=False):
            self.left = True

    @rule()
    def build(self) -> None:
        self._build()

    @rule()
    def build_again(self) -> None:
        """Often, so that most changes are judged by themselves."""
        self._build()

    @rule()
    def build_once_more(self) -> None:
        self._build()

    def _build(self) -> None:
        before = self.cluster.part
        after = self.cluster.build()
        for verdict in self.cluster.verdicts():
            assert self.told.get(verdict.key) != verdict or self.left
            self.told[verdict.key] = verdict
        self.built = True
        old = {each.name: each for each in (*before.pools, *before.routes)}
        for each in (*after.pools, *after.routes):
            assert each != old.get(each.name) or each is old[each.name] or self.left
        self.left = False
        assert self.cluster.build() is after
        if self._follow():
            self._build()

    @invariant()
    def what_serves_is_what_its_versions_make(self) -> None:
        if not self.built:
            return
        part, fresh = self.cluster.part, self._fresh()
        assert part.routes == fresh.routes
        keyless = {f"x/{name}" for _, kind, name in self.trees if kind == PROVIDER}
        assert [_told_apart(pool, keyless) for pool in part.pools] == [
            _told_apart(pool, keyless) for pool in fresh.pools
        ]

    @invariant()
    def keys_are_those_of_the_secrets_that_are_there(self) -> None:
        keys = {}
        for pool in self.cluster.part.pools if self.built else ():
            if pool.external and pool.endpoints:
                keys[pool.name.removesuffix(".externalmodelprovider")] = dict(pool.endpoints[0].headers)
        for (_, kind, name), tree in self.trees.items():
            named = tree["spec"].get("auth", {}).get("secretRef", {}).get("name") if kind == PROVIDER else None
            if self.built and named in self.secrets:
                key = base64.b64decode(self.secrets[named]["data"]["key"])
                assert keys[f"x/{name}"][b"authorization"] == b"Bearer " + key

    @invariant()
    def what_is_said_is_so(self) -> None:
        if not self.built:
            return
        assert {key[:2] + key[3:] for key in self.told} == set(self.trees)
        for (version, kind, _, name), verdict in self.told.items():
            said = {condition.type: condition for condition in verdict.conditions}
            key = (version, kind, name)
            assert verdict.generation == self.trees[key]["metadata"]["generation"]
            if self._beside(key):
                assert said["Accepted"].reason == ("Invalid" if self.broken[key] else "Superseded")
                continue
            if self.broken[key]:
                assert (said["Accepted"].status, said["Accepted"].reason) == ("False", "Invalid")
                assert said["Accepted"].message.startswith("$.spec")
            elif "schedulingProfile" not in self.trees[key]["spec"]:
                assert said["Accepted"].status == "True"
            for condition in verdict.conditions:
                assert condition.status != "False" or condition.message

    def _beside(self, key: Key) -> bool:
        """Whether another object stands for the same: one of today's group, unless it never was valid."""
        version, kind, name = key
        other = (VOLCANO if version == MATRIX else MATRIX, kind, name)
        if other not in self.trees:
            return False
        valid, rival = (any(not self.bad[each, number] for number in self.history[each]) for each in (key, other))
        return rival > valid if valid != rival else version == MATRIX

    def _fresh(self) -> Part:
        """From scratch: of every object the version that serves, in the order of names."""
        cluster = Cluster()
        cluster.settle(self.settings)
        for version, kind, name in sorted(self.trees):
            standing = next(
                each for each in self.cluster._standings.of((kind, f"x/{name}")) if each.head.api_version == version
            )
            if self._beside((version, kind, name)):
                continue
            if standing.serving is None:
                cluster.put(self.history[version, kind, name][max(self.history[version, kind, name])])
                continue
            tree = self.history[version, kind, name][standing.serving.generation]
            spec = dict(tree["spec"])
            if spec.get("schedulingProfile") not in (None, *self.settings.scheduler.profiles):
                del spec["schedulingProfile"]  # it serves without
            cluster.put({**tree, "spec": spec})
        for each in self.pods.values():
            cluster.put_pod(each)
        for each in self.secrets.values():
            cluster.put(each)
        return cluster.build()


def _told_apart(pool: PoolSpec, keyless: set[str]) -> Any:
    """A provider's key, and whether it has one, is a matter of what there was before."""
    if pool.external:
        return pool.name, pool.model
    return pool


TestChanges = Changes.TestCase
TestChanges.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)
