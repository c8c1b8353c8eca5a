"""vLLM, SGLang, llama.cpp and the providers: what each is asked for, and what it is not."""

import contextlib
import json
from typing import Any

import pytest

from adapters.anthropic import Anthropic
from adapters.llamacpp import LlamaCpp
from adapters.openai import OpenAI
from adapters.providers import DeepSeek, Gemini, HuggingFace, Ollama, TensorRT
from adapters.registry import PROBES, detect, load
from adapters.sglang import SGLang
from adapters.tgi import TGI
from adapters.vllm import VLLM
from gateway.errors import InvalidRequest, NotFound, Unsupported
from gateway.ports import Adapter
from gateway.types import Endpoint, ModelCard, Operation, Usage
from tests.adapters.recorded import answer, endpoint, events, request, run, split


def sent(adapter: Adapter, *, labels: tuple[tuple[str, str], ...] = (), **members: Any) -> dict[str, Any]:
    """The chat request an engine gets, decoded."""
    body = json.dumps({"model": "tiny", **members}).encode()
    asked = request(body, stream=members.get("stream", False))
    decoded = json.loads(adapter.encode(asked, endpoint(labels=labels), "tiny").body)
    assert isinstance(decoded, dict)
    return decoded


SCHEMA = {"type": "object"}


@pytest.mark.parametrize("name", ["typical_p", "stop_regex", "functions", "audio"])
def test_vllm_is_not_asked_for_what_it_would_ignore(name: str) -> None:
    with pytest.raises(Unsupported, match=name) as caught:
        sent(VLLM(), **{name: "x"})
    assert (caught.value.param, caught.value.status, caught.value.code) == (name, 400, "unsupported_parameter")
    assert name in sent(VLLM(), **{name: None})


def test_an_older_vllm_may_be_asked_for_the_best_of_several() -> None:
    assert sent(VLLM(), labels=(("version", "0.11.2"),), best_of=2)["best_of"] == 2
    for version in ("0.12.0", "1.0", "", "dev"):
        with pytest.raises(Unsupported):
            sent(VLLM(), labels=(("version", version),), best_of=2)


EVERYBODY = (VLLM(), SGLang(), LlamaCpp(), TGI(), Ollama(), TensorRT(), OpenAI(), DeepSeek(), Gemini(), HuggingFace())


@pytest.mark.parametrize("adapter", EVERYBODY)
@pytest.mark.parametrize("choice", [{}, {"tool_choice": "auto"}, {"tool_choice": "none", "parallel_tool_calls": True}])
def test_an_empty_list_of_tools_is_none(adapter: Adapter, choice: dict[str, Any]) -> None:
    assert sent(adapter, tools=[], **choice) == sent(adapter)


def test_tools_that_are_demanded_where_there_are_none_are_the_engines_to_refuse() -> None:
    assert sent(VLLM(), tools=[], tool_choice="required") == {"model": "tiny", "tool_choice": "required"}
    assert "tools" in sent(VLLM(), tools=[{"type": "function"}])


@pytest.mark.parametrize("adapter", [TensorRT(), DeepSeek(), Gemini()])
def test_who_complains_of_members_it_does_not_know_is_spared_those_of_no_consequence(adapter: Adapter) -> None:
    members = {"metadata": {"a": "b"}, "store": True, "prompt_cache_key": "x", "verbosity": "low", "seed": None}
    assert sent(adapter, **members) == {"model": "tiny", "seed": None}


@pytest.mark.parametrize("adapter", [TGI(), Ollama(), DeepSeek(), Gemini(), TensorRT()])
@pytest.mark.parametrize("parallel", [False, True])
def test_who_calls_several_tools_at_once_is_not_told_not_to(adapter: Adapter, parallel: bool) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert sent(adapter, tools=tools, parallel_tool_calls=parallel) == sent(adapter, tools=tools)


@pytest.mark.parametrize("adapter", [Ollama(), DeepSeek(), Gemini()])
@pytest.mark.parametrize(
    ("name", "idle"), [("top_k", -1), ("repetition_penalty", 1.0), ("min_p", 0), ("min_tokens", 0)]
)
def test_what_open_engines_have_is_refused_where_it_asks_for_something(adapter: Adapter, name: str, idle: Any) -> None:
    assert name in sent(adapter, **{name: idle})
    with pytest.raises(Unsupported, match=name) as caught:
        sent(adapter, **{name: 3})
    assert caught.value.droppable == (name,)


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty"])
def test_deepseek_would_ignore_penalties(name: str) -> None:
    with pytest.raises(Unsupported, match=name):
        sent(DeepSeek(), **{name: 0.5})
    assert sent(DeepSeek(), **{name: 0})


