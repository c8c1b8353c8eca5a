"""Documents → snapshot: every rule of the resources, and how a broken one is told."""
# ruff: noqa: E501 - messages are quoted whole

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.decode import Duration, Limit
from gateway.config.document import ConfigError, Document, parse
from gateway.config.envelope import KINDS
from gateway.config.load import _FILE_MEMBERS, load, no_files
from gateway.config.resources import ENGINES
from gateway.config.settings import Ejection, HealthSettings, Settings
from gateway.config.snapshot import Policy, PoolSpec, Snapshot
from gateway.types import Endpoint

VOLCANO = "networking.serving.volcano.sh/v1alpha1"
MATRIXINFER = "networking.matrixinfer.ai/v1alpha1"


def loaded(text: str, files: dict[str, bytes] | None = None, folder: str = "", **options: Any) -> Snapshot:
    content = files or {}
    return load(parse("g.yaml", text.encode(), folder), lambda name: content.get(name) or no_files(name), **options)


def problems(text: str, files: dict[str, bytes] | None = None) -> list[str]:
    """What is wrong with ``text``, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        loaded(text, files)
    assert all(line.startswith("g.yaml, ") for line in caught.value.problems)
    return [line.removeprefix("g.yaml, ") for line in caught.value.problems]


def resource(kind: str, name: str, spec: str, version: str = VOLCANO, more: str = "") -> str:
    return f"---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}{more}}}\nspec: {spec}\n"


def server(name: str = "a", spec: str = "") -> str:
    return resource("ModelServer", name, f"{{inferenceEngine: vLLM, endpoints: ['http://{name}:8000'], {spec}}}")


def provider(spec: str, name: str = "p") -> str:
    return resource("ExternalModelProvider", name, f"{{baseURL: 'https://api.example.com', {spec}}}")


def route(rules: str = "[{targetModels: [{modelServerName: a}]}]", head: str = "modelName: m", name: str = "r") -> str:
    return resource("ModelRoute", name, f"{{{head}, rules: {rules}}}")


def targets(*parts: str) -> str:
    return f"[{{targetModels: [{', '.join(parts)}]}}]"


def configuration(text: str) -> str:
    return f"---\napiVersion: infer-gateway.dev/v1alpha1\nkind: GatewayConfiguration\n{text}\n"


def pool(snapshot: Snapshot, name: str = "default/a") -> PoolSpec:
    return next(pool for pool in snapshot.pools if pool.name == name)


# --- the envelope -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("just text", "document 1: $: expected an object, got string"),
        ("a: 1", "document 1: $.kind: expected a string, got null"),
        ("kind: ModelRoute", "document 1 (ModelRoute): $.apiVersion: expected a string, got null"),
        (
            "{apiVersion: v2, kind: ModelRoute, metadata: {name: x}}",
            "document 1 (ModelRoute/x): $.apiVersion: ModelRoute is read from networking.serving.volcano.sh/v1alpha1 or "
            'networking.matrixinfer.ai/v1alpha1, not "v2"',
        ),
        (
            f"{{apiVersion: {VOLCANO}, kind: ModelRout, metadata: {{name: x}}}}",
            f'document 1 (ModelRout/x): $.kind: no kind "ModelRout" in {VOLCANO}; did you mean "ModelRoute"?',
        ),
        (server() + "sepc: {}", 'document 1 (ModelServer/a): $.sepc: unknown field; did you mean "spec"?'),
        (
            f"{{apiVersion: {VOLCANO}, kind: ModelServer, spec: {{inferenceEngine: vllm, endpoints: ['http://a']}}}}",
            'document 1 (ModelServer): $.metadata: missing required field "name"',
        ),
        (
            resource("ModelServer", "x", "{inferenceEngine: vllm, endpoints: ['http://a']}", more=", labls: {}"),
            'document 1 (ModelServer/x): $.metadata.labls: unknown field; did you mean "labels"?',
        ),
        (
            resource(
                "ModelServer", "x", "{inferenceEngine: vllm, endpoints: ['http://a']}", more=", creationTimestamp: x"
            ),
            "document 1 (ModelServer/x): $.metadata.creationTimestamp: expected an RFC 3339 time",
        ),
    ],
)
def test_envelope(text: str, message: str) -> None:
    assert problems(text) == [message]


def test_what_kubernetes_writes_into_objects_is_accepted() -> None:
    snapshot = loaded(
        f"""
apiVersion: {VOLCANO}
kind: ModelServer
metadata:
  name: a
  namespace: prod
  uid: 0b5b
  generation: 3
  resourceVersion: "991"
  creationTimestamp: "2026-01-02T03:04:05Z"
  labels: {{app: x}}
  annotations: {{kubectl.kubernetes.io/last-applied-configuration: "{{}}"}}
  managedFields: [{{manager: kubectl}}]
  ownerReferences: []
  finalizers: null
