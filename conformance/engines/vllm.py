"""A simulated vLLM OpenAI server, 0.6 to 0.33: routes, checks and error texts as recorded from 0.32. (T)"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar

import msgspec

from conformance.engines import intake, pydantic, text, vectors, vllm_metrics
from conformance.engines.ask import Ask
from conformance.engines.call import Call, Headers, Refusal, Route
from conformance.engines.engine import Engine
from conformance.engines.forms import DONE, Form, encode, event
from conformance.engines.model import Buckets
from conformance.engines.pydantic import Flaw
from conformance.engines.settings import Settings
from conformance.engines.vllm_forms import VllmChat, VllmCompletion, VllmMessages, VllmResponses

_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0)
_WHOLE = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0)
_TYPES = {
    **{status.value: status.phrase for status in HTTPStatus},
    400: "BadRequestError",
    404: "NotFoundError",
    500: "InternalServerError",
}
_METRICS = b"text/plain; version=1.0.0; charset=utf-8"
_BUSY = (
    "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
)


class Vllm(Engine):
    """``loras`` are adapters loaded at start; more come and go at run time."""

    kind: ClassVar[str] = "vllm"
    newest: ClassVar[str] = "0.33.0"
    keep_alive_s: ClassVar[float] = 5.0
    own_headers: ClassVar[Headers] = ((b"server", b"uvicorn"), (b"vary", b"Origin"))
    buckets: ClassVar[Buckets] = Buckets((*_FIRST, 80.0, 160.0, 640.0, 2560.0), whole=(*_WHOLE, 1920.0, 7680.0))

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        shape = {"fingerprint": f"vllm-{self.version}-{self.new_id(8)}", "details": settings.usage_details}
        fields = ("reasoning",) if self.release >= (0, 16) else ("reasoning", "reasoning_content")
        if self.release < (0, 11, 1):
            fields = ("reasoning_content",)
        self._chat_form = type("VllmChat", (VllmChat,), {**shape, "reasoning_field": fields})
        self._completion_form = type("VllmCompletion", (VllmCompletion,), shape)
        self._lora_series: dict[tuple[str, str], float] = {}

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        get, post = "GET", "POST"
        routes: dict[str, dict[str, Route]] = {
            "/health": {get: self.empty},
            "/ping": {get: self.empty, post: self.empty},
            "/version": {get: self._version},
            "/load": {get: self._load},
            "/metrics": {get: self._metrics},
            "/v1/models": {get: self._models},
            "/v1/chat/completions": {post: self._chat},
            "/v1/completions": {post: self._completions},
            "/v1/embeddings": {post: self._embeddings},
            "/tokenize": {post: self._tokenize},
            "/detokenize": {post: self._detokenize},
            "/v1/load_lora_adapter": {post: self._load_lora},
            "/v1/unload_lora_adapter": {post: self._unload_lora},
        }
        routes |= {path: {post: self._rerank} for path in ("/rerank", "/v1/rerank", "/v2/rerank")}
        routes |= {path: {post: self._score} for path in ("/score", "/v1/score")}
        if self.release >= (0, 10):
            routes["/v1/responses"] = {post: self._responses}
        if self.release >= (0, 11, 2):
            routes["/v1/messages"] = {post: self._messages}
            routes["/v1/messages/count_tokens"] = {post: self._count}
        return routes

    # -- shapes -------------------------------------------------------------------------------------------------

    def error(self, status: int, message: str, kind: str = "", param: str | None = None, code: str = "") -> Refusal:
        kind = kind or _TYPES.get(status, "Unknown Error")
        body = {"message": message, "type": kind, "param": param, "code": status}
        if self.release < (0, 10, 1):
            return self._refusal(status, {"object": "error", **body})
        return self._refusal(status, {"error": body})

    def _refusal(self, status: int, body: Any) -> Refusal:
        return Refusal(status, encode(body))

    def dressed(self, call: Call, refusal: Refusal) -> Refusal:
        """Anthropic's route has Anthropic's envelope, but for what the framework finds wrong."""
        if not call.path.startswith("/v1/messages"):
            return refusal
        error = msgspec.json.decode(refusal.body).get("error")
        if not isinstance(error, dict) or error["type"] == "Bad Request":
            return refusal
        told = {"type": error["type"], "message": error["message"]}
        return Refusal(refusal.status, encode({"type": "error", "error": told}), headers=refusal.headers)

    def busy(self, call: Call, ask: Ask) -> Refusal:
        return self.error(503, _BUSY)

    def stream_error(self, message: str) -> bytes:
        error = {"message": message, "type": "InternalServerError", "param": None, "code": 500}
        return event({"error": error}) + DONE

    def invalid(self, flaw: Flaw) -> Refusal:
        where = "body" if flaw.member == "" else f"body.{flaw.member}"
        shown = flaw.input
        if isinstance(shown, dict | list):
            shown = f"<{type(shown).__name__} of {len(shown)} items>"
        detail: dict[str, Any] = {"type": flaw.kind, "loc": where, "msg": flaw.message, "input": shown}
        if flaw.context:
            detail["ctx"] = {"error": flaw.context}
        return self.error(400, f"1 validation error:\n  {detail}", "Bad Request", where)

    def bad_json(self, call: Call, error: Exception) -> Refusal:
        return self.invalid(pydantic.bad_json(call.body))

    def not_object(self, call: Call, value: Any) -> Refusal:
        return self.invalid(pydantic.not_object(value))

    def authorize(self, call: Call) -> None:
        guarded = ("/v1", "/v2", "/inference") if self.release >= (0, 24) else ("/v1",)
        key = self.settings.api_key
        if key and call.path.startswith(guarded) and call.header(b"authorization") != f"Bearer {key}":
            raise Refusal(401, b'{"error":"Unauthorized"}')

    # -- checks -------------------------------------------------------------------------------------------------

    def read(self, call: Call, *required: str) -> dict[str, Any]:
        """The body, checked as far as every endpoint checks it."""
        if call.header(b"content-type").partition(";")[0].strip().lower() != "application/json":
            what = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
            raise self.error(400, what, "Bad Request")
        fields = self.decode(call)
        flaw = pydantic.missing(fields, *required) or pydantic.mistyped(fields)
        if flaw is not None:
            raise self.invalid(flaw)
        return fields

    def served(self, fields: dict[str, Any]) -> str:
        """The name the answer will carry. No model means the first one."""
        name = fields.get("model")
        if name in self.loras:
            return str(name)
        if name and name not in self.models:
            aliases = f" Valid aliases: {', '.join(self.models)}." if self.release >= (0, 32) else ""
            raise self.error(404, f"The model `{name}` does not exist.{aliases}", param="model")
        return self.models[0]

    def check_sampling(self, fields: dict[str, Any]) -> None:
        def refuse(message: str, name: str, value: Any = None) -> Refusal:
            detail = f"(parameter={name})" if value is None else f"(parameter={name}, value={value})"
            return self.error(400, f"{message} {detail}", param=name)

        if fields.get("stream_options") and not fields.get("stream"):
            raise refuse("Stream options can only be defined when `stream=True`.", "stream_options")
        if fields.get("n") is not None and fields["n"] < 1:
            raise self.error(400, f"n must be at least 1, got {fields['n']}.")
        if fields.get("n") is not None and fields["n"] > intake.MOST:
            raise self.error(400, f"n must be at most {intake.MOST}, got {fields['n']}.")
        temperature = fields.get("temperature")
        if temperature is not None and temperature < 0:
            warmth = float(temperature)
            raise refuse(f"temperature must be non-negative, got {warmth}.", "temperature", warmth)
        out = pydantic.out_of_range(fields)
        if out is not None:
            name, number, what = out
            raise refuse(f"{name} {what}, got {number}.", name, number)
        longest = self.settings.model_len
        for name in ("max_completion_tokens", "max_tokens"):
            value = fields.get(name)
            if value is None:
                continue
            if value < 1:
                raise refuse(f"{name} must be at least 1, got {value}.", name, value)
            if value > longest:
                message = f"{name}={value} cannot be greater than max_model_len={longest}."
                raise refuse(f"{message} Please request fewer output tokens.", name, value)

    def check_tools(self, fields: dict[str, Any]) -> None:
        """Calls of tools there are none of, and what an engine started without a tool parser says."""
        choice = fields.get("tool_choice", "auto" if fields.get("tools") else "none")
        if isinstance(choice, dict) and fields.get("tools"):
            names = [(tool.get("function") or {}).get("name") for tool in fields["tools"]]
            if (choice.get("function") or {}).get("name") not in names:
                what = "The tool specified in `tool_choice` does not match any of the specified `tools`"
                raise self.error(400, what)
        if self.settings.tool_parser or not fields.get("tools") or choice == "none":
            return
        if choice == "auto":
            what = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
        elif choice == "required":
            what = 'tool_choice="required" requires --tool-call-parser to be set'
        else:
            what = f'tool_choice=function "{choice["function"]["name"]}" requires --tool-call-parser to be set'
        raise self.error(400, what)

    def check_length(self, prompts: list[bytes]) -> None:
        longest = self.settings.model_len
        if any(text.count(prompt) >= longest for prompt in prompts):
            message = (
                f"This model's maximum context length is {longest} tokens. However, your prompt contains at least "
                f"{longest + 1} input tokens, which exceeds this limit even without any output tokens. Please reduce "
                f"the length of the input prompt. (parameter=input_tokens, value={longest + 1})"
            )
            raise self.error(400, message, param="input_tokens")

    # -- generating endpoints -----------------------------------------------------------------------------------

    async def _chat(self, call: Call) -> None:
        fields = self.read(call, "messages")
        model = self.served(fields)
        self.check_sampling(fields)
        self.check_tools(fields)
        if not fields["messages"]:
            message = "Cannot apply chat template to an empty conversation. Provide at least one message."
            raise self.error(400, message)
        await self._run(call, intake.chat(fields, model), self._chat_form, "chatcmpl-")

    async def _completions(self, call: Call) -> None:
        fields = self.read(call, "prompt")
        model = self.served(fields)
        self.check_sampling(fields)
        await self._run(call, intake.completion(fields, model), self._completion_form, "cmpl-")

    async def _responses(self, call: Call) -> None:
        fields = self.read(call, "input")
        await self._run(call, intake.responses(fields, self.served(fields)), VllmResponses, "resp_")

    async def _messages(self, call: Call) -> None:
        fields = self.read(call, "messages", "max_tokens")
        await self._run(call, intake.messages(fields, self.served(fields)), VllmMessages, "chatcmpl-")

    async def _count(self, call: Call) -> None:
        fields = self.read(call, "messages")
        prompt = intake.messages(fields, self.served(fields)).prompts[0]
        await self.reply(call, {"input_tokens": text.count(prompt), "context_management": None})

    async def _run(self, call: Call, ask: Ask, form: type[Form], prefix: str) -> None:
        ask.adapter = ask.model if ask.model in self.loras else ""
        ask.reasons = "reason" in ask.model.lower()
        ask.continuous_usage = ask.continuous_usage and ask.include_usage
        self.check_length(ask.prompts)
        id = prefix + (call.header(b"x-request-id") or self.new_id())
        choices = self.choices(ask, id, f"chatcmpl-tool-{self.new_id()}")
        await self.generate(call, ask, form(ask, choices, id, int(self.wall())))

    # -- the other endpoints ------------------------------------------------------------------------------------

    async def empty(self, call: Call) -> None:
        await call.exchange.respond(200, self.own_headers)

    async def _version(self, call: Call) -> None:
        await self.reply(call, {"version": self.version})

    async def _load(self, call: Call) -> None:
        await self.reply(call, {"server_load": self.model.batch.held})

    async def _models(self, call: Call) -> None:
        longest = self.settings.model_len
        cards = [self._card(name, f"/models/{name}", None, longest) for name in self.models]
        cards += [self._card(name, path, self.models[0], None) for name, path in self.loras.items()]
        await self.reply(call, {"object": "list", "data": cards})

    def _card(self, name: str, root: str, parent: str | None, longest: int | None) -> dict[str, Any]:
        created = int(self.wall())
        card = {"id": name, "object": "model", "created": created, "owned_by": "vllm", "root": root, "parent": parent}
        permission = {
            "id": f"modelperm-{self.new_id()}",
            "object": "model_permission",
            "created": created,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        return {**card, "max_model_len": longest, "permission": [permission]}

    async def _metrics(self, call: Call) -> None:
        loras = None
        if self.loras or self._lora_series:
            batch = self.model.batch
            running = ",".join(sorted({each.adapter for each in batch.running if each.adapter}))
            waiting = ",".join(sorted({each.adapter for each in batch.waiting if each.adapter}))
            # From 0.32 on both labels carry the adapters that run.
            self._lora_series[running, running if self.release >= (0, 32) else waiting] = self.wall()
            loras = self._lora_series
        page = vllm_metrics.page(self.model, self.models[0], self.release, loras, self.settings.max_loras)
        await self.reply(call, page, content_type=_METRICS)

    async def _tokenize(self, call: Call) -> None:
        fields = self.read(call)
        self.served(fields)
        prompt = intake.chat(fields, "").prompts[0] if fields.get("messages") else fields.get("prompt", "").encode()
        tokens = text.encode(prompt)
        longest = self.settings.model_len
        await self.reply(call, {"count": len(tokens), "max_model_len": longest, "tokens": tokens, "token_strs": None})

    async def _detokenize(self, call: Call) -> None:
        fields = self.read(call, "tokens")
        self.served(fields)
        await self.reply(call, {"prompt": text.decode(fields["tokens"])})

    async def _embeddings(self, call: Call) -> None:
        fields = self.read(call, "input")
        model = self.served(fields)
        prompts = intake.prompts(fields["input"])
        self.check_length(prompts)
        answer = {"id": f"embd-{self.new_id()}", "object": "list", "created": int(self.wall()), "model": model}
        total = sum(text.count(prompt) for prompt in prompts)
        usage = {"prompt_tokens": total, "total_tokens": total, "completion_tokens": 0, "prompt_tokens_details": None}
        data = vectors.listing(prompts, fields.get("dimensions"), fields.get("encoding_format"))
        await self.reply(call, {**answer, "data": data, "usage": usage})

    async def _rerank(self, call: Call) -> None:
        fields = self.read(call, "query", "documents")
        model = self.served(fields)
        ranked = vectors.ranked(fields["query"], fields["documents"])
        results = [
            {"index": at, "document": {"text": document}, "relevance_score": score} for at, document, score in ranked
        ]
        total = sum(text.count((fields["query"] + document).encode()) for _, document, _ in ranked)
        answer = {"id": f"score-{self.new_id()}", "model": model, "usage": {"total_tokens": total}}
        await self.reply(call, {**answer, "results": results[: fields.get("top_n") or None]})

    async def _score(self, call: Call) -> None:
        fields = self.read(call)
        model = self.served(fields)
        query = fields.get("text_1", fields.get("queries", ""))
        documents = fields.get("text_2", fields.get("documents", []))
        documents = [documents] if isinstance(documents, str) else documents
        scores = [vectors.relevance(str(query).encode(), document.encode()) for document in documents]
        data = [{"index": at, "object": "score", "score": score} for at, score in enumerate(scores)]
        answer = {"id": f"score-{self.new_id()}", "object": "list", "created": int(self.wall()), "model": model}
        await self.reply(call, {**answer, "data": data, "usage": {"prompt_tokens": 0, "total_tokens": 0}})

    async def _load_lora(self, call: Call) -> None:
        fields = self.read(call, "lora_name", "lora_path")
        name, path = fields["lora_name"], fields["lora_path"]
        if name in self.loras and not fields.get("load_inplace"):
            message = (
                f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set "
            )
            raise self.error(400, message + "'load_inplace' to True.", "InvalidUserInput")
        self.loras[name] = path
        await self.reply(call, f"Success: LoRA adapter '{name}' added successfully.".encode(), 200, b"text/plain")

    async def _unload_lora(self, call: Call) -> None:
        name = self.read(call, "lora_name")["lora_name"]
        if name not in self.loras:
            raise self.error(404, f"The lora adapter '{name}' cannot be found.")
        del self.loras[name]
        await self.reply(call, f"Success: LoRA adapter '{name}' removed successfully.".encode(), 200, b"text/plain")