def test_llamacpp_has_a_name_of_its_own_for_the_repetition_penalty() -> None:
    assert sent(LlamaCpp(), repetition_penalty=1.1) == {"model": "tiny", "repeat_penalty": 1.1}


def test_all_that_may_be_left_out_is_named_at_once_and_what_may_not_comes_first() -> None:
    with pytest.raises(Unsupported) as caught:
        sent(Ollama(), n=2, top_k=5, logit_bias={"1": 1})
    assert set(caught.value.droppable) == {"n", "top_k", "logit_bias"}
    with pytest.raises(Unsupported) as caught:
        sent(Ollama(), n=2, tool_choice="required")
    assert (caught.value.param, caught.value.droppable) == ("tool_choice", ())


def test_gemini_lists_models_by_a_path_and_is_asked_without() -> None:
    assert [c.id for c in Gemini().parse_models(b'{"data":[{"id":"models/gemini-2"},{"id":"x"}]}')] == ["gemini-2", "x"]


@pytest.mark.parametrize("adapter", [VLLM(), SGLang(), LlamaCpp()])
def test_best_of_is_refused_only_where_it_would_change_the_answer(adapter: Adapter) -> None:
    with pytest.raises(Unsupported, match="best_of"):
        sent(adapter, best_of=3, n=2)
    assert sent(adapter, best_of=2, n=2)["best_of"] == 2
    assert sent(adapter, best_of=1)["best_of"] == 1


@pytest.mark.parametrize("adapter", [VLLM(), SGLang(), LlamaCpp(), TGI(), Ollama(), TensorRT()])
@pytest.mark.parametrize("member", [{"functions": [{}]}, {"modalities": ["audio"]}, {"web_search_options": {"a": 1}}])
def test_openai_members_that_engines_know_nothing_of_are_refused(adapter: Adapter, member: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match=next(iter(member))):
        sent(adapter, **member)


@pytest.mark.parametrize("adapter", [VLLM(), SGLang(), LlamaCpp(), OpenAI()])
def test_members_of_no_consequence_pass(adapter: Adapter) -> None:
    members = {"user": "u", "metadata": {}, "store": False, "modalities": ["text"], "audio": None, "functions": []}
    assert sent(adapter, **members) == {"model": "tiny", **members}


@pytest.mark.parametrize("name", ["prompt_logprobs", "use_beam_search", "bad_words", "allowed_token_ids"])
def test_sglang_is_not_asked_for_what_is_vllms(name: str) -> None:
    with pytest.raises(Unsupported, match=name):
        sent(SGLang(), **{name: {"a": 1}})


@pytest.mark.parametrize("members", [{"echo": True}, {"logprobs": 2}, {"logprobs": 0}])
def test_llamacpp_is_not_asked_for_completions_it_answers_otherwise(members: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match=next(iter(members))):
        sent(LlamaCpp(), prompt="x", **members)
    assert sent(LlamaCpp(), logprobs=True)["logprobs"] is True


@pytest.mark.parametrize("operation", list(Operation))
def test_vllm_and_sglang_serve_every_operation_in_its_place(operation: Operation) -> None:
    for adapter in (VLLM(), SGLang()):
        path = adapter.encode(request(operation=operation), endpoint(), "tiny").path
        assert path == operation.value.encode()


@pytest.mark.parametrize(
    ("adapter", "operation"),
    [
        (TGI(), Operation.EMBEDDINGS),
        (TGI(), Operation.RESPONSES),
        (TGI(), Operation.RERANK),
        (TGI(), Operation.DETOKENIZE),
        (TGI(), Operation.COUNT_TOKENS),
        (HuggingFace(), Operation.EMBEDDINGS),
        (Anthropic(), Operation.COMPLETIONS),
        (DeepSeek(), Operation.EMBEDDINGS),
    ],
)
def test_what_an_engine_does_not_offer_is_not_found_by_name(adapter: Adapter, operation: Operation) -> None:
    with pytest.raises(NotFound, match=operation.value):
        adapter.encode(request(operation=operation), endpoint(), "tiny")