spec: {{inferenceEngine: SGLang, endpoints: ["http://a:30000"]}}
status: {{anything: [1, 2]}}
"""
    )
    assert snapshot.pools[0].name == "prod/a"


def test_other_kinds_are_ignored_aloud() -> None:
    snapshot = loaded("{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {}}")
    assert snapshot.warnings == (
        "g.yaml, document 1 (Deployment/x): ignored: apps/v1 Deployment says nothing to a gateway",
    )


def test_every_problem_of_every_document_is_reported() -> None:
    found = problems(
        server(spec="inferencEngine: x, model: 5")
        + route(
            "[{modelMatch: {headerz: 1, uri: {regex: '('}}, "
            "targetModels: [{modelServerName: a, weight: 101}, {modelServerName: b}]}]"
        )
        + configuration("timeouts: {request: 5}\nlisteners: {http: {address: x}}")
    )
    assert found == [
        'document 1 (ModelServer/a): $.spec.inferencEngine: unknown field; did you mean "inferenceEngine"?',
        "document 1 (ModelServer/a): $.spec.model: expected str, got int",
        'document 2 (ModelRoute/r): $.spec.rules[0].modelMatch.headerz: unknown field; did you mean "headers"?',
        "document 2 (ModelRoute/r): $.spec.rules[0].modelMatch.uri.regex: not a regular expression of RE2: "
        "missing ): (",
        "document 2 (ModelRoute/r): $.spec.rules[0].targetModels[0].weight: expected int <= 100",
        "document 3 (GatewayConfiguration): $.listeners.http.address: expected an address such as \"127.0.0.1:8080\", got 'x'",
        'document 3 (GatewayConfiguration): $.timeouts.request: expected a duration such as "30s", "100ms" or "1h30m"',
    ]


def test_a_resource_defined_twice() -> None:
    assert problems(server() + server()) == [
        "document 2 (ModelServer/a): $.metadata.name: also defined in g.yaml, document 1"
    ]


def test_the_same_name_in_two_namespaces_is_two_resources() -> None:
    more = resource("ModelServer", "a", "{inferenceEngine: tgi, endpoints: ['http://b']}", more=", namespace: other")
    assert [pool.name for pool in loaded(server() + more).pools] == ["default/a", "other/a"]


# --- ModelRoute -------------------------------------------------------------------------------------------------------

A, B = "modelServerName: a", "modelServerName: b"


@pytest.mark.parametrize(
    ("rules", "head", "message"),
    [
        (targets(f"{{{A}}}"), "rateLimit: null", "$.spec: modelName or loraAdapters is needed"),
        (targets(f"{{{A}}}"), "loraAdapters: ['']", "$.spec.loraAdapters[0]: expected str of length >= 1"),
        (
            targets(f"{{{A}}}"),
            f"loraAdapters: [{', '.join('abcdefghijk')}]",
            "$.spec.loraAdapters: at most 10 entries, got 11",
        ),
        ("[]", "modelName: m", "$.spec.rules: must not be empty"),
        ("[{targetModels: []}]", "modelName: m", "$.spec.rules[0].targetModels: must not be empty"),
        ("[{name: x}]", "modelName: m", '$.spec.rules[0]: missing required field "targetModels"'),
        (
            "[" + ", ".join(["{targetModels: [{modelServerName: a}]}"] * 17) + "]",
            "modelName: m",
            "$.spec.rules: at most 16 entries, got 17",
        ),
        (
            targets("{weight: 1}"),
            "modelName: m",
            "$.spec.rules[0].targetModels[0]: exactly one of modelServerName and externalModelProviderName is needed",
        ),
        (
            targets(f"{{{A}, externalModelProviderName: p}}"),
            "modelName: m",
            "$.spec.rules[0].targetModels[0]: exactly one of modelServerName and externalModelProviderName is needed",
        ),
        (
            targets(f"{{{A}, weight: 0}}", f"{{{B}, weight: 0}}"),
            "modelName: m",
            "$.spec.rules[0].targetModels: the weights add up to 0: nothing would be sent anywhere",
        ),
        (
            targets(f"{{{A}, weight: 10}}", f"{{{B}}}"),
            "modelName: m",
            "$.spec.rules[0].targetModels[1]: weight missing: give every target of a rule a weight, or none of them",
        ),
        (targets(f"{{{A}, weight: -1}}"), "modelName: m", "$.spec.rules[0].targetModels[0].weight: expected int >= 0"),
        (
            targets("{modelServerName: aa}"),
            "modelName: m",
            '$.spec.rules[0].targetModels[0].modelServerName: no ModelServer "aa" in namespace "default"; did you mean "a"?',
        ),
        (
            targets("{externalModelProviderName: a}"),
            "modelName: m",
            '$.spec.rules[0].targetModels[0].externalModelProviderName: no ExternalModelProvider "a" in namespace "default"',
        ),
        (
            targets("{externalModelProviderName: p}"),
            "loraAdapters: [x]",
            "$.spec.rules[0].targetModels[0].externalModelProviderName: a route with loraAdapters cannot lead to an "
            "external provider",
        ),
        (
            "[{modelMatch: {headers: {x: {regex: '(?=a)b'}}}, targetModels: [{modelServerName: a}]}]",
            "modelName: m",
            "$.spec.rules[0].modelMatch.headers.x.regex: not a regular expression of RE2: invalid perl operator: (?=",
        ),
        (
            "[{stickyBy: {header: h, user: true}, targetModels: [{modelServerName: a}]}]",
            "modelName: m",
            "$.spec.rules[0].stickyBy: exactly one of header, cookie and user is needed",
        ),
        (
            targets(f"{{{A}}}"),
            "modelName: m, rateLimit: {unit: week}",
            '$.spec.rateLimit.unit: expected "second" or "minute" or "hour" or "day" or "month", got "week"',
        ),
        (
            targets(f"{{{A}}}"),
            "modelName: m, rateLimit: {inputTokensPerUnit: 0}",
            "$.spec.rateLimit.inputTokensPerUnit: expected int >= 1",
        ),
    ],
)
def test_route_refused(rules: str, head: str, message: str) -> None:
    assert problems(server() + server("b") + route(rules, head)) == [f"document 3 (ModelRoute/r): {message}"]


def test_targets_are_looked_up_in_the_routes_namespace() -> None:
    other = resource("ModelServer", "a", "{inferenceEngine: tgi, endpoints: ['http://b']}", more=", namespace: other")
    assert 'no ModelServer "a" in namespace "default"' in problems(other + route())[0]


def test_a_broken_target_is_not_reported_as_missing_too() -> None:
    assert len(problems(server(spec="modl: x") + route())) == 1


def test_routes_match_as_configured() -> None:
    table = loaded(
        server(spec="model: up")
        + server("b")
        + route(
            "[{name: vip, modelMatch: {headers: {User-Type: {exact: premium}}, uri: {prefix: /v1/}, body: {model: m}}, "
            "targetModels: [{modelServerName: b}]}, "
            "{targetModels: [{modelServerName: a, weight: 90}, {modelServerName: b, weight: 10}]}]",
            "modelName: m, loraAdapters: [tuned]",
        )
    ).routes
    vip = table.match("m", "/v1/x", ((b"user-type", b"premium"),), 0.0)
    assert (vip.pool, vip.model, vip.route, vip.rule) == ("default/b", None, "default/r", "vip")
    plain = table.match("m", "/v1/x", (), 0.89)
    assert (plain.pool, plain.model, plain.rule) == ("default/a", "up", "1")
    assert [t.pool for t in plain.fallbacks] == ["default/b"]
    assert table.match("m", "/v1/x", (), 0.91).pool == "default/b"
    assert table.match("tuned", "/v1/x", (), 0.0).model is None
    assert [(card.id, card.parent) for card in table.models()] == [("m", None), ("tuned", "m")]


def test_the_oldest_route_wins() -> None:
    def dated(name: str, when: str) -> str:
        spec = f"{{modelName: m, rules: [{{targetModels: [{{modelServerName: {name}}}]}}]}}"
        return resource("ModelRoute", name, spec, more=f", creationTimestamp: '{when}'")

    text = server() + server("b") + dated("a", "2026-02-01T00:00:00Z") + dated("b", "2026-01-31T23:00:00-05:00")
    assert loaded(text).routes.match("m", "/", (), 0).pool == "default/a"
    text = server() + server("b") + dated("a", "2026-02-01T00:00:00Z") + dated("b", "2026-01-31T23:59:59Z")
    assert loaded(text).routes.match("m", "/", (), 0).pool == "default/b"


def test_a_rule_that_is_never_reached_is_pointed_out() -> None:
    rule = "{targetModels: [{modelServerName: a}]}"
    (warning,) = loaded(server() + route(f"[{rule}, {rule}]")).warnings
    assert warning.endswith("$.spec.rules[1]: never reached: rules[0] matches every request")


# --- ModelServer ------------------------------------------------------------------------------------------------------


def test_endpoints_may_have_labels() -> None:
    listed = "['http://a', {url: 'http://b/v1', labels: {gpu: h100, zone: x}}, {url: 'http://c'}]"
    snapshot = loaded(
        resource("ModelServer", "a", f"{{inferenceEngine: vllm, endpoints: {listed}, headers: {{x: y}}}}")
    )
    assert [(endpoint.id, endpoint.labels) for endpoint in pool(snapshot).endpoints] == [
        ("a:80", ()),
        ("b:80", (("gpu", "h100"), ("zone", "x"))),
        ("c:80", ()),
    ]
    assert {endpoint.headers for endpoint in pool(snapshot).endpoints} == {((b"x", b"y"),)}


@pytest.mark.parametrize("engine", [*ENGINES, "vLLM", "SGLang", "TGI", "OpenAI"])
def test_engines_in_any_case(engine: str) -> None:
    snapshot = loaded(resource("ModelServer", "a", f"{{inferenceEngine: {engine}, endpoints: ['http://a:1']}}"))
    assert pool(snapshot).engine == engine.lower()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{endpoints: ['http://a']}", '$.spec: missing required field "inferenceEngine"'),
        ("{inferenceEngine: vllm}", "$.spec: workloadSelector or endpoints is needed"),
        ("{inferenceEngine: vllm, endpoints: []}", "$.spec.endpoints: must not be empty"),
        (
            "{inferenceEngine: vllm, endpoints: ['a:8000']}",
            '$.spec.endpoints[0]: expected a URL such as "http://host:8000"',
        ),
        (
            "{inferenceEngine: vllm, endpoints: ['http://u:pw@a']}",
            "$.spec.endpoints[0]: no credentials in a URL, please: they would show in logs",
        ),
        (
            "{inferenceEngine: vllm, endpoints: ['http://a/?x=1']}",
            "$.spec.endpoints[0]: neither query nor fragment may follow a base URL",
        ),
        ("{inferenceEngine: vllm, endpoints: ['http://a:99999']}", "$.spec.endpoints[0]: not a URL"),
        (
            "{inferenceEngine: vllm, endpoints: ['http://a', 'http://a:80/v1']}",
            "$.spec.endpoints[1]: a:80 is listed twice",
        ),
        (
            "{inferenceEngine: vllm, endpoints: [{url: 'http://a'}, {url: 'http://a:80'}]}",
            "$.spec.endpoints[1].url: a:80 is listed twice",
        ),
        (
            "{inferenceEngine: vllm, endpoints: [{url: 'a'}]}",
            '$.spec.endpoints[0].url: expected a URL such as "http://host:8000"',
        ),
        (
            "{inferenceEngine: vllm, endpoints: [{url: 'http://a', labels: {a: 1}}]}",
            "$.spec.endpoints[0].labels.a: expected str, got int",
        ),
        (
            "{inferenceEngine: vllm, workloadSelector: {matchLabels: {}}}",
            "$.spec.workloadSelector.matchLabels: must not be empty",
        ),
        (
            "{inferenceEngine: vllm, workloadSelector: {matchLabels: {a: b}, pdGroup: {groupKey: g, prefillLabels: {a: b}}}}",
            '$.spec.workloadSelector.pdGroup: missing required field "decodeLabels"',
        ),
        (
            "{inferenceEngine: vllm, endpoints: ['http://a'], workloadPort: {port: 0}}",
            "$.spec.workloadPort.port: expected int >= 1",
        ),
        (
            "{inferenceEngine: vllm, endpoints: ['http://a'], workloadPort: {port: 1, protocol: h2c}}",
            '$.spec.workloadPort.protocol: expected "http" or "https", got "h2c"',
        ),
        (
            "{inferenceEngine: vllm, endpoints: ['http://a'], trafficPolicy: {timeout: 0s}}",
            "$.spec.trafficPolicy.timeout: must be above 0",
        ),
        (
            "{inferenceEngine: vllm, endpoints: ['http://a'], trafficPolicy: {sessionSticky: {sources: []}}}",
            "$.spec.trafficPolicy.sessionSticky.sources: must not be empty",
        ),
        (
            "{inferenceEngine: vllm, endpoints: ['http://a'], kvConnector: {type: smoke}}",
            '$.spec.kvConnector.type: expected "http" or "lmcache" or "nixl" or "mooncake", got "smoke"',
        ),
    ],
)
def test_server_refused(spec: str, message: str) -> None:
    assert problems(resource("ModelServer", "a", spec)) == [f"document 1 (ModelServer/a): {message}"]


@pytest.mark.parametrize(
    ("url", "extra", "endpoint"),
    [
        ("http://a:8000", "", Endpoint("vllm", "http", "a", 8000)),
        ("http://a:8000/", "", Endpoint("vllm", "http", "a", 8000)),
        ("http://a:8000/v1", "", Endpoint("vllm", "http", "a", 8000)),
        ("http://a:8000/team/v1/", "", Endpoint("vllm", "http", "a", 8000, "/team")),
        ("https://a", "", Endpoint("vllm", "https", "a", 443)),
        ("http://a", "", Endpoint("vllm", "http", "a", 80)),
        ("http://a", "workloadPort: {port: 9000}", Endpoint("vllm", "http", "a", 9000)),
        ("http://[::1]:8000", "", Endpoint("vllm", "http", "::1", 8000)),
        ("https://a", "insecureSkipVerify: true", Endpoint("vllm", "https", "a", 443, verify=False)),
    ],
)
def test_static_endpoints(url: str, extra: str, endpoint: Endpoint) -> None:
    snapshot = loaded(resource("ModelServer", "a", f"{{inferenceEngine: vllm, endpoints: ['{url}'], {extra}}}"))
    assert pool(snapshot).endpoints == (endpoint,)
    assert pool(snapshot).static


def test_an_ipv6_endpoint_reads_as_a_url() -> None:
    assert Endpoint("vllm", "http", "::1", 8000).url == "http://[::1]:8000"


def test_selectors_wait_for_kubernetes() -> None:
    text = resource(
        "ModelServer",
        "a",
        "{inferenceEngine: SGLang, workloadSelector: {matchLabels: {app: x}}, workloadPort: {port: 3, protocol: https}}",
    )
    spec = pool(loaded(text))
    assert spec.selector is not None
    assert (spec.selector.labels, spec.selector.ports, spec.selector.scheme) == ((("app", "x"),), (3,), "https")
    assert not spec.static
    assert "without Kubernetes its selector matches nothing" in loaded(text).warnings[0]
    assert not any("Kubernetes" in warning for warning in loaded(text, kubernetes=True).warnings)


@pytest.mark.parametrize(("engine", "port"), [("vLLM", 8000), ("SGLang", 30000)])
def test_matrixinfer_servers_may_leave_the_port_out(engine: str, port: int) -> None:
    spec = f"{{inferenceEngine: {engine}, workloadSelector: {{matchLabels: {{a: b}}}}}}"
    selector = pool(loaded(resource("ModelServer", "a", spec, MATRIXINFER))).selector
    assert selector is not None
    assert selector.ports == (port,)


def test_a_traffic_policy_overrides_the_programs() -> None:
    text = server(spec="trafficPolicy: {timeout: 30s, retry: {attempts: 1, retryInterval: 250ms}}") + server("b")
    snapshot = loaded(text + configuration("timeouts: {firstToken: 5m, request: 10m}\nretry: {attempts: 4}"))
    assert pool(snapshot).policy == Policy(5, 30, 180, 600, attempts=2, retry_interval=0.25)
    assert pool(snapshot, "default/b").policy == Policy(5, 300, 180, 600, attempts=4)


def test_an_inference_pool_is_read() -> None:
    text = resource(
        "InferencePool",
        "ip",
        "{selector: {matchLabels: {app: x}}, targetPorts: [{number: 8000}, {number: 8001}], "
        "endpointPickerRef: {name: epp, port: {number: 9002}}}",
        "inference.networking.k8s.io/v1",
    )
    snapshot = loaded(text)
    selector = pool(snapshot, "default/ip").selector
    assert selector is not None
    assert selector.ports == (8000, 8001)
    assert snapshot.warnings == (
        "g.yaml, document 1 (InferencePool/ip): without Kubernetes its selector matches nothing: no members",
    )
    assert problems(text.replace("8001", "8000")) == [
        "document 1 (InferencePool/ip): $.spec.targetPorts: port number must be unique"
    ]


# --- ExternalModelProvider and secrets --------------------------------------------------------------------------------

KEY = "sk-very-hidden-0123"


def secret(data: str, name: str = "s") -> str:
    return f"---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\n{data}\n"


@pytest.mark.parametrize(
    ("kind", "auth", "header"),
    [
        ("OpenAI", "{keyFile: k}", (b"authorization", b"Bearer " + KEY.encode())),
        ("Anthropic", "{keyFile: k}", (b"x-api-key", KEY.encode())),
        ("anthropic", "{scheme: Bearer, keyFile: k}", (b"authorization", b"Bearer " + KEY.encode())),
        ("openai", "{scheme: APIKey, keyFile: k}", (b"x-api-key", KEY.encode())),
        ("DeepSeek", "{secretRef: {name: s, key: plain}}", (b"authorization", b"Bearer " + KEY.encode())),
        ("GEMINI", "{secretRef: {name: s, key: coded}}", (b"authorization", b"Bearer " + KEY.encode())),
    ],
)
def test_keys(kind: str, auth: str, header: tuple[bytes, bytes]) -> None:
    coded = "c2stdmVyeS1oaWRkZW4tMDEyMwo="  # with the newline that echo leaves behind
    text = provider(f"providerType: {kind}, auth: {auth}") + secret(
        f"type: Opaque\nstringData: {{plain: {KEY}}}\ndata: {{coded: {coded}}}"
    )
    snapshot = loaded(text, {"etc/k": KEY.encode() + b"\n"}, "etc")
    (endpoint,) = pool(snapshot, "default/p").endpoints
    assert endpoint.headers == (header,)
    assert pool(snapshot, "default/p").external
    for shown in (repr(snapshot), str(snapshot.pools), repr(endpoint), json.dumps(snapshot.public())):
        assert KEY not in shown
    assert snapshot.public()["pools"][0]["endpoints"][0]["headers"] == {header[0].decode(): "***"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "providerType: Cohere",
            "$.spec.providerType: 'Cohere' is none of openai, anthropic, deepseek, gemini, huggingface",
        ),
        ("auth: {}", "$.spec.auth: exactly one of secretRef, keyFile and keyEnv is needed"),
        ("auth: {keyFile: bad, keyEnv: A}", "$.spec.auth: exactly one of secretRef, keyFile and keyEnv is needed"),
        ("auth: {keyEnv: A}", "$.spec.auth.keyEnv: the environment variable A is not set"),
        ("auth: {keyEnv: A-B}", "$.spec.auth.keyEnv: not the name of an environment variable"),
        ("auth: {keyFile: gone}", "$.spec.auth.keyFile: cannot read gone: No such file or directory"),
        ("auth: {keyFile: bad}", "$.spec.auth.keyFile: does not hold a key (printable ASCII without spaces)"),
        (
            "auth: {secretRef: {name: none, key: k}}",
            '$.spec.auth.secretRef.name: no Secret "none" in namespace "default"',
        ),
        ("auth: {secretRef: {name: s, key: none}}", '$.spec.auth.secretRef.key: Secret "s" has no key "none"'),
        (
            "auth: {secretRef: {name: s, key: k, optional: true}}",
            "$.spec.auth.secretRef.optional: expected false, got true",
        ),
        ("headers: {Authorization: x}", "$.spec.headers.Authorization: reserved: the gateway sets this header itself"),
        ("headers: {'a b': x}", '$.spec.headers["a b"]: not a header name'),
        (
            'headers: {x: "a\\r\\nb"}',
            "$.spec.headers.x: not a header value (printable ASCII, no space at its ends)",
        ),
        ("headers: {X-A: '1', x-a: '2'}", "$.spec.headers.x-a: given twice"),
    ],
)
def test_provider_refused(spec: str, message: str) -> None:
    text = provider(spec) + secret("stringData: {k: v}")
    assert problems(text, {"bad": b"two words"}) == [f"document 1 (ExternalModelProvider/p): {message}"]


@pytest.mark.parametrize(
    ("url", "accepted"),
    [
        ("https://api.example.com", True),
        ("http://127.0.0.1:9", True),
        ("http://localhost:9", True),
        ("http://[::1]:9", True),
        ("http://api.example.com", False),
        ("ftp://x", False),
        ("https://", False),
        ("https://u@x", False),
        ("https://x?y=1", False),
        ("https://x#y", False),
        ("https://a b", False),
        ("https://x/a b", False),
    ],
)
def test_base_urls(url: str, accepted: bool) -> None:
    text = resource("ExternalModelProvider", "p", f"{{baseURL: '{url}'}}")
    if accepted:
        loaded(text)
    else:
        assert "$.spec.baseURL: " in problems(text)[0]


@pytest.mark.parametrize(
    ("url", "path", "versioned"),
    [
        ("https://api.openai.com", "", False),
        ("https://api.openai.com/v1/", "/v1", True),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "/v1beta/openai", True),
    ],
)
def test_a_providers_path_stands_for_the_version(url: str, path: str, versioned: bool) -> None:
    (endpoint,) = loaded(resource("ExternalModelProvider", "p", f"{{baseURL: '{url}'}}")).pools[0].endpoints
    assert (endpoint.base_path, endpoint.versioned) == (path, versioned)


@pytest.mark.parametrize("resource_of", [provider, lambda spec: server("p", spec)])
def test_keys_from_the_environment(resource_of: Any) -> None:
    snapshot = loaded(resource_of("auth: {keyEnv: MY_KEY}"), environment={"MY_KEY": KEY + "\n"})
    (endpoint,) = pool(snapshot, "default/p").endpoints
    assert endpoint.headers == ((b"authorization", b"Bearer " + KEY.encode()),)
    assert KEY not in repr(snapshot) + json.dumps(snapshot.public())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "the environment variable MY_KEY is empty"),
        (" ", "does not hold a key (printable ASCII without spaces)"),
        (KEY + " x", "does not hold a key (printable ASCII without spaces)"),
        ("\udc80", "does not hold a key (printable ASCII without spaces)"),
    ],
)
def test_a_variable_that_holds_no_key_is_named_and_not_quoted(value: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(provider("auth: {keyEnv: MY_KEY}"), environment={"MY_KEY": value})
    assert caught.value.problems == [f"g.yaml, document 1 (ExternalModelProvider/p): $.spec.auth.keyEnv: {message}"]


def test_deployments_as_at_azure() -> None:
    spec = f"apiVersion: 2024-10-21, model: gpt, auth: {{keyFile: k}}, query: {{a b: 'c&d', k: {KEY}}}"
    snapshot = loaded(provider(spec), {"k": KEY.encode()})
    (endpoint,) = pool(snapshot, "default/p").endpoints
    assert endpoint.deployments
    assert endpoint.query == f"a%20b=c%26d&k={KEY}&api-version=2024-10-21"
    assert endpoint.headers == ((b"api-key", KEY.encode()),)
    assert KEY not in repr(snapshot) + json.dumps(snapshot.public()) + endpoint.url
    by_token = loaded(provider("apiVersion: v1, auth: {keyFile: k, scheme: Bearer}"), {"k": KEY.encode()})
    assert pool(by_token, "default/p").endpoints[0].headers[0][0] == b"authorization"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "providerType: gemini, apiVersion: v1",
            "$.spec.apiVersion: only models of OpenAI's are deployed like that: it needs providerType OpenAI",
        ),
        ("apiVersion: v1, query: {api-version: x}", "$.spec.query.api-version: given as apiVersion already"),
        ("apiVersion: ''", "$.spec.apiVersion: expected "),
        ("query: {a: 1}", "$.spec.query.a: expected a string, got integer"),
    ],
)
def test_versions_and_queries_refused(spec: str, message: str) -> None:
    (problem,) = problems(provider(spec))
    assert problem.startswith(f"document 1 (ExternalModelProvider/p): {message}")


def test_what_a_route_does_with_unsupported_members() -> None:
    for head, drop in (("modelName: m", False), ("modelName: m, unsupported: drop", True)):
        snapshot = loaded(server() + server("b") + route(targets("{modelServerName: a}, {modelServerName: b}"), head))
        target = snapshot.routes.match("m", "/", (), 0.0)
        assert (target.drop, target.fallbacks[0].drop) == (drop, drop)
        assert snapshot.public()["routes"][0]["unsupported"] == ("drop" if drop else "refuse")
    assert "unsupported" in problems(server() + route(head="modelName: m, unsupported: ignore"))[0]


def test_a_provider_and_a_server_of_one_name_stay_apart() -> None:
    text = server() + provider("model: gpt", "a") + route(targets("{externalModelProviderName: a}"))
    snapshot = loaded(text)
    assert [spec.name for spec in snapshot.pools] == ["default/a", "default/a.externalmodelprovider"]
    assert snapshot.routes.match("m", "/", (), 0).pool == "default/a.externalmodelprovider"
    assert snapshot.routes.match("m", "/", (), 0).model == "gpt"


def test_secret_data_that_is_not_base64_is_not_quoted() -> None:
    found = problems(secret("data: {k: 'hush hush!'}"))
    assert found == ["document 1 (Secret/s): $.data.k: not base64"]


# --- GatewayConfiguration ---------------------------------------------------------------------------------------------

SHA = "0123456789abcdef" * 4


def test_defaults() -> None:
    settings_ = loaded("").settings
    assert [settings_.listeners.http.port, settings_.listeners.grpc.port, settings_.listeners.admin.port] == [
        8080,
        50051,
        9090,
    ]
    assert settings_.listeners.http.loopback
    assert settings_.listeners.ext_proc is None
    assert settings_.timeouts.request == math.inf
    assert settings_.drain_timeout == 30
    assert not settings_.auth.configured


def test_the_whole_configuration() -> None:
    text = f"""
