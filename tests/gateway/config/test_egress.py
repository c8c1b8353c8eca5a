"""Where a configuration may lead: what is told as it is read."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest

from gateway.config.document import ConfigError, parse
from gateway.config.egress import allowed_backends, loops
from gateway.config.load import load
from gateway.types import Endpoint

API = "networking.serving.volcano.sh/v1alpha1"
HOST = "169.254.169.254"


def problems(*documents: Any) -> list[str]:
    text = "\n---\n".join(json.dumps(document) for document in documents)
    try:
        load(parse("g.yaml", text.encode(), ""), lambda name: b"")
    except ConfigError as error:
        return list(error.problems)
    return []


def settings(**sections: Any) -> Any:
    return {"apiVersion": "infer-gateway.dev/v1alpha1", "kind": "GatewayConfiguration", **sections}


def resource(kind: str, **spec: Any) -> Any:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": "a"}, "spec": spec}


LEADING = [
    (settings(auth={"issuer": "i", "jwksUri": f"https://{HOST}/k"}), "$.auth.jwksUri"),
    (settings(auth={"issuers": [{"issuer": "i", "jwksUri": "https://[fe80::1]/k"}]}), "$.auth.issuers[0].jwksUri"),
    (
        settings(auth={"oauth": {"introspectionUrl": f"https://{HOST}/", "clientId": "c", "clientSecretFile": "f"}}),
        "$.auth.oauth.introspectionUrl",
    ),
    (settings(state={"redis": {"url": f"redis://:word@{HOST}"}}), "$.state.redis.url"),
    (settings(state={"redis": {"url": f"redis+sentinel://a,{HOST}/s"}}), "$.state.redis.url"),
    (settings(tracing={"endpoint": f"http://{HOST}:4318"}), "$.tracing.endpoint"),
    (
        resource("ModelServer", inferenceEngine="vLLM", endpoints=["http://a", "http://0xa9fea9fe"]),
        "$.spec.endpoints[1]",
    ),
    (resource("ExternalModelProvider", baseURL="https://metadata.google.internal/v1"), "$.spec.baseURL"),
]


@pytest.mark.parametrize(("document", "path"), LEADING)
def test_a_metadata_address_is_refused_from_files_too(document: Any, path: str) -> None:
    (problem,) = problems(document)
    assert f": {path}: " in problem
    assert problem.endswith("; where that is meant, name its network in egress.allow")
    assert "word" not in problem


@pytest.mark.parametrize(("document", "path"), LEADING)
def test_unless_it_is_allowed(document: Any, path: str) -> None:
    assert not problems(document, settings(egress={"allow": ["169.254.0.0/16", "fe80::/10"]}))


def test_of_a_redis_that_a_route_names() -> None:
    limit = {"inputTokensPerUnit": 1, "global": {"redis": {"address": f"{HOST}:6379"}}}
    server = resource("ModelServer", inferenceEngine="vLLM", endpoints=["http://a"])
    rules = [{"targetModels": [{"modelServerName": "a"}]}]
    route = resource("ModelRoute", modelName="m", rules=rules, rateLimit=limit)
    (problem,) = problems(server, route)
    assert "$.spec.rateLimit.global.redis.address: not used: 169.254.169.254: link-local" in problem
    assert not problems(server, route, settings(egress={"allow": [f"{HOST}/32"]}))


def test_what_is_no_network() -> None:
    (problem,) = problems(settings(egress={"allow": ["10.0.0.0/8", "169.254.10.1/24"]}))
    assert "$.egress.allow[1]: expected a network such as 169.254.10.0/24" in problem


def test_engines_of_the_command_line() -> None:
    there, here = Endpoint("vllm", "http", "127.1", 80), Endpoint("vllm", "http", "169.254.43518", 80)
    assert allowed_backends([there], ()) == (there,)
    with pytest.raises(ConfigError, match=r"--backend vllm=http://169\.254\.43518:80: link-local"):
        allowed_backends([there, here], ())
    assert allowed_backends([here], (ipaddress.ip_network("169.254.169.254/32"),)) == (here,)


@pytest.mark.parametrize(
    ("listening", "host", "same"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.1", True),
        ("127.0.0.1", "localhost", True),
        ("0.0.0.0", "localhost", True),
        ("0.0.0.0", "127.0.0.5", True),
        ("::", "::1", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("10.0.0.1", "127.0.0.1", False),
        ("0.0.0.0", "10.0.0.1", False),
        ("127.0.0.1", "engine", False),
    ],
)
def test_an_endpoint_that_is_the_gateway_itself(listening: str, host: str, same: bool) -> None:
    listeners = {"grpc": ("9.9.9.9", 50051), "http": (listening, 8080)}
    assert loops(Endpoint("vllm", "http", host, 8080), listeners) == ("http" if same else "")
    assert not loops(Endpoint("vllm", "http", host, 8081), listeners)


def test_a_file_is_told_of_it_where_it_says_where_it_listens() -> None:
    server = resource(
        "ModelServer", inferenceEngine="vLLM", endpoints=["http://10.0.0.1:8080", "http://127.0.0.1:8080"]
    )
    where = settings(listeners={"http": {"address": "127.0.0.1:8080"}})
    text = f"{json.dumps(where)}\n---\n{json.dumps(server)}"
    warnings = load(parse("g.yaml", text.encode(), ""), lambda name: b"").warnings
    (warning,) = (each for each in warnings if "own http listener" in each)
    assert "127.0.0.1:8080 is this gateway's own http listener" in warning
    assert not any("listener" in each for each in load(parse("g.yaml", json.dumps(server).encode(), "")).warnings)