@pytest.mark.parametrize("adapter", [DeepSeek(), Ollama()])
def test_the_newer_name_of_the_token_limit_becomes_the_one_they_heed(adapter: Adapter) -> None:
    assert sent(adapter, max_completion_tokens=7) == {"model": "tiny", "max_tokens": 7}
    assert sent(adapter, max_completion_tokens=7, max_tokens=9) == {"model": "tiny", "max_tokens": 7}
    assert sent(adapter, max_tokens=9) == {"model": "tiny", "max_tokens": 9}
    assert sent(adapter, max_tokens=9, max_completion_tokens=None) == {"model": "tiny", "max_tokens": 9}


def test_ollama_is_not_asked_to_choose_tools_or_bias_tokens() -> None:
    for members in ({"tool_choice": "required"}, {"logit_bias": {"1": 2}}, {"n": 2}):
        with pytest.raises(Unsupported, match=next(iter(members))):
            sent(Ollama(), **members)
    assert sent(Ollama(), tool_choice="auto", n=1)


def test_gemini_tool_calls_get_an_index_and_their_finish_reason() -> None:
    body = (
        b'data: {"id":"x","choices":[{"index":0,"delta":{"role":"assistant","tool_calls":[{"id":"a","type":"function",'
        b'"function":{"name":"f","arguments":"{}"},"extra_content":{"google":{"thought_signature":"s"}}}]},'
        b'"finish_reason":null}],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":17}}\n\n'
        b'data: {"id":"x","choices":[{"index":0,"delta":{"role":"assistant","tool_calls":[{"id":"b","type":"function",'
        b'"function":{"name":"g","arguments":"{}"}}]},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    )
    made = Gemini().decoder(request(stream=True), 200, events(b"").headers)
    first, second, *_ = [json.loads(e[6:]) for e in run(made, [body]).split(b"\n\n")[:2]]
    call = first["choices"][0]["delta"]["tool_calls"][0]
    assert (call["index"], call["id"], call["extra_content"]["google"]) == (0, "a", {"thought_signature": "s"})
    assert second["choices"][0]["delta"]["tool_calls"][0]["index"] == 1
    assert second["choices"][0]["finish_reason"] == "tool_calls"
    assert made.usage == Usage(5, 12, 0, 10)


def test_gemini_is_asked_below_its_own_base() -> None:
    assert Gemini().encode(request(), endpoint("/v1beta/openai"), "tiny").path == b"/chat/completions"
    assert Gemini().models_path() == b"/models"


def test_anthropic_is_told_a_version() -> None:
    sent = Anthropic().encode(request(operation=Operation.MESSAGES), endpoint(), "tiny")
    assert dict(sent.extra)[b"anthropic-version"] == b"2023-06-01"


def test_recorded_model_listings() -> None:
    loras = VLLM().parse_models(answer("vllm-lora-tools/models").body)
    assert [(c.id, c.parent, c.max_model_len, c.owned_by) for c in loras] == [
        ("tiny", None, 2048, "vllm"),
        ("lora-a", "tiny", None, "vllm"),
    ]
    assert [c.max_model_len for c in SGLang().parse_models(answer("sglang/models").body)] == [2048]
    assert [c.max_model_len for c in LlamaCpp().parse_models(answer("llamacpp/models").body)] == [2048]


def test_sglang_lists_a_lora_by_the_name_it_answers_to() -> None:
    body = b'{"data":[{"id":"base"},{"id":"sql","parent":"base"},{"id":"base:chat","parent":"base"}]}'
    assert [c.id for c in SGLang().parse_models(body)] == ["base", "base:sql", "base:chat"]


@pytest.mark.parametrize("adapter", [VLLM(), SGLang(), LlamaCpp(), TGI(), Gemini()])
@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"<html>", b'{"data":[{"name":"x"}]}'])
def test_what_is_no_listing_is_a_value_error(adapter: Adapter, body: bytes) -> None:
    with pytest.raises(ValueError):
        adapter.parse_models(body)