listeners:
  http: {{address: "0.0.0.0:8080", tls: {{certFile: c.pem, keyFile: k.pem}}, maxBodyBytes: 33554432, idleTimeout: 5m}}
  grpc: {{address: "[::]:50051", tls: {{certFile: c.pem, keyFile: k.pem}}, clientCAFile: ca.pem}}
  admin: {{address: "127.0.0.1:9090"}}
  extProc: {{address: "0.0.0.0:9002", pool: a}}
scheduler:
  pluginConfig:
  - {{name: least-request, args: {{maxWaitingRequests: 10}}}}
  - {{name: least-latency, args: {{TTFTTPOTWeightFactor: 0.5}}}}
  - {{name: prefix-cache, args: {{blockSizeToHash: 64, maxBlocksToMatch: 128, maxHashCacheSize: 50000}}}}
  plugins:
    Filter: {{enabled: [least-request], disabled: [lora-affinity]}}
    Score:
      enabled:
      - {{name: least-request, weight: 1}}
      - {{name: kv-cache, weight: 1}}
      - {{name: least-latency, weight: 1}}
      - {{name: prefix-cache, weight: 2}}
auth:
  issuer: https://issuer.example.com
  audiences: [gateway]
  jwksUri: https://issuer.example.com/jwks.json
  apiKeys: [{{name: ci, keySha256: {SHA}, user: ci, tenant: infra, tier: batch, models: ["llama-*"]}}]
  oauth: {{introspectionUrl: "https://issuer.example.com/i", clientId: gw, clientSecretFile: secret}}
  required: true
