"""Write the support matrix of docs/engines.md by asking every adapter for every parameter: `make proto`. (IO)

Nothing here says what an engine takes: each cell is what the adapter's `encode` really made of a request with that
parameter.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from adapters.registry import BUILT_IN  # noqa: E402
from gateway.errors import NotFound, Unsupported  # noqa: E402
from gateway.ports import Adapter  # noqa: E402
from gateway.types import Endpoint, InferenceRequest, Operation  # noqa: E402

PAGE = ROOT / "docs" / "engines.md"
MODEL = "m"


class Column(NamedTuple):
    """An engine, as far as its version matters to its adapter."""

    title: str
    adapter: Adapter
    labels: tuple[tuple[str, str], ...] = ()
    host: str = "127.0.0.1"

    @property
    def variant(self) -> bool:
        """Whether the engine has another column."""
        return bool(self.labels) or self.host != "127.0.0.1"

    def encode(self, operation: Operation, members: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
        """Path and body that it is sent. Raises Unsupported and NotFound."""
        body = json.dumps({"model": MODEL, **members}).encode()
        stream = bool(members.get("stream"))
        asked = bool(stream and members.get("stream_options"))
        endpoint = Endpoint(self.adapter.name, "http", self.host, 1, labels=self.labels)
        request = InferenceRequest("r", operation, MODEL, body, stream=stream, include_usage=asked)
        sent = self.adapter.encode(request, endpoint, MODEL)
        return sent.path, json.loads(sent.body)


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
BASE: dict[Operation, dict[str, Any]] = {
    Operation.CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    Operation.COMPLETIONS: {"prompt": "hi"},
}
SAMPLING: dict[str, Any] = {
    "max_tokens": 9,
    "temperature": 0.5,
    "top_p": 0.5,
    "n": 2,
    "stop": "x",
    "seed": 7,
    "frequency_penalty": 0.5,
    "presence_penalty": 0.5,
    "logit_bias": {"7": -100},
    "stream": True,
    "stream_options": {"stream": True, "stream_options": {"include_usage": True}},
    "user": "ann",
}
BEYOND: dict[str, Any] = {
    "top_k": 5,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "min_tokens": 3,
    "ignore_eos": True,
    "stop_token_ids": [7],
    "bad_words": ["x"],
    "allowed_token_ids": [7],
    "prompt_logprobs": 1,
    "use_beam_search": True,
    "guided_json": SCHEMA,
    "guided_regex": "a+",
    "guided_choice": ["a", "b"],
    "guided_grammar": 'root ::= "a"',
    "structured_outputs": {"json": SCHEMA},
    "regex": "a+",
    "ebnf": 'root ::= "a"',
}
PROBES: dict[Operation, dict[str, Any]] = {
    Operation.CHAT: {
        **SAMPLING,
        "max_completion_tokens": 9,
        "logprobs": {"logprobs": True, "top_logprobs": 2},
        "response_format: json_object": {"response_format": {"type": "json_object"}},
        "response_format: json_schema": {
            "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
        },
        "tools": [TOOL],
        "tools: []": {"tools": []},
        "tool_choice: required": {"tools": [TOOL], "tool_choice": "required"},
        "tool_choice: a name": {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        "tools with response_format": {"tools": [TOOL], "response_format": {"type": "json_object"}},
        "parallel_tool_calls": {"tools": [TOOL], "parallel_tool_calls": False},
        "functions": [{"name": "f"}],
        "reasoning_effort": "low",
        "an image": {"messages": [{"role": "user", "content": [PICTURE]}]},
        "modalities: audio": {"modalities": ["text", "audio"], "audio": {"voice": "a", "format": "wav"}},
        "web_search_options": {"search_context_size": "low"},
        "prediction": {"type": "content", "content": "x"},
        "verbosity": "low",
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "flex",
        "chat_template_kwargs": {"enable_thinking": False},
        **BEYOND,
    },
    Operation.COMPLETIONS: {
        **SAMPLING,
        "best_of": 2,
        "logprobs": 2,
        "echo": True,
        "suffix": "x",
        "several prompts": {"prompt": ["a", "b"]},
        "token ids": {"prompt": [1, 2]},
        **BEYOND,
    },
}
"""What is asked for, by how it is called. An object with the member's name as a key is the members themselves."""