@pytest.mark.parametrize(("folder", "engine"), [("vllm", "vllm"), ("sglang", "sglang"), ("llamacpp", "llamacpp")])
def test_recorded_engines_are_recognised(folder: str, engine: str) -> None:
    names = {"/v1/models": "models", "/version": "version", "/get_model_info": "get-model-info", "/props": "props"}
    recorded = {path: answer(f"{folder}/{name}") for path, name in names.items()}
    answers = {path: given.body for path, given in recorded.items() if given.status == 200}
    assert detect(answers) == engine
    assert detect({"/v1/models": answers["/v1/models"]}) == engine


def test_other_engines_are_recognised() -> None:
    assert detect({"/info": b'{"model_id":"m","max_total_tokens":9}', "/v1/models": b'{"data":[]}'}) == "tgi"
    assert detect({"/api/version": b'{"version":"0.33"}', "/v1/models": b'{"data":[]}'}) == "ollama"
    assert detect({"/v1/models": b'{"data":[{"id":"gpt","owned_by":"system"}]}'}) == "openai"
    assert detect({}) is None
    assert detect({"/version": b'"x"', "/info": b"[", "/v1/models": b"[]"}) is None
    assert all(path.startswith("/") for path in PROBES)


def test_the_registry_ignores_case_and_knows_every_engine() -> None:
    adapters = load()
    assert adapters["vLLM"].name == "vllm"
    assert "SGLang" in adapters
    assert "nope" not in adapters
    assert set(adapters) >= {
        "vllm",
        "sglang",
        "tgi",
        "openai",
        "deepseek",
        "gemini",
        "huggingface",
        "anthropic",
        "ollama",
    }
    assert (
        load(frozenset({"priority"}))["vllm"].encode(request(b'{"model":"tiny","priority":1}'), endpoint(), "tiny").body
        == b'{"model":"tiny","priority":1}'
    )


def test_tgis_listing() -> None:
    assert TGI().parse_models(b'{"model_id":"org/m","max_total_tokens":4096,"x":1}') == [
        ModelCard("org/m", None, 4096, "tgi")
    ]
    assert TGI().models_path() == b"/info"


@pytest.mark.parametrize("listing", ["5", "null", "[[]]", '[{"id":"x","owned_by":[]}]', '[{"id":5}]', '["x"]', "{}"])
def test_a_listing_of_an_odd_shape_is_at_most_a_value_error(listing: str) -> None:
    body = f'{{"data":{listing}}}'.encode()
    with contextlib.suppress(ValueError):
        detect({"/v1/models": body})
    for name in load():
        with contextlib.suppress(ValueError):
            load()[name].parse_models(body)


