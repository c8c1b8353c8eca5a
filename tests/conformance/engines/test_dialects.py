"""What is particular to one engine: versions, adapters, keys, native routes, metrics names."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest
import trio
import trio.testing

from conformance.engines import Settings
from conformance.engines.engine import Engine
from tests.conformance.engines.played import JSON, ask, play
from tests.recordings import folder

CHAT = "/v1/chat/completions"


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4, **more}


def served(**settings: Any) -> Settings:
    return Settings(models=("m",), **settings)


async def page(engine: Engine) -> str:
    return (await ask(engine, "/metrics")).body.decode()


# -- vLLM -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "nested", "fields", "usage", "step"),
    [
        ("0.9.1", False, {"reasoning_content"}, "gpu_cache_usage_perc", "time_per_output_token"),
        ("0.10.2", True, {"reasoning_content"}, "gpu_cache_usage_perc", "inter_token_latency"),
        ("0.13.0", True, {"reasoning", "reasoning_content"}, "kv_cache_usage_perc", "inter_token_latency"),
        ("0.33.0", True, {"reasoning"}, "kv_cache_usage_perc", "inter_token_latency"),
    ],
)
def test_vllm_releases(version: str, nested: bool, fields: set[str], usage: str, step: str) -> None:
    async def script(engine: Engine) -> None:
        error = (await ask(engine, CHAT, chat(model="nope"))).json
        assert ("error" in error) is nested
        message = (await ask(engine, CHAT, chat(model="reasoner"))).json["choices"][0]["message"]
        assert {name for name in message if name.startswith("reasoning")} == fields
        shown = await page(engine)
        assert f"vllm:{usage}{{" in shown
        assert f"vllm:{step}_seconds_bucket{{" in shown

    play("vllm", Settings(models=("reasoner",), version=version), script)


@pytest.mark.parametrize(
    ("version", "has", "has_not"),
    [
        (
            "0.6.6.post1",
            {
                *("gpu_cache_usage_perc", "cpu_cache_usage_perc", "gpu_prefix_cache_hit_rate", "num_requests_swapped"),
                "time_per_output_token_seconds",
            },
            {"kv_cache_usage_perc", "gpu_prefix_cache_queries_total", "inter_token_latency_seconds"},
        ),
        ("0.9.1", {"gpu_cache_usage_perc", "gpu_prefix_cache_hits_total"}, {"gpu_prefix_cache_hit_rate"}),
        (
            "0.10.2",
            {
                *("gpu_cache_usage_perc", "kv_cache_usage_perc", "gpu_prefix_cache_hits_total"),
                *("prefix_cache_hits_total", "time_per_output_token_seconds", "inter_token_latency_seconds"),
            },
            {"engine_sleep_state", "num_requests_swapped"},
        ),
        (
            "0.11.2",
            {"kv_cache_usage_perc", "engine_sleep_state", "mm_cache_hits_total", "time_per_output_token_seconds"},
            {"gpu_cache_usage_perc", "prompt_tokens_cached_total"},
        ),
        (
            "0.20.2",
            {"num_requests_waiting_by_reason", "prompt_tokens_cached_total"},
            {"time_per_output_token_seconds", "admission_rejections_total"},
        ),
        ("0.33.0", {"admission_rejections_total", "prompt_tokens_cached_by_source_total"}, {"gpu_cache_usage_perc"}),
    ],
)
def test_vllm_vocabularies(version: str, has: set[str], has_not: set[str]) -> None:
    async def script(engine: Engine) -> None:
        for _ in range(2):
            await ask(engine, CHAT, chat(messages=[{"role": "user", "content": "word " * 100}]))
        shown = await page(engine)
        found = {line.split()[2].removeprefix("vllm:") for line in shown.splitlines() if line.startswith("# TYPE")}
        assert has <= found
        assert not has_not & found
        assert ('{engine="0"' in shown) is (version != "0.6.6.post1")
        if "gpu_prefix_cache_hit_rate" in has:
            rate = next(line for line in shown.splitlines() if line.startswith("vllm:gpu_prefix_cache_hit_rate{"))
            assert 0 < float(rate.split()[1]) < 1

    play("vllm", served(version=version), script)


def test_vllm_knows_what_was_recorded() -> None:
    recorded = (folder("vllm") / "metrics.prom").read_text()

    async def script(engine: Engine) -> None:
        kinds = {line.split()[2]: line.split()[3] for line in recorded.splitlines() if line.startswith("# TYPE")}
        shown = [line.split()[2:4] for line in (await page(engine)).splitlines() if line.startswith("# TYPE")]
        assert all(kinds[name] == kind for name, kind in shown)

    play("vllm", served(version="0.32.0"), script)


def test_vllm_adapters_come_and_go() -> None:
    async def script(engine: Engine) -> None:
        load = {"lora_name": "sql", "lora_path": "/adapters/sql"}
        assert (await ask(engine, CHAT, chat(model="sql"))).status == 404
        assert (await ask(engine, "/v1/load_lora_adapter", load)).status == 200
        assert (await ask(engine, "/v1/load_lora_adapter", load)).json["error"]["type"] == "InvalidUserInput"
        cards = (await ask(engine, "/v1/models")).json["data"]
        assert [(card["id"], card["parent"]) for card in cards] == [("m", None), ("sql", "m")]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, engine, CHAT, chat(model="sql"))
            await trio.testing.wait_all_tasks_blocked()
            assert 'max_lora="4",running_lora_adapters="sql",waiting_lora_adapters="sql"} ' in await page(engine)
        assert 'running_lora_adapters="",waiting_lora_adapters=""} ' in await page(engine)
        assert (await ask(engine, "/v1/unload_lora_adapter", {"lora_name": "sql"})).status == 200
        assert (await ask(engine, "/v1/unload_lora_adapter", {"lora_name": "sql"})).status == 404

    play("vllm", served(itl=0.1), script)


def test_vllm_answers_anthropics_clients_in_their_shape() -> None:
    async def script(engine: Engine) -> None:
        refused = await ask(engine, "/v1/messages", chat(model="none"))
        assert (refused.status, refused.json["type"]) == (404, "error")
        assert refused.json["error"]["type"] == "NotFoundError"
        assert (await ask(engine, "/v1/messages", {"model": "m"})).json["error"]["type"] == "Bad Request"
        stream = (await ask(engine, "/v1/messages", chat(stream=True))).events
        assert (stream[-1]["type"], stream[-1]["error"]["type"]) == ("error", "api_error")

    play("vllm", served(fail=("error-event:2",)), script)


def test_vllm_guards_v1_only() -> None:
    async def script(engine: Engine) -> None:
        refused = await ask(engine, CHAT, chat())
        assert (refused.status, refused.json) == (401, {"error": "Unauthorized"})
        assert (await ask(engine, CHAT, chat(), headers=(*JSON, (b"authorization", b"Bearer k")))).status == 200
        for path in ("/health", "/metrics", "/version", "/load"):
            assert (await ask(engine, path)).status == 200

    play("vllm", served(api_key="k"), script)


def test_vllm_embeddings_rerank_and_tokens() -> None:
    async def script(engine: Engine) -> None:
        floats = (await ask(engine, "/v1/embeddings", {"input": ["a", "b"], "dimensions": 8})).json
        packed = (
            await ask(engine, "/v1/embeddings", {"input": "a", "dimensions": 8, "encoding_format": "base64"})
        ).json
        raw = base64.b64decode(packed["data"][0]["embedding"])
        assert struct.unpack("<8f", raw) == pytest.approx(floats["data"][0]["embedding"])
        ranked = (await ask(engine, "/v1/rerank", {"query": "a b", "documents": ["c", "a b"], "top_n": 1})).json
        assert [each["index"] for each in ranked["results"]] == [1]
        tokens = (await ask(engine, "/tokenize", {"prompt": "Hello there"})).json["tokens"]
        assert (await ask(engine, "/detokenize", {"tokens": tokens})).json == {"prompt": "Hello there"}

    play("vllm", served(), script)


# -- SGLang -----------------------------------------------------------------------------------------------------


def test_sglang_adapters_follow_a_colon() -> None:
    async def script(engine: Engine) -> None:
        assert (await ask(engine, CHAT, chat(model="m:a"))).json["model"] == "m:a"
        assert (await ask(engine, CHAT, chat(model="m:b"))).status == 400
        loaded = await ask(engine, "/load_lora_adapter", {"lora_name": "b", "lora_path": "/b"})
        assert loaded.json["success"]
        assert (await ask(engine, CHAT, chat(model="m:b"))).status == 200
        assert (await ask(engine, "/unload_lora_adapter", {"lora_name": "none"})).status == 400
        assert "sglang:lora_pool_slots_used{" in await page(engine)

    play("sglang", served(loras=("a",)), script)


def test_sglang_native_streams_repeat_themselves() -> None:
    async def script(engine: Engine) -> None:
        body = {"text": "Hi", "sampling_params": {"max_new_tokens": 3}}
        whole = (await ask(engine, "/generate", body)).json
        *parts, done = (await ask(engine, "/generate", {**body, "stream": True})).events
        assert done == "[DONE]"
        assert [whole["text"].startswith(part["text"]) for part in parts] == [True] * 3
        assert parts[-1]["text"] == whole["text"]
        assert parts[-1]["meta_info"]["finish_reason"] == {"type": "length", "length": 3}
        many = (await ask(engine, "/generate", {**body, "text": ["a", "b"]})).json
        assert len(many) == 2

    play("sglang", served(), script)


def test_sglang_full_queue_inside_a_stream() -> None:
    async def script(engine: Engine) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, engine, CHAT, chat(max_tokens=100))
            await trio.testing.wait_all_tasks_blocked()
            answer = await ask(engine, CHAT, chat(stream=True))
            assert answer.status == 200
            assert answer.body.startswith(
                b'data: {"error": {"object": "error", "message": "The request queue is full.", '
                b'"type": "SERVICE_UNAVAILABLE", "param": null, "code": 503}}\n\ndata: [DONE]\n\n'
            )
            plain = await ask(engine, CHAT, chat())
            assert plain.body == (
                b'{"object":"error","message":"The request queue is full.","type":"503","param":null,"code":503}'
            )
            nursery.cancel_scope.cancel()

    play("sglang", served(itl=0.1, max_running=1, max_queued=0), script)


def test_sglang_says_how_it_is() -> None:
    async def script(engine: Engine) -> None:
        for path in ("/health", "/health_generate", "/ready", "/ping", "/get_server_info", "/v1/loads"):
            assert (await ask(engine, path)).status == 200
        await ask(engine, CHAT, chat(stream=True))
        shown = await page(engine)
        assert 'sglang:num_running_reqs{engine_type="unified",model_name="m",moe_ep_rank="0",' in shown
        assert 'sglang:time_to_first_token_seconds_count{engine_type="unified",is_streaming="true"' in shown
        assert 'sglang:generation_tokens_total{engine_type="unified",is_streaming="true",model_name="m"} 4.0' in shown

    play("sglang", served(), script)


# -- TGI --------------------------------------------------------------------------------------------------------


def test_tgi_native_routes() -> None:
    async def script(engine: Engine) -> None:
        body = {"inputs": "Hi", "parameters": {"max_new_tokens": 2, "details": True}}
        whole = await ask(engine, "/generate", body)
        assert whole.headers["x-generated-tokens"] == "2"
        assert whole.json["details"]["finish_reason"] == "length"
        stream = await ask(engine, "/generate_stream", body)
        assert b"[DONE]" not in stream.body
        assert stream.events[-1]["generated_text"] == whole.json["generated_text"]
        assert stream.events[0]["generated_text"] is None
        assert (await ask(engine, "/", body)).json[0]["generated_text"] == whole.json["generated_text"]
        assert (await ask(engine, "/info")).json["model_id"] == "m"
        assert (await ask(engine, "/v1/models")).json["data"][0]["created"] == 0

    play("tgi", served(), script)


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"model": "tgi"}, 200),
        ({"model": "other"}, 422),
        ({"stop": "x"}, 422),
        ({"stop": ["x"]}, 200),
        ({"top_p": 1.0}, 422),
        ({"logit_bias": {"1": 1}}, 422),
        ({"max_completion_tokens": 3}, 422),
        ({"response_format": {"type": "json_object"}}, 422),
        ({"response_format": {"type": "json", "value": {"type": "object"}}}, 200),
        ({"n": 3}, 200),
        ({"no_such_field": 1}, 200),
        ({"max_tokens": 10**6}, 422),
    ],
)
def test_tgi_messages_api(more: dict[str, Any], status: int) -> None:
    async def script(engine: Engine) -> None:
        answer = await ask(engine, CHAT, chat(**more))
        assert answer.status == status
        if status == 200:
            assert answer.json["id"] == ""
            assert len(answer.json["choices"]) == 1

    play("tgi", served(), script)


def test_tgi_streams_have_no_space_and_repeat_the_role() -> None:
    async def script(engine: Engine) -> None:
        answer = await ask(engine, CHAT, chat(stream=True))
        assert answer.body.startswith(b'data:{"object":"chat.completion.chunk","id":"",')
        assert answer.body.endswith(b"data:[DONE]\n\n")
        assert all(each["choices"][0]["delta"]["role"] == "assistant" for each in answer.events[:-1])
        assert answer.headers["x-accel-buffering"] == "no"
        completion = await ask(engine, "/v1/completions", {"prompt": ["a", "b"], "max_tokens": 2, "stream": True})
        reasons = [each["choices"][0]["finish_reason"] for each in completion.events[:-1]]
        assert sorted(reasons) == ["", "", "length", "length"]
        assert sum("usage" in each for each in completion.events[:-1]) == 2

    play("tgi", served(), script)


def test_tgi_metrics_are_whole_numbers() -> None:
    async def script(engine: Engine) -> None:
        assert "tgi_queue_size" not in await page(engine)
        await ask(engine, CHAT, chat())
        shown = await page(engine)
        assert "\ntgi_request_success 1\n" in shown
        assert "tgi_queue_size 0\n" in shown

    play("tgi", served(), script)


# -- public providers -------------------------------------------------------------------------------------------


def test_openai_demands_its_key_and_counts() -> None:
    async def script(engine: Engine) -> None:
        assert (await ask(engine, CHAT, chat())).json["error"]["code"] == "invalid_api_key"
        wrong = await ask(engine, CHAT, chat(), headers=(*JSON, (b"authorization", b"Bearer no")))
        assert wrong.status == 401
        assert wrong.headers["x-request-id"].startswith("req_")
        right = await ask(engine, CHAT, chat(), headers=(*JSON, (b"authorization", b"Bearer k")))
        assert right.headers["x-ratelimit-remaining-requests"] == "999999"

    play("openai", served(api_key="k"), script)


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        ({"no_such_field": 1}, 400, "unknown_parameter"),
        ({"model": "none"}, 404, "model_not_found"),
        ({"model": "m-reason"}, 400, "unsupported_parameter"),
        ({"temperature": 3}, 400, "invalid_value"),
        ({"stream_options": {}}, 200, None),
        ({"messages": [{"role": "user", "content": "x" * 140_000}]}, 400, "context_length_exceeded"),
    ],
)
def test_openai_is_strict(more: dict[str, Any], status: int, code: str | None) -> None:
    async def script(engine: Engine) -> None:
        answer = await ask(engine, CHAT, chat(**more))
        assert answer.status == status
        if code is not None:
            assert answer.json["error"]["code"] == code

    play("openai", Settings(models=("m", "m-reason")), script)


def test_openai_says_null_usage_until_the_end() -> None:
    async def script(engine: Engine) -> None:
        *chunks, last, _ = (await ask(engine, CHAT, chat(stream=True, stream_options={"include_usage": True}))).events
        assert all(chunk["usage"] is None for chunk in chunks)
        assert last["usage"]["completion_tokens"] == 4
        assert not any("usage" in chunk for chunk in (await ask(engine, CHAT, chat(stream=True))).events[:-1])

    play("openai", served(), script)


def test_deepseek_thinks_aloud_and_splits_its_prompt() -> None:
    async def script(engine: Engine) -> None:
        answer = (await ask(engine, "/chat/completions", chat(model="m-reason", max_tokens=20))).json
        assert answer["choices"][0]["message"]["reasoning_content"]
        usage = answer["usage"]
        assert usage["prompt_cache_hit_tokens"] + usage["prompt_cache_miss_tokens"] == usage["prompt_tokens"]

    play("deepseek", Settings(models=("m-reason",)), script)


def test_deepseek_fills_silence() -> None:
    async def script(engine: Engine) -> None:
        whole = await ask(engine, CHAT, chat())
        assert whole.body.startswith(b"\n\n\n{")
        assert whole.writes[0][0] == 5.0
        assert whole.json["choices"][0]["message"]["content"]
        stream = await ask(engine, CHAT, chat(stream=True))
        assert stream.body.startswith(b": keep-alive\n\n: keep-alive\n\n")
        assert [each for each in stream.events if each != "[DONE]"]

    play("deepseek", served(ttft=16.0), script)


@pytest.mark.parametrize(("fault", "end"), [("error-event:1", b'"code":null}}'), ("cut:1", b"")])
def test_deepseek_fails_after_its_blank_lines(fault: str, end: bytes) -> None:
    async def script(engine: Engine) -> None:
        whole = await ask(engine, CHAT, chat())
        assert (whole.status, whole.aborted) == (200, fault == "cut:1")
        assert whole.body.startswith(b"\n")
        assert whole.body.endswith(end)

    play("deepseek", served(ttft=6.0, fail=(fault,)), script)


def test_deepseek_wants_the_thoughts_before_a_call_back() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turn = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "1", "content": "found"}

    async def script(engine: Engine) -> None:
        async def status(model: str, turn: dict[str, Any], **more: Any) -> int:
            return (await ask(engine, CHAT, chat(model=model, messages=[turn, result], **more))).status

        assert await status("m-reason", turn) == 400
        assert await status("m-reason", {**turn, "reasoning_content": "hm"}) == 200
        assert await status("m-reason", turn, thinking={"type": "disabled"}) == 200
        assert await status("m", turn) == 200
        assert await status("m", turn, thinking={"type": "enabled"}) == 400

    play("deepseek", Settings(models=("m", "m-reason")), script)


@pytest.mark.parametrize("kind", ["vllm", "sglang", "openai"])
@pytest.mark.parametrize("model", ["m", "m-reason"])
def test_responses_build_up_what_they_end_with(kind: str, model: str) -> None:
    tool = {"type": "function", "name": "look_up", "parameters": {"required": ["q"]}}

    async def script(engine: Engine) -> None:
        for body in ({"input": "Hi", "max_output_tokens": 20}, {"input": "look_up this", "tools": [tool]}):
            stream = (await ask(engine, "/v1/responses", {"model": model, **body, "stream": True})).events
            assert [each["sequence_number"] for each in stream] == list(range(len(stream)))
            whole = (await ask(engine, "/v1/responses", {"model": model, **body})).json
            done = [each["item"] for each in stream if each["type"] == "response.output_item.done"]
            last = stream[-1]["response"]
            assert last["output"] == done
            assert [item["type"] for item in done] == [item["type"] for item in whole["output"]]
            deltas = "".join(each["delta"] for each in stream if each["type"].endswith(".delta"))
            assert deltas == "".join(each.get("text", each.get("arguments", "")) for each in stream if ends(each))
            assert last["usage"]["output_tokens"] == whole["usage"]["output_tokens"]

    def ends(each: dict[str, Any]) -> bool:
        return each["type"].endswith((".output_text.done", "_arguments.done", ".reasoning_text.done"))

    play(kind, Settings(models=(model,)), script)


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_messages_with_thoughts_and_tools(kind: str) -> None:
    tool = {"name": "look_up", "input_schema": {"required": ["q"]}}
    body = chat(max_tokens=50, tools=[tool], tool_choice={"type": "any"}, model="m-reason")

    async def script(engine: Engine) -> None:
        whole = (await ask(engine, "/v1/messages", body)).json
        assert [block["type"] for block in whole["content"]] == ["thinking", "tool_use"]
        assert whole["stop_reason"] == "tool_use"
        stream = (await ask(engine, "/v1/messages", {**body, "stream": True})).events
        starts = [each["index"] for each in stream if each["type"] == "content_block_start"]
        stops = [each["index"] for each in stream if each["type"] == "content_block_stop"]
        assert starts == stops == [0, 1]
        parts = [each["delta"].get("partial_json", "") for each in stream if each["type"] == "content_block_delta"]
        assert json.loads("".join(parts)) == whole["content"][1]["input"]
        assert stream[-1]["type"] == "message_stop"

    play(kind, Settings(models=("m-reason",)), script)
