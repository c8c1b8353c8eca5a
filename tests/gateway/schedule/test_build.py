"""A configured profile, running."""

from __future__ import annotations

import json
import random

import pytest

from gateway.config.decode import Section
from gateway.config.document import ConfigError, parse
from gateway.config.load import load
from gateway.config.resources import SessionSticky, StickySource
from gateway.config.scheduler import Enabled, Listed, Picked, PluginConfig, Plugins, ProfileSpec, Scheduler
from gateway.config.snapshot import PoolSpec
from gateway.schedule import registry
from gateway.schedule.build import build, for_pool
from gateway.schedule.cost import Costs
from gateway.schedule.parts import Parts
from gateway.types import Load
from tests.gateway.schedule.fleet import Fake, ask, ids, parts

POOL = PoolSpec("default/a", "vllm")


def scoring(*names: str | Enabled, **more: object) -> ProfileSpec:
    return ProfileSpec(plugins=Plugins(score=Listed(enabled=names)), **more)  # type: ignore[arg-type]


def test_the_built_in_profile() -> None:
    profile = build(ProfileSpec(), parts())
    assert [part.name for part in profile.filters] == ["healthy", "lora-affinity", "context-length"]
    assert [(part.name, type(part.scorer), part.weight) for part in profile.scorers] == [("cost", Costs, 1.0)]
    assert profile.sessions is None


def test_weights_and_parameters_reach_the_ranking() -> None:
    spec = scoring(
        Enabled(name="gpu-usage", weight=1.0),
        Enabled(name="short", weight=3.0),
        plugin_config=(PluginConfig(name="short", type="load-aware-scorer", args={"threshold": 10}),),
    )
    fleet = [Fake("a", Load(kv_usage=0.0, waiting=10)), Fake("b", Load(kv_usage=1.0, waiting=2))]
    # a: 1·1 + 3·0, b: 1·0 + 3·0.4
    assert ids(list(build(spec, parts()).rank(ask(), fleet))) == ["b", "a"]
    lighter = [Fake("a", Load(kv_usage=0.0, waiting=10)), Fake("b", Load(kv_usage=1.0, waiting=8))]
    assert ids(list(build(spec, parts()).rank(ask(), lighter))) == ["a", "b"]


def test_what_filters_leave_is_ranked() -> None:
    spec = ProfileSpec(plugins=Plugins(filter=Listed(enabled=("least-request",))))
    fleet = [Fake("a", Load(waiting=99)), Fake("b", Load(asleep=True)), Fake("c", Load())]
    assert ids(list(build(spec, parts()).rank(ask(), fleet))) == ["c"]
    of = ask()
    assert list(build(spec, parts()).rank(of, fleet[:1])) == []
    assert of.left_out == "least-request"


def test_pickers_are_chosen() -> None:
    fleet = [Fake("a", inflight=1), Fake("b")]
    firsts = {
        name: {
            ids(list(build(scoring("least-request", picker=name), parts(seed)).rank(ask(), fleet)))[0]
            for seed in range(20)
        }
        for name in ("max-score", "random", "power-of-two")
    }
    assert firsts == {"max-score": {"b"}, "random": {"a", "b"}, "power-of-two": {"b"}}
    spec = scoring("least-request", picker=Picked(name="random"))
    assert {ids(list(build(spec, parts(seed)).rank(ask(), fleet)))[0] for seed in range(20)} == {"a", "b"}


class Fails(Section, frozen=True):
    """Somebody else's plugin."""

    gives: bool = False

    def scorer(self, parts: Parts) -> object:
        if not self.gives:
            raise OSError("no such thing")
        return None


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({}, 'plugin "mine" made no scorer: OSError: no such thing'),
        ({"gives": True}, 'plugin "mine" made no scorer but None'),
    ],
)
def test_a_plugin_that_cannot_be_built_is_named_before_a_configuration_is_in_force(
    monkeypatch: pytest.MonkeyPatch, args: dict[str, bool], message: str
) -> None:
    monkeypatch.setattr(registry, "BUILT_IN", {**registry.BUILT_IN, "fails": Fails})
    spec = scoring("mine", plugin_config=(PluginConfig(name="mine", type="fails", args=args),))
    with pytest.raises(ValueError, match=message):
        build(spec, parts())
    config = f"pluginConfig: [{{name: mine, type: fails, args: {json.dumps(args)}}}]"
    profile = f"{{{config}, plugins: {{Score: {{enabled: [mine]}}}}}}"
    head = "apiVersion: infer-gateway.dev/v1alpha1\nkind: GatewayConfiguration\n"
    text = f"{head}scheduler: {{profiles: {{p: {profile}}}}}"
    with pytest.raises(ConfigError) as caught:
        load(parse("a.yaml", text.encode()))
    assert caught.value.problems == [f"a.yaml, document 1 (GatewayConfiguration): $.scheduler.profiles.p: {message}"]


def test_a_plugin_learns_one_pool() -> None:
    spec = scoring("prefix-cache")
    one, other = build(spec, parts()), build(spec, parts())
    fleet, of = [Fake("a"), Fake("b")], ask("x" * 640)
    one.placed(of, fleet[0])
    assert list(one.scorers[0].scorer(of, fleet)) == [1.0, 0.0]
    assert list(other.scorers[0].scorer(of, fleet)) == [0.0, 0.0]


def test_a_profile_is_kept_while_its_configuration_stays() -> None:
    rng = random.Random(1)
    scheduler = Scheduler(profiles={"p": scoring("least-request"), "q": scoring("random")})
    first = for_pool(scheduler, POOL, rng)
    assert for_pool(Scheduler(profiles={"p": scoring("random")}), POOL, rng, first) is first
    assert for_pool(Scheduler(picker="random"), POOL, rng, first) is not first
    sticky = SessionSticky(sources=(StickySource(type="Header", name="x"),))
    stuck = for_pool(scheduler, PoolSpec("default/a", "vllm", sticky=sticky), rng, first)
    assert stuck is not first
    assert stuck.sessions is not None
    named = for_pool(scheduler, PoolSpec("default/a", "vllm", profile="p"), rng, first)
    assert (named.name, [part.name for part in named.scorers]) == ("p", ["least-request"])