def test_deepseek_tells_cached_tokens_where_clients_look_for_them() -> None:
    counts = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11, "prompt_cache_hit_tokens": 6}
    head = {"id": "x", "created": 5, "model": "m"}
    done = {"index": 0, "delta": {}, "finish_reason": "stop"}
    last = {**head, "object": "chat.completion.chunk", "choices": [done], "usage": counts}
    made = DeepSeek().decoder(request(stream=True, include_usage=True), 200, events(b"").headers)
    said = run(made, [b"\n: keep-alive\n\ndata: %b\n\ndata: [DONE]\n\n" % json.dumps(last).encode()])
    told = [json.loads(each[6:]) for each in said.split(b"\n\n") if each.startswith(b"data: {")]
    assert [each["usage"]["prompt_tokens_details"] for each in told] == [{"cached_tokens": 6}] * 2
    assert made.usage == Usage(9, 2, 6)
    choice = {"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
    whole = {**head, "object": "chat.completion", "choices": [choice], "usage": counts}
    decoder = DeepSeek().decoder(request(), 200, [(b"content-type", b"application/json")])
    body = json.loads(run(decoder, [b"\n\n", json.dumps(whole).encode()]))
    assert body["usage"] == {**counts, "prompt_tokens_details": {"cached_tokens": 6}}
    newer = {**whole, "usage": {**counts, "prompt_tokens_details": {"cached_tokens": 5}}}
    decoder = DeepSeek().decoder(request(), 200, [(b"content-type", b"application/json")])
    assert json.loads(run(decoder, [json.dumps(newer).encode()]))["usage"] == newer["usage"]


@pytest.mark.parametrize(
    ("at", "known"),
    [
        (Endpoint("openai", "https", "api.openai.com", 443), True),
        (Endpoint("openai", "https", "x.openai.azure.com", 443, deployments=True), True),
        (Endpoint("openai", "https", "api.groq.com", 443), False),
    ],
)
def test_what_openai_itself_does_not_know_is_known(at: Endpoint, known: bool) -> None:
    body = b'{"model":"tiny","top_k":5,"guided_json":{"a":1}}'
    adapter = load()["openai"]
    if not known:
        assert adapter.encode(request(body), at, "tiny").body == body
        return
    with pytest.raises(Unsupported, match="top_k") as caught:
        adapter.encode(request(body), at, "tiny")
    assert caught.value.droppable == ("top_k",)
    sent = json.loads(adapter.encode(request(body.replace(b'"top_k":5,', b"")), at, "tiny").body)
    assert sent["response_format"]["json_schema"]["schema"] == {"a": 1}


def test_llamacpp_is_left_no_choice_where_a_tool_is_named() -> None:
    tools = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("f", "g")]
    named = {"type": "function", "function": {"name": "g"}}
    told = sent(LlamaCpp(), tools=tools, tool_choice=named)
    assert (told["tools"], told["tool_choice"]) == (tools[1:], "required")
    for choice in ("auto", "required", "none", None, {"type": "function", "function": 5}, {"type": "odd"}):
        assert sent(LlamaCpp(), tools=tools, tool_choice=choice) == {
            "model": "tiny", "tools": tools, "tool_choice": choice
        }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ({"reasoning_effort": "none"}, {"enable_thinking": False}),
        ({"reasoning_effort": "low", "chat_template_kwargs": {"a": 1}}, {"a": 1, "reasoning_effort": "low"}),
        ({"reasoning_effort": "low", "chat_template_kwargs": None}, {"reasoning_effort": "low"}),
        (
            {"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "high"}},
            {"reasoning_effort": "high"},
        ),
        ({"reasoning_effort": None}, None),
    ],
)
def test_llamacpps_templates_are_told_how_hard_to_think(given: dict[str, Any], told: dict[str, Any] | None) -> None:
    assert sent(LlamaCpp(), **given).get("chat_template_kwargs") == told


def tokenized(operation: Operation, **members: Any) -> dict[str, Any]:
    body = json.dumps({"model": "tiny", **members}).encode()
    asked = LlamaCpp().encode(request(body, operation=operation), endpoint(), "tiny")
    assert asked.path == operation.value.encode()
    decoded = json.loads(asked.body)
    assert isinstance(decoded, dict)
    return decoded


def test_llamacpps_tokens_are_asked_for_as_elsewhere() -> None:
    asked = {"model": "tiny", "content": "hi", "add_special": True}
    assert tokenized(Operation.TOKENIZE, prompt="hi") == asked
    assert tokenized(Operation.TOKENIZE, prompt="hi", add_special_tokens=False) == {**asked, "add_special": False}
    own = {"model": "tiny", "content": "hi", "with_pieces": True}
    assert tokenized(Operation.TOKENIZE, **own) == own
    assert tokenized(Operation.DETOKENIZE, tokens=[1]) == {"model": "tiny", "tokens": [1]}
    for name, value in {"messages": [{}], "return_token_strs": True}.items():
        with pytest.raises(Unsupported, match=name):
            tokenized(Operation.TOKENIZE, **{name: value})
    for prompt in (["hi"], 5, None):
        with pytest.raises(InvalidRequest, match="prompt"):
            tokenized(Operation.TOKENIZE, prompt=prompt)


def test_llamacpps_tokens_are_told_as_elsewhere() -> None:
    json_body = [(b"content-type", b"application/json")]
    for operation, body, expected in (
        (Operation.TOKENIZE, b'{"tokens":[1,2,3]}', {"tokens": [1, 2, 3], "count": 3}),
        (Operation.TOKENIZE, b'{"tokens":5}', {"tokens": 5}),
        (Operation.DETOKENIZE, b'{"content":"hi"}', {"content": "hi", "prompt": "hi"}),
        (Operation.DETOKENIZE, b"{}", {}),
    ):
        decoder = LlamaCpp().decoder(request(operation=operation), 200, json_body)
        assert json.loads(run(decoder, [body])) == expected