fairness:
  enabled: true
  windowSize: 10m
  inputTokenWeight: 1.0
  outputTokenWeight: 2
  queueQPS: 100
  maxConcurrent: 0
  queueTimeout: 60s
  maxQueued: 10000
  tiers: {{premium: {{weight: 4, priority: 10}}, batch: {{weight: 1, priority: -10}}}}
limits:
- {{match: {{tier: free}}, requestsPerMinute: 60, inputTokensPerMinute: 20000, outputTokensPerMinute: 8000}}
- {{match: {{user: "*", model: "*"}}, concurrentRequests: 200}}
state: {{redis: {{url: "redis://:redis-password@cache:6379/0"}}}}
timeouts: {{connect: 1s, firstToken: 0, betweenTokens: 30s, request: 10m, clientWrite: 5s}}
retry: {{attempts: 2, budget: 0.1}}
streaming: {{keepAlive: 0}}
health:
  consecutiveFailures: 5
  hungAfter: 0
  slowStart: 30s
  ejection: {{maxShare: 0.3, failureShare: 0.4, minRequests: 20, latencyRatio: 3, latencyExcess: 500ms}}
trustedFields: [priority]
drainTimeout: 1m30s
"""
    files = dict.fromkeys(("c.pem", "k.pem", "ca.pem", "secret"), b"x")
    snapshot = loaded(server() + configuration(text), files)
    made = snapshot.settings
    assert [chosen.name for chosen in made.scheduler.filters()] == ["healthy", "least-request"]
    assert [(chosen.name, chosen.weight) for chosen in made.scheduler.scores()] == [
        ("least-request", 1),
        ("kv-cache", 1),
        ("least-latency", 1),
        ("prefix-cache", 2),
    ]
    assert made.scheduler.args("kv-cache") == made.scheduler.args("gpu-usage")
    assert made.listeners.grpc.host == "::"
    assert not made.listeners.grpc.loopback
    assert (made.timeouts.first_token, made.streaming.keep_alive) == (math.inf, math.inf)
    assert made.health == HealthSettings(
        consecutive_failures=5,
        hung_after=Limit(math.inf),
        slow_start=Limit(30),
        ejection=Ejection(
            max_share=0.3, failure_share=0.4, min_requests=20, latency_ratio=3, latency_excess=Duration(0.5)
        ),
    )
    assert made.fairness.tiers["batch"].priority == -10
    assert made.auth.api_keys[0].key_sha256.reveal() == SHA
    assert set(snapshot.files) == set(files)
    public = snapshot.public()["settings"]
    assert public["state"]["redis"]["url"] == "***"
    assert public["drainTimeout"] == "1m30s"
    for shown in (repr(snapshot), json.dumps(snapshot.public())):
        assert "redis-password" not in shown
        assert SHA not in shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("listner: {}", '$.listner: unknown field; did you mean "listeners"?'),
        ("listeners: {http: {addres: x}}", '$.listeners.http.addres: unknown field; did you mean "address"?'),
        ("listeners: {http: {tls: {certFile: c}}}", '$.listeners.http.tls: missing required field "keyFile"'),
        ("listeners: {http: {maxBodyBytes: 0}}", "$.listeners.http.maxBodyBytes: expected int >= 1"),
        ("listeners: {http: {address: 'h:65536'}}", "$.listeners.http.address: expected an address such as"),
        (
            "listeners: {admin: {address: '127.0.0.1:8080'}}",
            "$.listeners.admin.address: 127.0.0.1:8080 is the http listener's",
        ),
        ("listeners: {extProc: {pool: nope}}", '$.listeners.extProc.pool: no pool "default/nope"'),
        (
            'listeners: {grpc: {address: "127.0.0.1:8080"}}',
            "$.listeners.grpc.address: 127.0.0.1:8080 is the http listener's already",
        ),
        (
            'listeners: {extProc: {healthAddress: "127.0.0.1:9090"}}',
            "$.listeners.extProc.healthAddress: 127.0.0.1:9090 is the admin listener's already",
        ),
        (
            'listeners: {grpc: {address: "127.0.0.1:9003"}, extProc: {}}',
            "$.listeners.extProc.healthAddress: 127.0.0.1:9003 is the grpc listener's already",
        ),
        (
            "listeners: {http: {tls: {certFile: c, keyFile: k}}}",
            "$.listeners.http.tls.certFile: cannot read c: No such file",
        ),
        ("timeouts: {connect: fast}", '$.timeouts.connect: expected a duration such as "30s", "100ms" or "1h30m"'),
        ("retry: {attempts: 0}", "$.retry.attempts: expected int >= 1"),
        ("retry: {budget: 2}", "$.retry.budget: expected float <= 1.0"),
        ("health: {consecutiveFailures: 0}", "$.health.consecutiveFailures: expected int >= 1"),
        ("health: {ejection: {maxShare: 1.5}}", "$.health.ejection.maxShare: expected float <= 1.0"),
        ("health: {ejection: {minRequests: 51}}", "$.health.ejection.minRequests: expected int <= 50"),
        ("health: {ejection: {latencyRatio: 1}}", "$.health.ejection.latencyRatio: expected float > 1.0"),
        ("health: {slowstart: 1s}", '$.health.slowstart: unknown field; did you mean "slowStart"?'),
        (
            "scheduler: {pluginConfig: [{name: least-requst}]}",
            '$.scheduler.pluginConfig[0].name: no plugin "least-requst"; did',
        ),
        (
            "scheduler: {pluginConfig: [{name: prefix-cache, args: {blockSize: 1}}]}",
            "$.scheduler.pluginConfig[0].args.blockSize: unknown field",
        ),
        (
            "scheduler: {pluginConfig: [{name: least-latency, args: {TTFTTPOTWeightFactor: 1.5}}]}",
            "$.scheduler.pluginConfig[0].args.TTFTTPOTWeightFactor: expected float <= 1.0",
        ),
        (
            "scheduler: {pluginConfig: [{name: kv-cache}, {name: gpu-usage}]}",
            '$.scheduler.pluginConfig[1].name: "gpu-usage" is another name of "kv-cache", which is configured already',
        ),
        (
            "scheduler: {pluginConfig: [{name: random}, {name: random}]}",
            '$.scheduler.pluginConfig[1].name: "random" is configured twice',
        ),
        (
            "scheduler: {pluginConfig: [{name: my-own}]}",
            '$.scheduler.pluginConfig[0].name: no plugin "my-own"; if the name is your own, say under "type" which',
        ),
        (
            "scheduler: {plugins: {Filter: {enabled: [random]}}}",
            '$.scheduler.plugins.Filter.enabled[0]: "random" is no filter',
        ),
        (
            "scheduler: {plugins: {Score: {enabled: [{name: random, weight: -1}]}}}",
            "$.scheduler.plugins.Score.enabled[0].weight: expected float >= 0.0",
        ),
        (
            "scheduler: {plugins: {Score: {enabled: [random, {name: random}]}}}",
            '$.scheduler.plugins.Score.enabled[1]: "random" is named twice',
        ),
        ("auth: {jwksUri: 'https://x/jwks'}", "$.auth.issuer: needed with jwksUri"),
        ("auth: {issuer: x, jwksUri: 'http://x/jwks'}", "$.auth.jwksUri: expected an https or file URL"),
        ("auth: {required: true}", "$.auth.required: true, but nobody"),
        ("auth: {apiKeys: [{name: a, keySha256: short}]}", "$.auth.apiKeys[0].keySha256: expected 64 lower-case"),
        (
            f"auth: {{apiKeys: [{{name: a, keySha256: {SHA}}}, {{name: b, keySha256: {SHA}}}]}}",
            "$.auth.apiKeys[1].keySha256: given twice",
        ),
        ("fairness: {windowSize: 30s}", "$.fairness.windowSize: expected 1m to 1h"),
        ("fairness: {windowSize: 2h}", "$.fairness.windowSize: expected 1m to 1h"),
        ("fairness: {inputTokenWeight: -1}", "$.fairness.inputTokenWeight: expected float >= 0.0"),
        ("fairness: {tiers: {x: {weight: 0}}}", "$.fairness.tiers.x.weight: expected float >= 1e-06"),
        ("fairness: {tiers: {x: {weight: 0.0000009}}}", "$.fairness.tiers.x.weight: expected float >= 1e-06"),
        ("auth: {trustedProxies: {cidrs: [10.0.0.0/8, 0.0.0.0/0]}}", "$.auth.trustedProxies.cidrs[1]: everybody could"),
        ("auth: {trustedProxies: {cidrs: ['::/0']}}", "$.auth.trustedProxies.cidrs[0]: everybody could"),
        ("limits: [{match: {tier: free}}]", "$.limits[0]: limits nothing"),
        ("limits: [{requestsPerDay: 1000000000000001}]", "$.limits[0].requestsPerDay: expected int <="),
        ("limits: [{concurrentRequests: 1000000000000001}]", "$.limits[0].concurrentRequests: expected int <="),
        ("limits: [{per: [claims.], requestsPerDay: 1}]", "$.limits[0].per[0]: expected user, tenant"),
        ("limits: [{match: {claims: {'': x}}, requestsPerDay: 1}]", "$.limits[0].match.claims: a claim without"),
        (
            "limits: [{match: {teir: free}, requestsPerMinute: 1}]",
            '$.limits[0].match.teir: unknown field; did you mean "tier"?',
        ),
        ("state: {redis: {url: 'http://x'}}", "$.state.redis.url: expected a URL that begins with redis://"),
        ("state: {redis: {url: 'redis://x', passwordFile: none}}", "$.state.redis.passwordFile: cannot read none"),
        ("tracing: {headersFile: none}", "$.tracing.headersFile: cannot read none"),
        (
            "state: {redis: {url: 'redis://x', caFile: none}}",
            "$.state.redis.caFile: needs a URL that begins with rediss",
        ),
        ("trustedFields: priority", "$.trustedFields: expected an array, got string"),
    ],
)
def test_configuration_refused(text: str, message: str) -> None:
    assert problems(configuration(text))[0].startswith(f"document 1 (GatewayConfiguration): {message}")


def test_sections_may_come_from_several_documents_but_each_from_one() -> None:
    first, second = configuration("timeouts: {connect: 1s}"), configuration("retry: {attempts: 1}")
    made = loaded(first + second).settings
    assert (made.timeouts.connect, made.retry.attempts) == (1, 1)
    assert problems(first + first) == [
        "document 2 (GatewayConfiguration): $.timeouts: also given in g.yaml, document 1 (GatewayConfiguration)"
    ]


def test_all_that_is_wrong_with_plugins_is_told_at_once() -> None:
    text = """scheduler:
  pluginConfig:
  - {name: least-request, args: {maxWaitingRequests: few, more: 1}}
  - {name: mine, type: nothing}
  plugins: {Filter: {enabled: [random]}, Score: {enabled: [mine, least-request, other], disabled: [another]}}
  picker: cost"""
    assert [problem.split("$.scheduler")[1].split(": ")[0] for problem in problems(configuration(text))] == [
        ".pluginConfig[0].args.more",
        ".pluginConfig[0].args.maxWaitingRequests",
        ".pluginConfig[1].type",
        ".plugins.Filter.enabled[0]",
        ".plugins.Score.enabled[2]",
        ".plugins.Score.disabled[0]",
        ".picker",
    ]


def test_parameters_of_plugins_that_do_not_run_are_told() -> None:
    snapshot = loaded(
        configuration("""scheduler:
  pluginConfig:
  - {name: context-length, args: {margin: 2}}
  - {name: gpu-usage}
  - {name: least-latency}
  plugins: {Score: {enabled: [kv-cache]}}
  profiles: {p: {pluginConfig: [{name: max-score}, {name: random}]}}""")
    )
    told = "the plugin is enabled nowhere in this profile"
    assert [warning.split("$.scheduler")[1] for warning in snapshot.warnings] == [
        f".pluginConfig[2]: {told}",
        f".profiles.p.pluginConfig[1]: {told}",
    ]


def test_claims_that_plugins_go_by_are_known() -> None:
    source = "{type: JWTClaim, name: sub}"
    plugin = f"{{name: session-affinity, args: {{sources: [{source}]}}}}"
    text = f"{{pluginConfig: [{plugin}], plugins: {{Score: {{enabled: [session-affinity]}}}}}}"
    snapshot = loaded(configuration(f"scheduler: {{profiles: {{p: {text}}}}}"))
    assert snapshot.inert == ()
    assert snapshot.claims() == {"sub"}
    usual = text.replace(source, "{type: Header, name: sub}")
    assert loaded(configuration(f"scheduler: {{profiles: {{p: {usual}}}}}")).claims() == set()


@pytest.mark.parametrize(
    "key", ["gatewayConfiguration", "schedulerConfiguration", "routerConfiguration", "routerConfiguration.yaml"]
)
def test_config_maps_of_earlier_products(key: str) -> None:
    text = f"""
