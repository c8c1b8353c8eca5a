"""An API server with our definitions and the loader refuse the same objects, and the definitions are ones it takes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Meta, field

from gateway.config.decode import INVALID, Decoder, Duration, Limit, Section
from gateway.config.resources import ExternalModelProvider, ModelRoute, ModelServer
from gateway.config.schema import described, schema
from tests.kube.apiserver_schema import NOTHING, broken_rules, problems, prune, with_defaults

ROOT = Path(__file__).parents[3]
KINDS: dict[str, type[Section]] = {
    "ModelRoute": ModelRoute,
    "ModelServer": ModelServer,
    "ExternalModelProvider": ExternalModelProvider,
}
SCHEMAS = {name: schema(kind) for name, kind in KINDS.items()}
Tree = dict[str, Any]


SHOWN = re.compile(r'Invalid value: ("(?:[^"\\]|\\.)*"|\S+): (.* evaluating rule: )?|^\S+ in body ', re.DOTALL)
"""What the server says of a value before it says what is wrong."""


def by_file(kind: str, spec: Any) -> list[str]:
    """Why the loader refuses a spec."""
    decoder = Decoder()
    made = decoder.build(spec, KINDS[kind])
    assert (made is INVALID) == bool(decoder.problems)
    return decoder.problems


def by_server(kind: str, spec: Any, old: Any = None) -> list[str]:
    """Why an API server refuses it."""
    of, new, before = SCHEMAS[kind], kept(kind, spec), NOTHING if old is None else kept(kind, old)
    causes = list(problems(new, of, "$", before)) or list(broken_rules(new, of, before, "$"))
    return [f"{cause.field}: {SHOWN.sub('', SHOWN.sub('', cause.message))}" for cause in causes]


def kept(kind: str, spec: Any) -> Any:
    """What an API server makes of a spec."""
    return with_defaults(prune(spec, SCHEMAS[kind], "$")[0], SCHEMAS[kind])


# --- the two agree ----------------------------------------------------------------------------------------------------

SERVER_IS_WIDER = [
    # an adapter of somebody else's may stand behind any name
    (
        r"\.(inferenceEngine|providerType): .* is none of ",
        "ModelServer",
        {"inferenceEngine": "mine", "endpoints": ["http://a"]},
    ),
    # a member that is a string or an object can have no type: numbers and unknown members pass
    (r"\.endpoints\[\d+\]: expected str, got ", "ModelServer", {"inferenceEngine": "vllm", "endpoints": [1]}),
    (
        r"\.endpoints\[\d+\]\S*: unknown field",
        "ModelServer",
        {"inferenceEngine": "vllm", "endpoints": [{"url": "http://a", "x": 1}]},
    ),
    # endpoints are not seen by rules
    (
        r"\.endpoints\[\d+\](\.url)?: \S+ is listed twice",
        "ModelServer",
        {"inferenceEngine": "vllm", "endpoints": ["http://a", "http://A:80"]},
    ),
    # what is in brackets may be no address
    (
        r"\.(endpoints\[\d+\](\.url)?|baseURL): (not a URL|this host name cannot be connected to) .*//\[",
        "ModelServer",
        {"inferenceEngine": "vllm", "endpoints": ["http://[1:2]"]},
    ),
    (
        r"\.regex: too large a regular expression",
        "ModelRoute",
        {
            "modelName": "m",
            "rules": [{"modelMatch": {"uri": {"regex": r"(\pL\pN){2}"}}, "targetModels": [{"modelServerName": "s"}]}],
        },
    ),
]
"""What an API server takes and the loader does not, as the loader words it, with an example of each."""

LOADER_IS_WIDER = [
    # loopback in unusual spelling
    (r"https is needed", "ExternalModelProvider", {"baseURL": "http://[0:0:0:0:0:0:0:1]"}),
]


def excused(problems: list[str], spec: Tree, excuses: list[tuple[str, str, Tree]]) -> bool:
    return all(any(re.search(pattern, f"{problem} {spec}") for pattern, _, _ in excuses) for problem in problems)


def agree(kind: str, spec: Any) -> None:
    made = kept(kind, spec)
    file, server = by_file(kind, made), by_server(kind, made)
    if file and not server:
        assert excused(file, made, SERVER_IS_WIDER), (made, file)
    if server and not file:
        assert excused(server, made, LOADER_IS_WIDER), (made, server)


@pytest.mark.parametrize(("pattern", "kind", "spec"), SERVER_IS_WIDER)
def test_what_an_api_server_takes_and_the_loader_does_not(pattern: str, kind: str, spec: Tree) -> None:
    assert by_file(kind, spec)
    assert excused(by_file(kind, spec), spec, [(pattern, kind, spec)])
    assert by_server(kind, spec) == []


@pytest.mark.parametrize(("pattern", "kind", "spec"), LOADER_IS_WIDER)
def test_what_the_loader_takes_and_an_api_server_does_not(pattern: str, kind: str, spec: Tree) -> None:
    assert by_file(kind, spec) == []
    assert by_server(kind, spec)
    assert excused(by_server(kind, spec), spec, [(pattern, kind, spec)])


def some(**members: st.SearchStrategy[Any]) -> st.SearchStrategy[Tree]:
    return st.fixed_dictionaries({}, optional=members)


def mostly(good: st.SearchStrategy[Any], bad: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 19).flatmap(lambda n: bad if n == 19 else good)


def of(good: Sequence[Any], bad: Sequence[Any]) -> st.SearchStrategy[Any]:
    return mostly(st.sampled_from(good), st.sampled_from(bad))


def one(**members: st.SearchStrategy[Any]) -> st.SearchStrategy[Tree]:
    """Mostly one member."""
    singles = [st.fixed_dictionaries({name: value}) for name, value in members.items()]
    return mostly(st.one_of(singles), some(**members))


WORDS = st.sampled_from(["a", "llama", "m-1", "x.y/z"])
REGEXES = of(["^a", "(b|c)+", "[x-z]{2}", "(?P<n>a)"], ["(", "(?=a)", "*", r"(a)\1", "[z-a]"])
MATCHES = some(exact=WORDS, prefix=WORDS, regex=REGEXES)
WEIGHTS = mostly(
    st.one_of(st.just([None] * 3), st.just([1, 2, 0]), st.just([0, 1, 1])),
    st.lists(st.one_of(st.none(), st.integers(-1, 1), st.just(101)), min_size=3, max_size=3),
)
TARGETS = st.builds(
    lambda names, weights: [
        name if weight is None else {**name, "weight": weight} for name, weight in zip(names, weights, strict=False)
    ],
    st.lists(
        mostly(st.builds(lambda name: {"modelServerName": name}, WORDS), one(externalModelProviderName=WORDS)),
        min_size=2,
        max_size=3,
    ),
    WEIGHTS,
)
RULE = st.fixed_dictionaries(
    {"targetModels": TARGETS},
    optional={
        "name": WORDS,
        "modelMatch": some(headers=st.dictionaries(WORDS, MATCHES, max_size=2), uri=MATCHES, body=some(model=WORDS)),
        "stickyBy": one(header=WORDS, cookie=WORDS, user=of([True], [False])),
    },
)
AMOUNTS = of([1, 9, 10**15], [0, -1, 10**15 + 1])
ROUTES = st.fixed_dictionaries(
    {"rules": st.lists(RULE, min_size=1, max_size=2), "modelName": of(["m"], [""])},
    optional={
        "loraAdapters": st.lists(WORDS, max_size=2),
        "parentRefs": st.lists(some(name=WORDS, port=st.integers()), max_size=1),
        "rateLimit": some(
            inputTokensPerUnit=AMOUNTS,
            outputTokensPerUnit=AMOUNTS,
            unit=of(["second", "month"], ["year", ""]),
            **{"global": some(redis=st.fixed_dictionaries({"address": WORDS}))},
        ),
        "unsupported": of(["drop", "refuse"], ["keep"]),
    },
)
LABEL_NAMES = mostly(
    st.sampled_from(["app", "app.kubernetes.io/name", "a" * 63, "a" * 253 + "/b", "A_b"]),
    st.one_of(st.sampled_from(["a" * 64, "a" * 254 + "/b"]), st.text("aA0.-_/\n", max_size=9)),
)
LABELS = st.dictionaries(LABEL_NAMES, mostly(st.just("a.B"), st.text("aA0.-_\n", max_size=4)), min_size=1, max_size=2)
DURATIONS = mostly(
    st.sampled_from(["1s", "1h30m", "100ms", "1.5h", "5µs", "9223372036s"]),
    st.one_of(
        st.sampled_from(["0s", "0", "0.1ns", "-1s", ".5s", "1", "", "9223372037s", "1s\n"]),
        st.text("019.msh", max_size=6),
    ),
)
URLS = mostly(
    st.sampled_from(["https://a", "https://a.b:8443/v1/", "HTTPS://A/b@c//", "https://a:065535", "http://127.0.0.1:9"]),
    st.one_of(
        st.sampled_from(["http://a", "https://u:p@a", "https://a?x", "https://a#", "ftp://a", "a:1", "https://a\n"]),
        st.sampled_from(
            ["http://localhost/x", "http://127.0.0.256", "http://[::1]:80", "https://[::1]", "https://a:0"]
        ),
        st.sampled_from(["https://a:65536", "https://a//b", "https://-a", "https://a b", "https://", "https://é"]),
        st.builds(
            "{}://{}{}".format,
            st.sampled_from(["http", "https"]),
            st.text("a1-._", max_size=4),
            st.text("/:@?#a1%", max_size=5),
        ),
    ),
)
HEADERS = st.dictionaries(
    of(["X-A", "x-b", "x'y"], ["x-a", "a b", "", "Authorization", "host", "é", "a\n"]),
    of(["1", "a b", "a\tb", "x" * 4096], [" a", "a\n", "", "é", "x" * 4097, "\x7f"]),
    max_size=2,
)
AUTH = one(
    secretRef=st.fixed_dictionaries({"name": WORDS, "key": WORDS}, optional={"optional": of([False], [True])}),
    keyFile=WORDS,
    keyEnv=of(["KEY", "A_1"], ["1A", "A-B", "", "A\n"]),
).flatmap(lambda made: some(scheme=of(["Bearer", "APIKey"], ["bearer"])).map(lambda scheme: {**made, **scheme}))
PD_GROUP = st.fixed_dictionaries({"groupKey": LABEL_NAMES, "prefillLabels": LABELS, "decodeLabels": LABELS})
SELECTOR = st.fixed_dictionaries({"matchLabels": LABELS}, optional={"pdGroup": PD_GROUP})
LISTED = mostly(st.fixed_dictionaries({"url": URLS}, optional={"labels": LABELS}), some(labels=LABELS))
SOURCE = st.fixed_dictionaries({"type": of(["Header", "JWTClaim"], ["IP"]), "name": WORDS})
SERVERS = st.fixed_dictionaries(
    {"inferenceEngine": of(["vLLM", "SGLang", "TGI", "vllm", "ollama"], ["mine", "a b", ""])},
    optional={
        "model": WORDS,
        "workloadSelector": SELECTOR,
        "workloadPort": some(port=of([1, 65535], [0, 65536]), protocol=of(["http", "https"], ["grpc"])),
        "trafficPolicy": some(
            timeout=DURATIONS,
            retry=some(attempts=of([0, 100], [-1, 101]), retryInterval=DURATIONS),
            sessionSticky=st.fixed_dictionaries(
                {"sources": st.lists(SOURCE, min_size=1, max_size=2)},
                optional={"sessionAffinitySeconds": of([1, 2**31 - 1], [0, 2**31])},
            ),
        ),
        "kvConnector": some(type=of(["http", "nixl"], ["x"])),
        "schedulingProfile": WORDS,
        "endpoints": st.lists(st.one_of(URLS, LISTED), min_size=1, max_size=2),
        "auth": AUTH,
        "headers": HEADERS,
        "insecureSkipVerify": st.booleans(),
        "caFile": WORDS,
    },
)
PROVIDERS = st.fixed_dictionaries(
    {"baseURL": URLS},
    optional={
        "providerType": of(["OpenAI", "openai"], ["Anthropic", "Mine"]),
        "apiVersion": WORDS,
        "query": st.dictionaries(of(["a", "b"], ["api-version"]), WORDS),
        "model": WORDS,
        "auth": AUTH,
        "headers": HEADERS,
        "insecureSkipVerify": st.booleans(),
        "caFile": WORDS,
    },
)
JUNK: list[Any] = [
    None,
    "",
    "a",
    "x" * 1025,
    "x" * 3000,
    0,
    1,
    -1,
    101,
    70000,
    1.5,
    True,
    False,
    [],
    ["a"],
    [None],
    {},
    {"a": "b"},
    {"a": None},
    {f"k{n}": "v" for n in range(65)},
    ["a"] * 17,
]


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for step, value in inner:
        yield (*path, step)
        yield from places(value, (*path, step))


@st.composite
def broken(draw: st.DrawFn, whole: st.SearchStrategy[Tree]) -> Tree:
    """A tree in which something or other is replaced, removed or added."""
    tree = deepcopy(draw(whole))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        found = list(places(tree))
        if not found:
            break
        *way, last = draw(st.sampled_from(found))
        inner: Any = tree
        for step in way:
            inner = inner[step]
        match draw(st.sampled_from(["replace", "remove", "repeat"])):
            case "replace":
                inner[last] = deepcopy(draw(st.sampled_from(JUNK)))
            case "remove":
                del inner[last]
            case _ if isinstance(inner, list):
                inner.extend(deepcopy(inner) * draw(st.sampled_from([1, 17])))
    return tree


def test_a_weight_that_is_left_out_is_the_published_one() -> None:
    spec = kept("ModelRoute", a_rule({**S, "weight": 1}, P))
    assert [target["weight"] for target in spec["rules"][0]["targetModels"]] == [1, 100]
    assert by_file("ModelRoute", spec) == by_server("ModelRoute", spec) == []


@settings(max_examples=300, deadline=None)
@given(broken(ROUTES))
def test_routes(spec: Tree) -> None:
    agree("ModelRoute", spec)


@settings(max_examples=300, deadline=None)
@given(broken(SERVERS))
def test_servers(spec: Tree) -> None:
    agree("ModelServer", spec)


@settings(max_examples=300, deadline=None)
@given(broken(PROVIDERS))
@example({"baseURL": "http://127.0.0.1", "apiVersion": "1", "providerType": "anthropic"})
def test_providers(spec: Tree) -> None:
    agree("ExternalModelProvider", spec)


def objects() -> Iterator[Any]:
    """Every object of ours in the examples and in what tests load."""
    texts = [path.read_text() for path in (ROOT / "examples").rglob("*.yaml")]
    for path in (ROOT / "tests").rglob("*.py"):
        texts += re.findall(r'"""(.*?)"""', path.read_text(), re.DOTALL)
    for number, text in enumerate(texts):
        try:
            documents = list(yaml.safe_load_all(text))
        except yaml.YAMLError:
            continue  # a template, or prose
        for tree in documents:
            if isinstance(tree, dict) and tree.get("kind") in KINDS and isinstance(tree.get("spec"), dict):
                yield pytest.param(tree["kind"], tree["spec"], id=f"{number}-{tree['kind']}")


@pytest.mark.parametrize(("kind", "spec"), list(objects()))
def test_objects_of_examples_and_of_other_tests(kind: str, spec: Tree) -> None:
    agree(kind, spec)


def test_there_are_such_objects() -> None:
    assert len(list(objects())) > 10
    for path in (ROOT / "examples").glob("*.yaml"):
        for tree in yaml.safe_load_all(path.read_text()):
            if tree["kind"] in KINDS:
                assert by_server(tree["kind"], tree["spec"]) == []


# --- what was written for others' definitions -------------------------------------------------------------------------

TARGET = [{"modelServerName": "s"}]
PUBLISHED: list[tuple[str, Tree]] = [
    ("ModelRoute", {"modelName": "deepseek", "rules": [{"name": "default", "targetModels": TARGET}]}),
    ("ModelRoute", {"loraAdapters": ["lora-a", "lora-b"], "rules": [{"targetModels": TARGET}]}),
    (
        "ModelRoute",
        {
            "modelName": "m",
            "parentRefs": [
                {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g", "sectionName": "http"}
            ],
            "rules": [
                {
                    "modelMatch": {
                        "headers": {"user-type": {"exact": "premium"}},
                        "uri": {"prefix": "/v1"},
                        "body": {"model": "m"},
                    },
                    "targetModels": TARGET,
                },
                {"targetModels": [{"modelServerName": "v1", "weight": 70}, {"modelServerName": "v2", "weight": 30}]},
            ],
            "rateLimit": {
                "inputTokensPerUnit": 10,
                "outputTokensPerUnit": 5000,
                "unit": "minute",
                "global": {"redis": {"address": "redis:6379"}},
            },
        },
    ),
    (
        "ModelServer",
        {
            "model": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
            "inferenceEngine": "vLLM",
            "workloadSelector": {"matchLabels": {"app": "deepseek"}},
            "workloadPort": {"port": 8000, "protocol": "http"},
            "trafficPolicy": {"timeout": "10s", "retry": {"attempts": 3, "retryInterval": "100ms"}},
        },
    ),
    (
        "ModelServer",
        {
            "inferenceEngine": "SGLang",
            "kvConnector": {"type": "mooncake"},
            "workloadSelector": {
                "matchLabels": {"modelserving.volcano.sh/name": "x"},
                "pdGroup": {
                    "groupKey": "modelserving.volcano.sh/group-name",
                    "prefillLabels": {"modelserving.volcano.sh/role": "prefill"},
                    "decodeLabels": {"modelserving.volcano.sh/role": "decode"},
                },
            },
        },
    ),
    (
        "ExternalModelProvider",
        {
            "providerType": "Anthropic",
            "baseURL": "https://api.anthropic.com",
            "model": "claude",
            "insecureSkipVerify": False,
            "auth": {"secretRef": {"name": "key", "key": "api-key", "optional": False}},
            "headers": {"anthropic-version": "2023-06-01"},
        },
    ),
]


@pytest.mark.parametrize(("kind", "spec"), PUBLISHED)
def test_published_forms_are_taken(kind: str, spec: Tree) -> None:
    assert by_server(kind, spec) == []
    assert by_file(kind, spec) == []


def a_route(**members: Any) -> Tree:
    return {"modelName": "m", "rules": [{"targetModels": TARGET}], **members}


def a_rule(*targets: Tree, **members: Any) -> Tree:
    return a_route(rules=[{"targetModels": list(targets), **members}])


def a_server(**members: Any) -> Tree:
    return {"inferenceEngine": "vLLM", "workloadSelector": {"matchLabels": {"app": "a"}}, **members}


def a_provider(**members: Any) -> Tree:
    return {"baseURL": "https://a", **members}


PD = {"groupKey": "g", "prefillLabels": {"r": "p"}, "decodeLabels": {"r": "d"}}
LABELLED = {"matchLabels": {"a": "b"}}
S, P = {"modelServerName": "s"}, {"externalModelProviderName": "p"}


@pytest.mark.parametrize(
    ("kind", "spec", "said"),
    [
        ("ModelRoute", a_route(modelName=""), "$: modelName or loraAdapters is needed"),
        ("ModelRoute", {"rules": [{"targetModels": TARGET}]}, "$: modelName or loraAdapters is needed"),
        ("ModelRoute", a_route(loraAdapters=[""]), "$.loraAdapters[0]: should be at least 1 chars"),
        ("ModelRoute", a_route(loraAdapters=["a"] * 11), "$.loraAdapters: "),
        ("ModelRoute", a_route(rules=[]), "$.rules: should have at least 1 items"),
        ("ModelRoute", a_route(rules=[{"targetModels": TARGET}] * 17), "$.rules: "),
        ("ModelRoute", a_rule(), "$.rules[0].targetModels: should have at least 1 items"),
        ("ModelRoute", a_rule({**S, **P}), "$.rules[0].targetModels[0]: exactly one of modelServerName and"),
        ("ModelRoute", a_rule({"weight": 1}), "$.rules[0].targetModels[0]: exactly one of modelServerName and"),
        ("ModelRoute", a_rule({**S, "weight": 101}), "$.rules[0].targetModels[0].weight: "),
        ("ModelRoute", a_rule({**S, "weight": 0}, {**P, "weight": 0}), "$.rules[0].targetModels: the weights add up"),
        ("ModelRoute", {**a_rule(S, P), "loraAdapters": ["l"]}, "$.rules: a route with loraAdapters cannot lead to"),
        ("ModelRoute", a_rule(S, modelMatch={"uri": {"regex": "("}}), "$.rules[0].modelMatch.uri.regex: not a regular"),
        (
            "ModelRoute",
            a_rule(S, modelMatch={"headers": {"x": {"regex": "(?=a)"}}}),
            "$.rules[0].modelMatch.headers.x.regex: not a regular",
        ),
        (
            "ModelRoute",
            a_rule(S, modelMatch={"headers": {"x": {"regex": "x" * 1025}}}),
            "$.rules[0].modelMatch.headers.x.regex: ",
        ),
        ("ModelRoute", a_rule(S, stickyBy={"header": "x", "user": True}), "$.rules[0].stickyBy: exactly one of header"),
        ("ModelRoute", a_rule(S, stickyBy={}), "$.rules[0].stickyBy: exactly one of header"),
        ("ModelRoute", a_route(rateLimit={"inputTokensPerUnit": 0}), "$.rateLimit.inputTokensPerUnit: "),
        ("ModelServer", {"inferenceEngine": "vLLM"}, "$: must validate at least one schema"),
        ("ModelServer", a_server(workloadSelector={}), "$.workloadSelector.matchLabels: Required value"),
        (
            "ModelServer",
            a_server(workloadSelector={"matchLabels": {}}),
            "$.workloadSelector.matchLabels: should have at least 1 properties",
        ),
        (
            "ModelServer",
            a_server(workloadSelector={"matchLabels": {"-": "a"}}),
            "$.workloadSelector.matchLabels: there is a name",
        ),
        ("ModelServer", a_server(workloadSelector={"matchLabels": {"a": "-"}}), "$.workloadSelector.matchLabels.a: "),
        (
            "ModelServer",
            a_server(workloadSelector={**LABELLED, "pdGroup": {"groupKey": "g"}}),
            "$.workloadSelector.pdGroup.prefillLabels: Required value",
        ),
        (
            "ModelServer",
            a_server(workloadSelector={**LABELLED, "pdGroup": {**PD, "groupKey": "/"}}),
            "$.workloadSelector.pdGroup.groupKey: not the",
        ),
        (
            "ModelServer",
            a_server(workloadSelector={**LABELLED, "pdGroup": {**PD, "groupKey": "a" * 254 + "/b"}}),
            "$.workloadSelector.pdGroup.groupKey: not the",
        ),
        (
            "ModelServer",
            a_server(workloadSelector={**LABELLED, "pdGroup": {**PD, "prefillLabels": {"-": "a"}}}),
            "$.workloadSelector.pdGroup.prefillLabels: there",
        ),
        (
            "ModelServer",
            a_server(workloadSelector={**LABELLED, "pdGroup": {**PD, "decodeLabels": {"-": "a"}}}),
            "$.workloadSelector.pdGroup.decodeLabels: there",
        ),
        (
            "ModelServer",
            a_server(workloadSelector={**LABELLED, "pdGroup": {**PD, "decodeLabels": {}}}),
            "$.workloadSelector.pdGroup.decodeLabels: ",
        ),
        ("ModelServer", a_server(workloadPort={"port": 65536}), "$.workloadPort.port: "),
        ("ModelServer", a_server(trafficPolicy={"timeout": "0s"}), "$.trafficPolicy.timeout: must be above 0"),
        ("ModelServer", a_server(trafficPolicy={"timeout": 5}), "$.trafficPolicy.timeout: "),
        ("ModelServer", a_server(auth={}), "$.auth: exactly one of secretRef"),
        ("ModelServer", a_server(headers={"HOST": "a"}), "$.headers: reserved"),
        ("ModelServer", a_server(headers={"a b": "a"}), "$.headers: there is a name that no header may have"),
        ("ModelServer", a_server(headers={"X": "a", "x": "b"}), "$.headers: a header is given twice"),
        ("ModelServer", a_server(headers={"X": " a"}), "$.headers.X: "),
        ("ModelServer", a_server(endpoints=["ftp://a"]), "$.endpoints[0]: "),
        ("ModelServer", a_server(endpoints=[{"url": "http://a?b"}]), "$.endpoints[0].url: "),
        ("ModelServer", a_server(endpoints=[{}]), "$.endpoints[0].url: Required value"),
        ("ModelServer", a_server(inferenceEngine="a b"), "$.inferenceEngine: "),
        ("ExternalModelProvider", a_provider(providerType="a b"), "$.providerType: "),
        ("ExternalModelProvider", a_provider(headers={"HOST": "a"}), "$.headers: reserved"),
        ("ExternalModelProvider", a_provider(headers={"a b": "a"}), "$.headers: there is a name that no header may"),
        ("ExternalModelProvider", a_provider(headers={"X": "a", "x": "b"}), "$.headers: a header is given twice"),
        ("ExternalModelProvider", a_provider(headers={"X": ""}), "$.headers.X: "),
        ("ExternalModelProvider", a_provider(baseURL="http://a"), "$.baseURL: https is needed"),
        ("ExternalModelProvider", a_provider(baseURL="https://u:p@a"), "$.baseURL: no credentials in a URL"),
        ("ExternalModelProvider", a_provider(baseURL="https://a/?b"), "$.baseURL: neither query nor fragment"),
        ("ExternalModelProvider", a_provider(baseURL="https://a#b"), "$.baseURL: neither query nor fragment"),
        ("ExternalModelProvider", a_provider(baseURL="https://"), "$.baseURL: expected a URL"),
        ("ExternalModelProvider", a_provider(baseURL="https://a\n"), "$.baseURL: expected a URL"),
        ("ModelServer", a_server(endpoints=[" http://a"]), "$.endpoints[0]: "),
        ("ExternalModelProvider", a_provider(auth={"keyEnv": "A-B"}), "$.auth.keyEnv: not the name of an"),
        ("ExternalModelProvider", a_provider(auth={"keyFile": "f", "keyEnv": "A"}), "$.auth: exactly one of secretRef"),
        (
            "ExternalModelProvider",
            a_provider(auth={"secretRef": {"name": "a", "key": "b", "optional": True}}),
            "$.auth.secretRef.optional: ",
        ),
        ("ExternalModelProvider", a_provider(apiVersion="1", providerType="anthropic"), "$.apiVersion: only models of"),
        (
            "ExternalModelProvider",
            a_provider(apiVersion="1", query={"api-version": "2"}),
            "$.query: api-version is given",
        ),
    ],
)
def test_refused(kind: str, spec: Tree, said: str) -> None:
    """Every rule, among them all of the published webhook."""
    assert any(problem.startswith(said) for problem in by_server(kind, spec)), by_server(kind, spec)
    assert by_file(kind, spec)


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        (a_route(), a_route(unsupported="drop"), False),
        (a_route(), a_route(modelName="n"), True),
        (a_route(), {"loraAdapters": ["l"], "rules": a_route()["rules"]}, True),
        ({"loraAdapters": ["l"], "rules": a_route()["rules"]}, a_route(), False),
        (a_route(modelName="", loraAdapters=["l"]), a_route(), False),
    ],
)
def test_a_model_name_stays(old: Tree, new: Tree, *, changed: bool) -> None:
    assert by_server("ModelRoute", new, old) == (["$.modelName: modelName cannot be changed"] if changed else [])


# --- schemas of structs -----------------------------------------------------------------------------------------------


class Inner(Section, frozen=True):
    """One of them."""

    url: str


class Sample(Section, frozen=True, kw_only=True):
    """A thing. ``some_number``: how many. ``tags`` are free; ``wait``: before the `some_number` are counted."""

    some_number: Annotated[int, Meta(ge=1, le=9)] = 3
    tags: dict[str, bool] = field(default_factory=dict)
    wait: Duration = Duration(0.25)
    share: Annotated[float, Meta(ge=0)] | None = None
    either: tuple[str | Inner, ...] = ()
    label: Annotated[str, Meta(min_length=1, pattern=r"^(?:a|b)\Z")]


def test_a_schema() -> None:
    made = schema(Sample)
    assert made["description"] == "A thing."
    assert made["required"] == ["label"]
    members = made["properties"]
    assert members["someNumber"] == {
        "description": "How many.",
        "type": "integer",
        "format": "int32",
        "minimum": 1,
        "maximum": 9,
        "default": 3,
    }
    assert members["tags"] == {
        "description": "tags are free;",
        "type": "object",
        "additionalProperties": {"type": "boolean"},
    }
    assert members["wait"]["default"] == "250ms"
    assert members["wait"]["description"] == "Before the someNumber are counted."
    assert members["share"] == {"type": "number", "minimum": 0}
    assert members["either"]["items"] == {
        "x-kubernetes-preserve-unknown-fields": True,
        "description": "One of them.",
        "properties": {"url": {"type": "string"}},
        "required": ["url"],
    }
    assert members["label"] == {"type": "string", "minLength": 1, "pattern": "^(a|b)$"}


def test_no_schema() -> None:
    with pytest.raises(TypeError, match="no schema for"):
        schema(Limit)


class Mute(Section, frozen=True):
    name: str


def test_nothing_is_said_where_there_is_no_docstring() -> None:
    assert described(Mute) == ("", {})
