"""Expressions that whoever writes routes has put there, and requests made for them: nobody else waits."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from gateway.config.gateway_api import CONTROLLER
from tests.faults.stage import CALM, unharmed
from tests.kube.cluster import (
    GATEWAYS,
    POOLS,
    VOLCANO,
    Cluster,
    Tree,
    gateway_class,
    inference_pool,
    model_route,
    model_server,
    thing,
)
from tests.kube.fleet import following, pods, serves, shared_port
from tests.process import InferGateway, eventually
from tests.whole import raw
from tests.whole.fleet import CHAT

ASK = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
LONG = 60_000
HOSTILE = {
    "repeats of repeats": (r"(?:a+)+b", "a"),
    "one thing or the same": (r"(a|a|aa)*b", "a"),
    "anything, often": (r".*a.*a.*a.*a.*b", "a"),
    "a repeat that may begin anywhere": (r"a*a*b", "a"),
    "many that may be there": ("a?" * 30 + "a" * 30 + "b", "a"),
    "many states": (r"(?:a|c)*a[ac]{900}b", "ac"),
    "words": (r"(?:\w+[. ]?)*!", "a"),
}
"""An expression, and what a text that makes it slow consists of."""
TOO_MUCH = (r"(?=a)b", r"(a)\1", "(?:a?){1000}(?:b?){1000}", r"(\pL{10}){10}", r"a++")


def http_route(name: str, *matches: Tree) -> Tree:
    pool = {"group": POOLS.partition("/")[0], "kind": "InferencePool", "name": "pool"}
    rules = [{"matches": list(matches), "backendRefs": [pool]}]
    return thing(
        GATEWAYS, "HTTPRoute", name, {"parentRefs": [{"name": "gate"}], "hostnames": [f"{name}.x"], "rules": rules}
    )


def matched(name: str, **match: object) -> Tree:
    target = {"targetModels": [{"modelServerName": "engines"}]}
    return thing(VOLCANO, "ModelRoute", name, {"modelName": name, "rules": [{"modelMatch": match, **target}]})


def expression(value: str, **more: str) -> Tree:
    return {"type": "RegularExpression", "value": value, **more}


def routes() -> Iterator[Tree]:
    for index, (pattern, _) in enumerate(HOSTILE.values()):
        yield http_route(f"path-{index}", {"path": expression(f"/{pattern}")})
        yield http_route(f"header-{index}", {"headers": [expression(pattern, name="x-evil")]})
        yield http_route(f"query-{index}", {"queryParams": [expression(pattern, name="evil")]})
        yield matched(f"named-{index}", headers={"x-evil": {"regex": pattern}})
        yield matched(f"called-{index}", uri={"regex": pattern})


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    port = shared_port()
    with Cluster() as cluster, pods(cluster, "engines", "127.0.3.1", "127.0.3.2", port=port):
        cluster.create(gateway_class("ours", CONTROLLER), inference_pool("pool", {"app": "engines"}, port))
        listener = {"name": "http", "port": 80, "protocol": "HTTP"}
        cluster.create(thing(GATEWAYS, "Gateway", "gate", {"gatewayClassName": "ours", "listeners": [listener]}))
        cluster.create(model_server("engines", {"app": "engines"}, port, model="m"))
        cluster.create(model_route(CALM, CALM, "engines"), *routes())
        yield cluster


@pytest.fixture(scope="module")
def gateway(cluster: Cluster) -> Iterator[InferGateway]:
    last = len(HOSTILE) - 1
    with following(cluster) as running:
        assert serves(running, CALM)
        assert eventually(lambda: ask(running, CHAT, f"header-{last}.x", evil="a.a!") == 200)
        assert eventually(lambda: ask(running, CHAT, f"query-{last}.x", query="a.a!") == 200)
        assert eventually(lambda: ask(running, CHAT, evil="a.a!", model=f"named-{last}") == 200)
        yield running


def ask(
    gateway: InferGateway, path: str, host: str = "localhost", *, query: str = "", evil: str = "", model: str = "m"
) -> int:
    """The status. ``evil``: of the header; ``query``: of the parameter."""
    body = json.dumps({**ASK, "model": model})
    lines = [
        f"POST {path}{f'?evil={query}' if query else ''} HTTP/1.1",
        f"host: {host}",
        f"content-length: {len(body)}",
        "connection: close",
        *([f"x-evil: {evil}"] if evil else ()),
    ]
    answer = raw.exchange(gateway.address, "\r\n".join([*lines, "", body]).encode())
    assert answer is not None
    return answer.status


@pytest.mark.parametrize("name", HOSTILE)
def test_no_text_makes_an_expression_slow(gateway: InferGateway, name: str) -> None:
    index = list(HOSTILE).index(name)
    _, part = HOSTILE[name]
    long = part * (LONG // len(part)) + "@"
    with unharmed(gateway):
        assert ask(gateway, f"/{long}", f"path-{index}.x") == 404
        assert ask(gateway, CHAT, f"query-{index}.x", query=long) == 404
        assert ask(gateway, CHAT, f"header-{index}.x", evil=long) == 404
        assert ask(gateway, CHAT, evil=long, model=f"named-{index}") == 404
        assert ask(gateway, f"{CHAT}/{long}", model=f"called-{index}") == 404


def test_what_is_too_much_is_refused_with_its_place(cluster: Cluster, gateway: InferGateway) -> None:
    wrong = [http_route(f"wrong-{n}", {"path": expression(pattern)}) for n, pattern in enumerate(TOO_MUCH)]
    with unharmed(gateway, spare=3):  # connections to the API server
        cluster.create(*wrong)
        for tree in wrong:
            assert eventually(lambda tree=tree: "$.spec.rules[0].matches[0].path.value: " in told(cluster, tree))
    cluster.delete(*wrong)


def told(cluster: Cluster, tree: Tree) -> str:
    parents = cluster.get(tree).get("status", {}).get("parents", [])
    return " ".join(said["message"] for each in parents for said in each["conditions"] if said["type"] == "Accepted")
