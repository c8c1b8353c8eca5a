"""The official SDKs against the simulated engines whose dialects they were made for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import anthropic
import openai
import pytest
import trio

from conformance.engines import Served, Settings, serve_engine

TOOL = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}
ROOTS = {"gemini": "/v1beta/openai", "deepseek": "", "openai": "/v1"}
ASKED = "please look_up"


def against(kind: str, settings: Settings, script: Callable[[str], None]) -> None:
    """Run a blocking script against an engine behind a socket."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            served: Served = await nursery.start(partial(serve_engine, kind, settings))
            await trio.to_thread.run_sync(script, served.url)
            nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.parametrize("kind", ["openai", "deepseek", "gemini", "huggingface", "llamacpp", "ollama", "trtllm"])
def test_openais_sdk(kind: str) -> None:
    name = "m" if kind == "openai" else "m-reason"
    tools: Any = [{"type": "function", "function": {"name": "look_up", "parameters": TOOL}}]
    asked: Any = {"model": name, "messages": [{"role": "user", "content": ASKED}], "tools": tools, "max_tokens": 60}

    def script(url: str) -> None:
        with openai.OpenAI(api_key="k", base_url=url + ROOTS.get(kind, "/v1"), max_retries=0) as client:
            whole = client.chat.completions.create(**asked)
            assert whole.choices[0].finish_reason == "tool_calls"
            assert whole.choices[0].message.tool_calls[0].function.arguments == '{"q":"value"}'
            chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
            assert [c.usage.total_tokens for c in chunks if c.usage][-1] == whole.usage.total_tokens
            with pytest.raises(openai.APIStatusError):
                client.chat.completions.create(**{**asked, "messages": [], "max_tokens": "many"})
            assert [card.id for card in client.models.list()]

    against(kind, Settings(models=(name,), api_key="k"), script)


def test_anthropics_sdk() -> None:
    tools: Any = [{"name": "look_up", "input_schema": TOOL}]
    turns: list[Any] = [{"role": "user", "content": ASKED}]
    asked: Any = {"model": "m-reason", "max_tokens": 60, "tools": tools}

    def script(url: str) -> None:
        with anthropic.Anthropic(api_key="k", base_url=url, max_retries=0) as client:
            with client.messages.stream(**asked, messages=turns) as stream:
                made = stream.get_final_message()
            assert [block.type for block in made.content] == ["thinking", "tool_use"]
            assert made.content[1].input == {"q": "value"}
            result = {"type": "tool_result", "tool_use_id": made.content[1].id, "content": "found"}
            after = [*turns, {"role": "assistant", "content": made.content}, {"role": "user", "content": [result]}]
            assert client.messages.create(**asked, messages=after).stop_reason in ("end_turn", "max_tokens")
            with pytest.raises(anthropic.NotFoundError) as refused:
                client.messages.create(**{**asked, "model": "none"}, messages=turns)
            assert refused.value.request_id
            assert [card.id for card in client.models.list()] == ["m-reason"]

    against("anthropic", Settings(models=("m-reason",), api_key="k"), script)