apiVersion: v1
kind: ConfigMap
metadata: {{name: matrixinfer-infer-gateway-config, namespace: ai}}
data:
  {key}: |-
    scheduler:
      pluginConfig:
      - name: least-request
        args:
          maxWaitingRequests: 7
    auth:
      issuer: ""
      audiences: [""]
      jwksUri: ""
"""
    snapshot = loaded(text)
    assert snapshot.settings.scheduler.args("least-request").max_waiting_requests == 7  # type: ignore[attr-defined]
    assert not snapshot.settings.auth.configured
    broken = text.replace("least-request", "least-requests")
    assert problems(broken) == [
        f"document 1 (ConfigMap/matrixinfer-infer-gateway-config), data.{key}: $.scheduler.pluginConfig[0].name: "
        'no plugin "least-requests"; did you mean "least-request"?'
    ]
    assert "data" in problems(text.replace("scheduler:", "scheduler: ["))[0]


def test_a_scheduler_configuration_may_stand_without_its_section() -> None:
    text = """
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data:
  KEY: |-
    pluginConfig: [{name: least-request, args: {maxWaitingRequests: 7}}]
    plugins: {Score: {enabled: [{name: least-request}]}}
    auth: {required: false}
"""
    settings = loaded(text.replace("KEY", "schedulerConfiguration")).settings
    assert settings.scheduler.args("least-request").max_waiting_requests == 7  # type: ignore[attr-defined]
    assert [chosen.name for chosen in settings.scheduler.scores()] == ["least-request"]
    assert settings.auth.required is False
    assert "$.pluginConfig: unknown field" in problems(text.replace("KEY", "routerConfiguration"))[0]


@pytest.mark.parametrize("written", ["no", "off", '"false"'])
def test_what_yaml_reads_as_text_is_no_boolean_and_what_to_write_is_said(written: str) -> None:
    assert problems(configuration(f"auth: {{required: {written}}}")) == [
        "document 1 (GatewayConfiguration): $.auth.required: expected bool, got str; "
        "write true or false, without quotes"
    ]


def test_fields_without_effect_are_listed() -> None:
    snapshot = loaded(
        server(spec="kvConnector: {type: nixl}")
        + route(
            "[{modelMatch: {headers: {x: {exact: a, regex: b}}}, targetModels: [{modelServerName: a}]}]",
            "modelName: m, rateLimit: {inputTokensPerUnit: 5}",
        )
        + configuration("fairness: {enabled: true}\nauth: {issuer: '', required: false}\ntimeouts: {connect: 1s}")
    )
    assert snapshot.inert == (
        "g.yaml, document 1 (ModelServer/a): $.spec.kvConnector",
        "g.yaml, document 2 (ModelRoute/r): $.spec.rules[0].modelMatch.headers.x.regex",
    )


def test_sticky_sessions_have_an_effect() -> None:
    snapshot = loaded(
        server(
            spec="trafficPolicy: {sessionSticky: {sessionAffinitySeconds: 60, "
            "sources: [{type: Header, name: x}, {type: JWTClaim, name: sub}]}}"
        )
    )
    assert snapshot.inert == ()
    assert snapshot.claims() == {"sub"}
    sticky = pool(snapshot).sticky
    assert sticky is not None
    assert (sticky.session_affinity_seconds, sticky.sources[0].name) == (60, "x")


def test_a_server_may_choose_a_profile() -> None:
    profiles = configuration("scheduler: {profiles: {batch: {picker: random}}}")
    assert pool(loaded(server(spec="schedulingProfile: batch") + profiles)).profile == "batch"
    assert pool(loaded(server() + profiles)).profile == ""
    public = loaded(server(spec="schedulingProfile: batch") + profiles).public()
    assert public["pools"][0]["profile"] == "batch"
    assert problems(server(spec="schedulingProfile: batch")) == [
        'document 1 (ModelServer/a): $.spec.schedulingProfile: no profile "batch" in the scheduler section'
    ]


# --- anything at all --------------------------------------------------------------------------------------------------

WORDS = sorted(
    {
        "apiVersion",
        "kind",
        "metadata",
        "name",
        "spec",
        "endpoints",
        "inferenceEngine",
        "rules",
        "targetModels",
        "weight",
        "modelServerName",
        "modelName",
        "modelMatch",
        "headers",
        "uri",
        "regex",
        "exact",
        "auth",
        "secretRef",
        "key",
        "data",
        "listeners",
        "http",
        "address",
        "tls",
        "scheduler",
        "plugins",
        "Score",
        "enabled",
        "pluginConfig",
        "args",
        "fairness",
        "limits",
        "match",
        "state",
        "redis",
        "url",
        "baseURL",
        "selector",
        "matchLabels",
        "targetPorts",
        "number",
        "timeouts",
        "connect",
        "creationTimestamp",
        "resourceVersion",
        "namespace",
        "stickyBy",
        "parentRefs",
        "rateLimit",
        "<<",
        "a.b",
    }
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["vllm", "a", "http://a:1", "https://x", "5s", "0.0.0.0:1", "(", "1"])
)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=25,
)


@st.composite
def documents(draw: st.DrawFn) -> Any:
    kind = draw(st.sampled_from(sorted(KINDS)))
    body = draw(st.dictionaries(st.sampled_from(WORDS), trees, max_size=5))
    return {"metadata": {"name": "a"}, **body, "kind": kind, "apiVersion": KINDS[kind].versions[0]}


@settings(max_examples=200)
@given(st.lists(documents() | trees, max_size=3))
def test_any_tree_loads_or_is_refused(found: list[Any]) -> None:
    with contextlib.suppress(ConfigError):
        load([Document("g.yaml", number, tree) for number, tree in enumerate(found, 1)])


def test_an_admin_token_may_come_later_and_is_looked_for_beside_its_configuration() -> None:
    made = loaded(configuration("listeners: {admin: {tokenFile: admin.token}}"), folder="conf")
    assert (made.settings.listeners.admin.token_file, made.files) == ("conf/admin.token", ())


def test_every_setting_that_names_a_file_to_be_read_is_relative_to_the_file_that_names_it() -> None:
    named = {name for struct in _structs(Settings) for name in struct.__struct_encode_fields__ if name.endswith("File")}
    assert named <= _FILE_MEMBERS
    assert "tokenFile" in named


def _structs(struct: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    """It and all that its members hold."""
    seen, todo = {struct}, [struct]
    while todo:
        each = todo.pop()
        yield each
        for field in msgspec.structs.fields(each):
            for found in _within(field.type):
                if found not in seen:
                    seen.add(found)
                    todo.append(found)


def _within(kind: Any) -> Iterator[type[msgspec.Struct]]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
    for inner in get_args(kind):
        yield from _within(inner)
