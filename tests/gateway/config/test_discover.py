"""Backends by URL, and what becomes of the models they serve."""

from __future__ import annotations

import pytest

from gateway.config.discover import discovered, from_backends
from gateway.config.document import ConfigError, parse
from gateway.config.load import load
from gateway.config.snapshot import Snapshot, resolved
from gateway.types import Endpoint, ModelCard

A, B, C = from_backends([("vllm", "http://a:8000"), ("vllm", "http://b:8000"), ("sglang", "http://c:30000")])


def members(snapshot: Snapshot, model: str) -> list[str]:
    target = snapshot.routes.match(model, "/v1/chat/completions", (), 0.0)
    return [at.host for pool in snapshot.pools if pool.name == target.pool for at in pool.endpoints]


def test_backends_become_endpoints() -> None:
    assert from_backends([("vLLM", "http://a:8000/v1/"), ("auto", "https://b")]) == [
        Endpoint("vllm", "http", "a", 8000),
        Endpoint("auto", "https", "b", 443),
    ]


def test_every_bad_backend_is_named_and_no_password_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        from_backends(
            [
                ("vlm", "http://a"),
                ("vllm", "a:8000"),
                ("tgi", "http://u:pw@h"),
                ("tgi", "http://x"),
                ("tgi", "http://x"),
            ]
        )
    assert caught.value.problems == [
        "--backend vlm=http://a: 'vlm' is none of vllm, sglang, tgi, openai, deepseek, gemini, huggingface, anthropic, "
        'llamacpp, ollama, trtllm, auto; did you mean "vllm"?',
        '--backend vllm=a:8000: expected a URL such as "http://host:8000"',
        "--backend tgi=…: no credentials in a URL, please: they would show in logs",
        "--backend tgi=http://x: given twice",
    ]


KEYS = {"OPENAI_API_KEY": "sk-o", "ANTHROPIC_API_KEY": "sk-a", "GEMINI_API_KEY": " sk-g\n", "HF_TOKEN": "", "X": "x"}


@pytest.mark.parametrize(
    ("engine", "url", "headers"),
    [
        ("openai", "https://api.openai.com/v1", ((b"authorization", b"Bearer sk-o"),)),
        ("openai", "http://127.0.0.1:9", ((b"authorization", b"Bearer sk-o"),)),
        ("openai", "http://10.0.0.1:9", ()),
        ("anthropic", "https://a", ((b"x-api-key", b"sk-a"),)),
        ("gemini", "https://g/v1beta/openai", ((b"authorization", b"Bearer sk-g"),)),
        ("huggingface", "https://h", ()),
        ("deepseek", "https://d", ()),
        ("vllm", "https://v", ()),
        ("auto", "https://v", ()),
    ],
)
def test_a_provider_gets_its_own_key_from_the_environment(
    engine: str, url: str, headers: tuple[tuple[bytes, bytes], ...]
) -> None:
    (made,) = from_backends([(engine, url)], KEYS)
    assert made.headers == headers
    assert "sk-" not in repr(made)


def test_a_variable_that_holds_no_key_is_named_and_not_quoted() -> None:
    with pytest.raises(ConfigError) as caught:
        from_backends([("openai", "https://a")], {"OPENAI_API_KEY": "two words"})
    assert caught.value.problems == [
        "--backend openai=https://a: OPENAI_API_KEY does not hold a key (printable ASCII without spaces)"
    ]


def test_endpoints_of_one_model_form_one_pool() -> None:
    snapshot = discovered(
        Snapshot(), {A: [ModelCard("m")], B: [ModelCard("m"), ModelCard("n")], C: [ModelCard("m", max_model_len=9)]}
    )
    assert members(snapshot, "m") == ["a", "b", "c"]
    assert members(snapshot, "n") == ["b"]
    assert [pool.name for pool in snapshot.pools] == ["discovered/m", "discovered/n"]
    assert [endpoint.engine for endpoint in snapshot.pools[0].endpoints] == ["vllm", "vllm", "sglang"]
    assert snapshot.routes.match("m", "/", (), 0).model is None


def test_a_lora_leads_to_the_endpoints_that_hold_it() -> None:
    cards = [ModelCard("m"), ModelCard("everywhere", "m")]
    snapshot = discovered(Snapshot(), {A: [*cards, ModelCard("only-a", "m")], B: cards})
    assert members(snapshot, "everywhere") == ["a", "b"]
    assert snapshot.routes.match("everywhere", "/", (), 0).pool == "discovered/m"
    assert members(snapshot, "only-a") == ["a"]
    assert [(card.id, card.parent) for card in snapshot.routes.models()] == [
        ("everywhere", "m"),
        ("m", None),
        ("only-a", "m"),
    ]


def test_a_lora_without_its_base_stands_alone() -> None:
    assert members(discovered(Snapshot(), {A: [ModelCard("x", "gone")]}), "x") == ["a"]


def test_configured_routes_win() -> None:
    text = """
apiVersion: networking.serving.volcano.sh/v1alpha1
kind: ModelServer
metadata: {name: s}
spec: {inferenceEngine: tgi, endpoints: ["http://fixed:80"]}
---
apiVersion: networking.serving.volcano.sh/v1alpha1
kind: ModelRoute
metadata: {name: r}
spec: {modelName: m, loraAdapters: [l], rules: [{targetModels: [{modelServerName: s}]}]}
"""
    base = load(parse("g.yaml", text.encode()))
    snapshot = discovered(base, {A: [ModelCard("m"), ModelCard("l"), ModelCard("n"), ModelCard("lora", "m")]})
    assert [members(snapshot, model) for model in ("m", "l", "n", "lora")] == [["fixed"], ["fixed"], ["a"], ["a"]]


def test_nothing_found_changes_nothing() -> None:
    assert discovered(Snapshot(), {A: []}).pools == ()


def test_recognised_engines_replace_auto() -> None:
    text = """
apiVersion: networking.serving.volcano.sh/v1alpha1
kind: ModelServer
metadata: {name: s}
spec: {inferenceEngine: auto, endpoints: ["http://x:1", "http://y:1"]}
"""
    base = load(parse("g.yaml", text.encode()))
    y = base.pools[0].endpoints[1]
    pool = resolved(base.pools[0], {y: "sglang"})
    assert (pool.engine, [at.engine for at in pool.endpoints]) == ("sglang", ["auto", "sglang"])
    assert resolved(base.pools[0], {}) is base.pools[0]