def columns() -> list[Column]:
    made: list[Column] = []
    for kind in BUILT_IN:
        made.append(Column(f"`{kind.name}`", kind()))
        if kind.name == "vllm":
            made.append(Column("`vllm` before 0.12", kind(), labels=(("version", "0.11.0"),)))
        elif kind.name == "openai":
            made.append(Column("OpenAI itself", kind(), host="api.openai.com"))
    return made


def members_of(name: str, probe: Any) -> dict[str, Any]:
    """The members of a request that a probe means."""
    spelt_out = isinstance(probe, dict) and (":" in name or " " in name or name in probe)
    return probe if spelt_out else {name: probe}


def cell(column: Column, operation: Operation, members: dict[str, Any]) -> str:
    """passes, translated, left out, refused, refused (bold: whatever the route says), or a dash for no such call."""
    base = BASE[operation]
    try:
        plain = column.encode(operation, base)
    except NotFound:
        return "–"
    try:
        sent = column.encode(operation, {**base, **members})
    except Unsupported as error:
        return "refused" if error.droppable else "**refused**"
    if all(sent[1].get(name) == value for name, value in members.items()):
        return "passes"
    if sent == plain and "messages" not in members and "prompt" not in members:
        return "left out"
    return "translated"


def table(operation: Operation) -> str:
    engines = [column for column in columns() if cell(column, operation, {}) != "–"]
    rows = [
        [f"`{name}`" if name.replace("_", "").isalnum() else name]
        + [cell(column, operation, members_of(name, probe)) for column in engines]
        for name, probe in PROBES[operation].items()
    ]
    return markdown([["", *(column.title for column in engines)], *rows])


def operations() -> str:
    """Operation × engine: where an engine offers it."""
    named = {operation.value: operation for operation in Operation}
    engines = [column for column in columns() if not column.variant]
    rows = [[f"`{path}`", *(offered(column, operation) for column in engines)] for path, operation in named.items()]
    return markdown([["", *(column.title for column in engines)], *rows])


_SMALLEST: dict[Operation, dict[str, Any]] = {
    **BASE,
    Operation.EMBEDDINGS: {"input": "hi"},
    Operation.RESPONSES: {"input": "hi"},
    Operation.RERANK: {"query": "hi", "documents": ["a"]},
    Operation.MESSAGES: {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
    Operation.COUNT_TOKENS: {"messages": [{"role": "user", "content": "hi"}]},
    Operation.TOKENIZE: {"prompt": "hi"},
    Operation.DETOKENIZE: {"tokens": [1]},
}


def offered(column: Column, operation: Operation) -> str:
    """The path where it is done, or a dash."""
    body = json.dumps({"model": MODEL, **_SMALLEST[operation]}).encode()
    request = InferenceRequest("r", operation, MODEL, body)
    try:
        sent = column.adapter.encode(request, Endpoint(column.adapter.name, "http", "127.0.0.1", 1), MODEL)
    except NotFound:
        return "–"
    path = sent.path.decode()
    return "yes" if path == operation.value else f"`{path}`"


def markdown(rows: Iterable[list[str]]) -> str:
    head, *rest = (f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows)
    return "\n".join([head, "|---" * (head.count("|") - 1) + "|", *rest])


SECTIONS = {
    "operations": operations,
    "chats": lambda: table(Operation.CHAT),
    "completions": lambda: table(Operation.COMPLETIONS),
}


def rendered(page: str) -> str:
    """The page with what stands between each pair of markers written anew."""
    for name, write in SECTIONS.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, opened, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not opened or not closed:
            raise SystemExit(f"{PAGE.name}: no {begin.strip()} … {end}")
        page = f"{before}{begin}\n{write()}\n\n{end}{after}"
    return page


def main() -> int:
    PAGE.write_text(rendered(PAGE.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