@pytest.mark.parametrize("operation", [Operation.CHAT, Operation.COMPLETIONS])
def test_ollamas_answers_get_ids_that_do_not_repeat(operation: Operation) -> None:
    said = {"delta": {"content": "a"}} if operation is Operation.CHAT else {"text": "a"}
    chunk = {"id": "chatcmpl-7", "object": "o", "created": 1, "model": "tiny", "choices": [{"index": 0, **said}]}
    asked = request(operation=operation, stream=True)
    stream = b"data: %b\n\n" % json.dumps(chunk).encode() * 3
    out = run(Ollama().decoder(asked, 200, events(b"").headers), [stream])
    ident = ("chatcmpl" if operation is Operation.CHAT else "cmpl") + "-req-1"
    assert [json.loads(event[6:])["id"] for event in out.split(b"\n\n")[:-1]] == [ident] * 3
    whole = json.dumps({**chunk, "choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}]})
    json_body = [(b"content-type", b"application/json")]
    decoder = Ollama().decoder(request(operation=operation), 200, json_body)
    assert json.loads(run(decoder, [whole.encode()]))["id"] == ident


def test_trtllms_chunks_get_the_reason_they_leave_out() -> None:
    """Its first event ends with a space on its line, and only its last has a finish reason."""
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
    deltas = [{"role": "assistant"}, *({"content": word} for word in "abcd")]
    chunks = [{**head, "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    last = {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    first, *others = [b"data: %b" % json.dumps(each).encode() for each in (*chunks, last)]
    body = b"\n\n".join((first + b" ", *others)) + b"\n\ndata: [DONE]\n\n"
    for size in (1, 7, len(first) + 1, len(first) + 2, len(first) + 3, len(body)):
        out = run(TensorRT().decoder(request(stream=True), 200, events(b"").headers), split(body, size))
        told = [json.loads(event[6:])["choices"][0] for event in out.split(b"\n\n")[:-2]]
        assert [choice["finish_reason"] for choice in told] == [None] * 5 + ["stop"]
        assert [choice["delta"] for choice in told] == [*deltas, {}]
        assert b" \n" not in out


@pytest.mark.parametrize("adapter", [*EVERYBODY, Anthropic()])
def test_a_tool_that_is_chosen_is_one_of_them(adapter: Adapter) -> None:
    def asked(name: str, *tools: Any) -> None:
        choice = {"type": "function", "function": {"name": name}}
        turn = {"role": "user", "content": "hi"}
        with contextlib.suppress(Unsupported):  # Ollama chooses itself
            sent(adapter, messages=[turn], tools=list(tools), tool_choice=choice)

    tool = {"type": "function", "function": {"name": "f"}}
    asked("f", tool, {"type": "function", "function": {"name": "g"}})
    if not isinstance(adapter, Ollama):
        with pytest.raises(InvalidRequest, match="'x' not found") as caught:
            asked("x", tool)
        assert caught.value.param == "tool_choice"
    if not isinstance(adapter, Anthropic):
        asked("x", {"type": "custom", "custom": {"name": "x"}})
        asked("x", {"type": "function", "function": 5})


def test_models_were_made_when_anthropic_says() -> None:
    listing = {
        "data": [{"id": "a", "created_at": "2026-01-01T00:00:00Z"}, {"id": "b", "created_at": "soon"}, {"id": "c"}]
    }
    cards = Anthropic().parse_models(json.dumps(listing).encode())
    assert [(card.id, card.created) for card in cards] == [("a", 1767225600), ("b", 0), ("c", 0)]


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("image input is not supported - hint: if this is unexpected, you may need to provide the mmproj", 400),
        ("Failed to parse tools: Missing tool function: {}", 400),
        ("Failed to parse messages: Missing 'role' in message: {}", 400),
        ("[json.exception.type_error.306] cannot use value() with string", 400),
        ("Compute error.", 500),
    ],
)
def test_llamacpps_word_for_a_request_at_fault_is_no_failure_of_its_own(message: str, status: int) -> None:
    body = {"error": {"code": 500, "message": message, "type": "server_error"}}
    error = LlamaCpp().error(500, [], json.dumps(body).encode())
    assert (error.status, error.retryable) == (status, False)
    assert error.message == message
    assert LlamaCpp().error(503, [], json.dumps(body).encode()).status == 503
