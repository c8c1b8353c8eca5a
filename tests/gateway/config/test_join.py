"""Files and a cluster together."""

from __future__ import annotations

import msgspec

from gateway.config.cluster import Part
from gateway.config.decode import Hidden
from gateway.config.join import Joining
from gateway.config.settings import Settings
from gateway.config.sharing import Redis, State
from gateway.config.snapshot import PoolSpec, RouteLimit, Snapshot
from gateway.entrance import Entrances
from gateway.route import Route, RouteTable, Rule, Share


def route(name: str, pool: str, model: str = "m") -> Route:
    return Route(name, model, rules=(Rule((Share(pool),)),), age=(0.0, 0, name))


FILES = Snapshot(
    routes=RouteTable([route("d/f", "d/f")]),
    pools=(PoolSpec("d/f", "vllm"),),
    route_limits=(RouteLimit("d/f", "m", "second", 1),),
    warnings=("w",),
    files=("f", "g"),
)
PART = Part(
    pools=(PoolSpec("x/a", "sglang"),),
    routes=(route("x/r", "x/a", "n"),),
    route_limits=(RouteLimit("x/r", "n", "second", 2),),
    warnings=("v",),
    files=("g", "h"),
)


def test_both_serve() -> None:
    made = Joining().joined(FILES, PART)
    assert [pool.name for pool in made.pools] == ["d/f", "x/a"]
    assert [made.routes.match(model, "/", (), 0.0).pool for model in "mn"] == ["d/f", "x/a"]
    assert [limit.route for limit in made.route_limits] == ["d/f", "x/r"]
    assert (made.warnings, made.files) == (("w", "v"), ("f", "g", "h"))
    assert made.settings is FILES.settings


def test_entrances_are_the_clusters() -> None:
    made = Entrances()
    assert Joining().joined(FILES, msgspec.structs.replace(PART, more=(None, made))).entrances is made
    assert Joining().joined(FILES, PART).entrances is None


def test_without_a_cluster_it_is_what_the_files_say() -> None:
    made = Joining().joined(FILES, Part())
    assert made == FILES
    assert made.routes is FILES.routes


def test_what_files_have_serves() -> None:
    part = Part(
        pools=(PoolSpec("d/f", "sglang"), PoolSpec("x/a", "sglang"), PoolSpec("x/a", "tgi")),
        routes=(route("d/f", "x/a"), route("x/r", "d/f", "n")),
    )
    made = Joining().joined(FILES, part)
    assert [(pool.name, pool.engine) for pool in made.pools] == [("d/f", "vllm"), ("x/a", "sglang")]
    assert [made.routes.match(model, "/", (), 0.0).pool for model in "mn"] == ["d/f", "d/f"]
    assert made.warnings == (
        "w",
        "pool d/f of the cluster: not used: files have one of that name",
        "pool x/a of the cluster: not used: there is another one of that name",
        "ModelRoute d/f of the cluster: not used: files have one of that name",
    )


def test_a_table_is_made_when_routes_change() -> None:
    joining = Joining()
    first = joining.joined(FILES, PART)
    moved = msgspec.structs.replace(PART, pools=())
    assert joining.joined(FILES, moved).routes is first.routes
    other = msgspec.structs.replace(PART, routes=())
    assert joining.joined(FILES, other).routes is FILES.routes
    fewer = Snapshot(pools=FILES.pools)
    assert "m" not in joining.joined(fewer, PART).routes


def test_replicas_meet_where_the_cluster_says_unless_settings_do() -> None:
    joining = Joining()
    there, own = (Redis(url=Hidden(f"redis://{name}:1")) for name in ("there", "own"))
    part = msgspec.structs.replace(PART, redis=there)
    made = joining.joined(FILES, part)
    assert made.settings.state.redis == there
    assert joining.joined(FILES, part).settings is made.settings
    assert joining.joined(FILES, PART).settings is FILES.settings
    settled = msgspec.structs.replace(FILES, settings=Settings(state=State(redis=own)))
    assert joining.joined(settled, part).settings.state.redis == own
