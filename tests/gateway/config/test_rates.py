"""What routes limit, and where replicas meet when routes say so."""

from __future__ import annotations

import pytest

from gateway.config.document import ConfigError, parse
from gateway.config.load import load
from gateway.config.snapshot import RouteLimit, Snapshot

SERVER = """
apiVersion: networking.serving.volcano.sh/v1alpha1
kind: ModelServer
metadata: {name: a}
spec: {inferenceEngine: vLLM, endpoints: ['http://a:8000']}
"""


def route(name: str, limit: str, head: str = "modelName: m") -> str:
    return f"""---
apiVersion: networking.serving.volcano.sh/v1alpha1
kind: ModelRoute
metadata: {{name: {name}}}
spec: {{{head}, rateLimit: {{{limit}}}, rules: [{{targetModels: [{{modelServerName: a}}]}}]}}
"""


def state(url: str) -> str:
    return (
        f"---\napiVersion: infer-gateway.dev/v1alpha1\nkind: GatewayConfiguration\nstate: {{redis: {{url: '{url}'}}}}\n"
    )


def loaded(*documents: str) -> Snapshot:
    return load(parse("g.yaml", (SERVER + "".join(documents)).encode()))


def redis(address: str) -> str:
    return f"inputTokensPerUnit: 5, global: {{redis: {{address: '{address}'}}}}"


def url(snapshot: Snapshot) -> str | None:
    chosen = snapshot.settings.state.redis
    return None if chosen is None else chosen.url.reveal()


def test_a_route_limits_tokens_of_its_model() -> None:
    snapshot = loaded(
        route("r", "inputTokensPerUnit: 5, unit: month"), route("l", "outputTokensPerUnit: 7", "loraAdapters: [x]")
    )
    assert snapshot.route_limits == (
        RouteLimit("default/r", "m", "month", input_tokens=5),
        RouteLimit("default/l", "", "second", output_tokens=7),
    )
    assert (snapshot.warnings, snapshot.inert, url(snapshot)) == ((), (), None)
    assert snapshot.public()["routeLimits"][0]["input_tokens"] == 5


def test_a_limit_of_nothing_is_told() -> None:
    snapshot = loaded(route("r", "unit: hour"))
    assert snapshot.route_limits == ()
    assert snapshot.warnings == (
        "g.yaml, document 2 (ModelRoute/r): $.spec.rateLimit: limits nothing: no tokens are given",
    )


def test_the_first_redis_that_a_route_names_is_where_replicas_meet() -> None:
    snapshot = loaded(
        route("r", redis("redis:6379")), route("s", redis("u:secret@other")), route("t", redis("redis:6379"))
    )
    assert url(snapshot) == "redis://redis:6379"
    (warning,) = snapshot.warnings
    assert warning == (
        "g.yaml, document 3 (ModelRoute/s): $.spec.rateLimit.global.redis.address: "
        "other is not used: redis:6379, given by ModelRoute default/r, is where replicas meet"
    )


def test_what_the_settings_say_goes_before_what_routes_say() -> None:
    snapshot = loaded(route("r", redis("other:6379")), route("s", redis("redis:1")), state("redis://redis:1"))
    assert url(snapshot) == "redis://redis:1"
    (warning,) = snapshot.warnings
    assert warning.endswith(": other:6379 is not used: state.redis is where replicas meet")


def test_a_whole_url_is_taken_as_it_is() -> None:
    assert url(loaded(route("r", redis("rediss://redis:6380/2")))) == "rediss://redis:6380/2"


def test_an_address_that_is_none_is_refused_without_being_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(route("r", redis("https://u:secret@redis")))
    (problem,) = caught.value.problems
    assert problem.startswith(
        "g.yaml, document 2 (ModelRoute/r): $.spec.rateLimit.global.redis.address: expected a URL"
    )
    assert "secret" not in problem
