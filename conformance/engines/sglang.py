"""A simulated SGLang server, 0.5: its OpenAI routes, its native ones, and its errors as recorded from 0.5.23. (T)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from conformance.engines import intake, pydantic, sglang_metrics, text, vectors
from conformance.engines.ask import Ask
from conformance.engines.call import Call, Headers, Refusal, Route
from conformance.engines.engine import Engine
from conformance.engines.forms import DONE, Form, encode, event
from conformance.engines.model import Buckets
from conformance.engines.pydantic import Flaw
from conformance.engines.responses import Responses
from conformance.engines.settings import Settings
from conformance.engines.sglang_forms import Generate, SglangChat, SglangCompletion, SglangMessages

_ROLES = ("system", "user", "assistant", "tool", "function", "developer", "latest_reminder", "root")
_FIRST = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0, 200.0, 400.0)
_STEP = (
    0.002,
    0.004,
    0.006,
    0.008,
    0.01,
    0.015,
    0.02,
    0.025,
    0.03,
    0.035,
    0.04,
    0.06,
    0.08,
    0.1,
    0.2,
    0.4,
    0.6,
    0.8,
    1.0,
)
_OPEN = ("/health", "/health_generate", "/metrics", "/ping")
_FULL = "The request queue is full."
_TEXT = b"text/plain; charset=utf-8"


class Sglang(Engine):
    """The model's name is not checked; ``base:adapter`` chooses a LoRA."""

    kind: ClassVar[str] = "sglang"
    newest: ClassVar[str] = "0.5.23"
    keep_alive_s: ClassVar[float] = 5.0
    own_headers: ClassVar[Headers] = ((b"server", b"uvicorn"), (b"vary", b"Origin"))
    buckets: ClassVar[Buckets] = Buckets(_FIRST, (*_STEP, 2.0, 4.0, 6.0, 8.0), (*_FIRST, 600.0, 1200.0, 1800.0, 2400.0))

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        details = {"details": settings.usage_details}
        self._chat_form = type("SglangChat", (SglangChat,), details)
        self._completion_form = type("SglangCompletion", (SglangCompletion,), details)

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        get, post = "GET", "POST"
        routes: dict[str, dict[str, Route]] = {
            "/metrics": {get: self._metrics},
            "/v1/models": {get: self._models},
            "/v1/models/*": {get: self._one_model},
            "/v1/loads": {get: self._loads},
            "/generate": {post: self._generate, "PUT": self._generate},
            "/v1/chat/completions": {post: self._chat},
            "/v1/completions": {post: self._completions},
            "/v1/responses": {post: self._responses},
            "/v1/messages": {post: self._messages},
            "/v1/embeddings": {post: self._embeddings},
            "/v1/rerank": {post: self._rerank},
            "/load_lora_adapter": {post: self._load_lora},
            "/unload_lora_adapter": {post: self._unload_lora},
            "/flush_cache": {get: self._flush, post: self._flush},
        }
        shared: tuple[tuple[tuple[str, ...], dict[str, Route]], ...] = (
            (("/health", "/health_generate", "/ready", "/ping"), {get: self._empty}),
            (("/model_info", "/get_model_info"), {get: self._model_info}),
            (("/server_info", "/get_server_info"), {get: self._server_info}),
            (("/tokenize", "/v1/tokenize"), {post: self._tokenize}),
            (("/detokenize", "/v1/detokenize"), {post: self._detokenize}),
        )
        for paths, methods in shared:
            routes |= dict.fromkeys(paths, methods)
        return routes

    # -- shapes -------------------------------------------------------------------------------------------------

    def error(self, status: int, message: str, kind: str = "", param: str | None = None, code: str = "") -> Refusal:
        kind = kind or {400: "BadRequestError", 500: "InternalServerError"}.get(status, str(status))
        body = {"object": "error", "message": message, "type": kind, "param": None, "code": status}
        return Refusal(status, encode(body))

    def busy(self, call: Call, ask: Ask) -> Refusal:
        """A stream has its 200 before the scheduler says no."""
        if not ask.stream:
            return self.error(503, _FULL)
        error = f'"object": "error", "message": "{_FULL}", "type": "SERVICE_UNAVAILABLE", "param": null, "code": 503'
        return Refusal(200, b'data: {"error": {%b}}\n\n' % error.encode() + DONE, Form.stream_type)

    def stream_error(self, message: str) -> bytes:
        error = {"object": "error", "message": message, "type": "INTERNAL_SERVER_ERROR", "param": None, "code": 500}
        return event({"error": error}) + DONE

    def invalid(self, call: Call, flaw: Flaw) -> Refusal:
        where = ("body",) if flaw.member == "" else ("body", flaw.member)
        detail: dict[str, Any] = {"type": flaw.kind, "loc": where, "msg": flaw.message, "input": flaw.input}
        if flaw.context:
            detail["ctx"] = {"error": flaw.context}
        place = f'  File "sglang/srt/entrypoints/http_server.py"\n    POST {call.path} [{detail}]'
        return self.error(400, f"1 validation error:\n  {detail}\n\n{place}", "Bad Request")

    def bad_json(self, call: Call, error: Exception) -> Refusal:
        return self.invalid(call, pydantic.bad_json(call.body))

    def not_object(self, call: Call, value: Any) -> Refusal:
        return Refusal(500, b"Internal Server Error", _TEXT)

    def authorize(self, call: Call) -> None:
        key = self.settings.api_key
        if key and call.path not in _OPEN and call.header(b"authorization") != f"Bearer {key}":
            raise Refusal(401, b'{"error":"Unauthorized"}')

    # -- checks -------------------------------------------------------------------------------------------------

    def read(self, call: Call, *required: str) -> dict[str, Any]:
        if call.header(b"content-type").partition(";")[0].strip().lower() != "application/json":
            what = "Unsupported Media Type: Only 'application/json' is allowed"
            detail = {"loc": ["header", "content-type"], "msg": what, "type": "value_error"}
            raise self.error(400, f"1 validation error:\n  {detail} [{detail}]", "Bad Request")
        fields = self.decode(call)
        flaw = pydantic.missing(fields, *required) or pydantic.mistyped(fields)
        if flaw is not None:
            raise self.invalid(call, flaw)
        for message in fields.get("messages") or ():
            if message["role"].lower() not in _ROLES:
                raise self.error(400, f"1 validation error:\n  'role' must be one of {', '.join(map(repr, _ROLES))}")
        return fields

    def check_sampling(self, fields: dict[str, Any]) -> None:
        if fields.get("n") == 0:
            raise self.error(400, "range() arg 3 must not be zero", "BadRequest")
        temperature = fields.get("temperature")
        if temperature is not None and temperature < 0:
            raise self.error(400, f"temperature must be a non-negative finite number, got {float(temperature)}.")
        out = pydantic.out_of_range(fields)
        if out is not None:
            name, number, what = out
            raise self.error(400, f"{name} {what}, got {number}.")
        limit = fields.get("max_completion_tokens") or fields.get("max_tokens")
        if limit is not None and limit < 0:
            raise self.error(400, f"max_new_tokens must be at least 0, got {limit}.")
        longest = self.settings.model_len
        if limit is not None and limit > longest:
            what = f"max_completion_tokens is too large: {limit}."
            raise self.error(400, f"{what}This model supports at most {longest} completion tokens.")

    def check_length(self, ask: Ask) -> None:
        longest = self.settings.model_len
        for prompt in ask.prompts:
            tokens = text.count(prompt)
            if tokens >= longest:
                what = f"The input ({tokens} tokens) is longer than the model's context length ({longest} tokens)."
                raise self.error(400, what)
            if ask.limit is not None and tokens + ask.limit > longest:
                what = (
                    f"Requested token count exceeds the model's maximum context length of {longest} tokens. You "
                    f"requested a total of {tokens + ask.limit} tokens: {tokens} tokens from the input messages and "
                    f"{ask.limit} tokens for the completion. Please reduce the number of tokens in the input messages "
                    "or the completion to fit within the limit."
                )
                raise self.error(400, what)

    def adapter(self, fields: dict[str, Any]) -> str:
        """The LoRA a request asks for: after a colon in the model's name, or in ``lora_path``."""
        model = str(fields.get("model") or "")
        name = fields.get("lora_path") or ""
        if not name and model not in self.models and ":" in model:
            name = model.rpartition(":")[2]
        elif model in self.loras:
            name = model
        if name and name not in self.loras:
            raise self.error(400, f"Got LoRA adapter that has never been loaded: {name}")
        return str(name)

    # -- generating endpoints -----------------------------------------------------------------------------------

    async def _chat(self, call: Call) -> None:
        fields = self.read(call, "messages")
        self.check_sampling(fields)
        if not fields["messages"]:
            raise self.error(400, "Messages cannot be empty.")
        fields["max_tokens"] = fields.pop("max_completion_tokens", None) or fields.get("max_tokens")
        await self._run(call, intake.chat(fields, fields.get("model") or "default"), self._chat_form)

    async def _completions(self, call: Call) -> None:
        fields = self.read(call, "prompt")
        self.check_sampling(fields)
        await self._run(call, intake.completion(fields, fields.get("model") or "default"), self._completion_form)

    async def _responses(self, call: Call) -> None:
        fields = self.read(call, "input")
        await self._run(call, intake.responses(fields, fields.get("model") or "default"), Responses, "resp_")

    async def _messages(self, call: Call) -> None:
        fields = self.read(call, "messages", "max_tokens")
        await self._run(call, intake.messages(fields, fields.get("model") or "default"), SglangMessages, "msg_")

    async def _generate(self, call: Call) -> None:
        fields = self.decode(call)
        given = fields.get("text", fields.get("input_ids"))
        if given is None:
            raise Refusal(
                400, encode({"error": {"message": "Either text, input_ids or input_embeds should be provided."}})
            )
        sampling = fields.get("sampling_params") or {}
        wanted = {"prompt": given, "max_tokens": sampling.get("max_new_tokens", 128), "stop": sampling.get("stop")}
        ask = intake.completion({**wanted, "stream": fields.get("stream"), "n": sampling.get("n")}, self.models[0])
        batched = isinstance(given, list) and bool(given) and not isinstance(given[0], int)
        await self._run(call, ask, type("Generate", (Generate,), {"batched": batched}))

    async def _run(self, call: Call, ask: Ask, form: type[Form], prefix: str = "") -> None:
        ask.adapter = self.adapter(call.fields)
        ask.reasons = "reason" in ask.model.lower()
        self.check_length(ask)
        choices = self.choices(ask, prefix + self.new_id(32), f"call_{self.new_id(24)}")
        id = choices[0].id
        if ask.stream:
            for choice in choices[1:]:
                choice.id = prefix + self.new_id(32)
        await self.generate(call, ask, form(ask, choices, id, int(self.wall())))

    # -- the other endpoints ------------------------------------------------------------------------------------

    async def _empty(self, call: Call) -> None:
        await call.exchange.respond(200, self.own_headers)

    async def _models(self, call: Call) -> None:
        cards = [self._card(name, name, None) for name in self.models]
        cards += [self._card(name, path, self.models[0]) for name, path in self.loras.items()]
        await self.reply(call, {"object": "list", "data": cards})

    async def _one_model(self, call: Call) -> None:
        name = call.path.removeprefix("/v1/models/")
        if name not in self.models:
            error = {"message": f"The model '{name}' does not exist", "type": "invalid_request_error", "param": "model"}
            raise Refusal(404, encode({"error": {**error, "code": "model_not_found"}}))
        await self.reply(call, self._card(name, name, None))

    def _card(self, name: str, root: str, parent: str | None) -> dict[str, Any]:
        longest = self.settings.model_len if parent is None else None
        card = {"id": name, "object": "model", "created": int(self.wall()), "owned_by": "sglang", "root": root}
        return {**card, "parent": parent, "max_model_len": longest}

    async def _model_info(self, call: Call) -> None:
        name = self.models[0]
        info = {"model_path": f"/models/{name}", "served_model_name": name, "tokenizer_path": f"/models/{name}"}
        more = {"is_generation": True, "preferred_sampling_params": None, "weight_version": "default"}
        parsers = {
            "load_format": "auto",
            "reasoning_parser": None,
            "tool_call_parser": None,
            "disaggregation_mode": "null",
        }
        await self.reply(call, {**info, **more, **parsers, "has_image_understanding": False, "model_type": "qwen2"})

    async def _server_info(self, call: Call) -> None:
        settings, name = self.settings, self.models[0]
        info = {
            "model_path": f"/models/{name}",
            "tokenizer_path": f"/models/{name}",
            "served_model_name": name,
            "context_length": settings.model_len,
            "is_embedding": False,
            "max_running_requests": settings.max_running,
            "max_queued_requests": settings.max_queued,
            "max_total_tokens": settings.kv_blocks * settings.block_size,
            "page_size": settings.block_size,
            "schedule_policy": "fcfs",
            "frontend": "python",
            "internal_states": [{"effective_max_running_requests_per_dp": settings.max_running}],
            "version": self.version,
        }
        await self.reply(call, info)

    async def _loads(self, call: Call) -> None:
        batch, pool = self.model.batch, self.model.batch.pool
        load = {
            "dp_rank": 0,
            "num_running_reqs": len(batch.running),
            "num_waiting_reqs": len(batch.waiting),
            "num_used_tokens": pool.used * batch.block_size,
            "max_total_num_tokens": pool.capacity * batch.block_size,
            "token_usage": round(pool.used / pool.capacity, 4),
            "max_running_requests": batch.max_running,
        }
        await self.reply(call, {"timestamp": self.wall(), "version": self.version, "loads": [load]})

    async def _metrics(self, call: Call) -> None:
        settings = self.settings
        page = sglang_metrics.page(self.model, self.models[0], settings.model_len, len(self.loras), settings.max_loras)
        await self.reply(call, page, content_type=b"text/plain; version=0.0.4; charset=utf-8")

    async def _flush(self, call: Call) -> None:
        self.model.batch.pool.clear()
        await self.reply(call, b"Cache flushed.\n", content_type=_TEXT)

    async def _tokenize(self, call: Call) -> None:
        fields = self.read(call)
        prompt = intake.chat(fields, "").prompts[0] if fields.get("messages") else fields.get("prompt", "").encode()
        tokens = text.encode(prompt)
        await self.reply(call, {"tokens": tokens, "count": len(tokens), "max_model_len": self.settings.model_len})

    async def _detokenize(self, call: Call) -> None:
        await self.reply(call, {"text": text.decode(self.read(call, "tokens")["tokens"])})

    async def _embeddings(self, call: Call) -> None:
        fields = self.read(call, "input")
        if not any("embed" in name.lower() for name in self.models):
            what = "This model does not appear to be an embedding model by default. Please add `--is-embedding` when "
            raise self.error(400, what + "launching the server or try another model.")
        prompts = intake.prompts(fields["input"])
        total = sum(text.count(prompt) for prompt in prompts)
        data = vectors.listing(prompts, fields.get("dimensions"), fields.get("encoding_format"))
        usage = {"prompt_tokens": total, "total_tokens": total}
        model = fields.get("model") or "default"
        await self.reply(call, {"object": "list", "data": data, "model": model, "usage": usage})

    async def _rerank(self, call: Call) -> None:
        fields = self.read(call, "query", "documents")
        ranked = vectors.ranked(fields["query"], fields["documents"])
        await self.reply(call, [{"score": score, "document": each, "index": at} for at, each, score in ranked])

    async def _load_lora(self, call: Call) -> None:
        fields = self.read(call, "lora_name", "lora_path")
        name = fields["lora_name"]
        if name in self.loras:
            await self._loaded(call, f"Failed to load LoRA adapter {name}: it is already loaded")
            return
        self.loras[name] = fields["lora_path"]
        await self._loaded(call)

    async def _unload_lora(self, call: Call) -> None:
        name = self.read(call, "lora_name")["lora_name"]
        known = self.loras.pop(name, None) is not None
        await self._loaded(call, "" if known else f"LoRA adapter {name} is not loaded")

    async def _loaded(self, call: Call, error: str = "") -> None:
        answer: dict[str, Any] = {"success": not error, "loaded_adapters": self.loras}
        await self.reply(call, {**answer, "error_message": error} if error else answer, 400 if error else 200)
