"""A simulated llama-server: few slots, any model name, and errors as recorded in autumn 2026. (T)"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from conformance.engines import intake, llamacpp_metrics, text, vectors
from conformance.engines.ask import Ask
from conformance.engines.call import Call, Headers, Refusal, Route
from conformance.engines.engine import Engine
from conformance.engines.forms import Form, encode, event
from conformance.engines.llamacpp_forms import LlamaChat, LlamaCompletion, LlamaMessages, LlamaResponses
from conformance.engines.settings import Settings

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    500: "server_error",
    501: "not_supported_error",
    503: "unavailable_error",
}
_OPEN = ("/health", "/v1/health", "/models", "/v1/models")
_NUMBERS = ("max_tokens", "max_completion_tokens", "n", "temperature", "top_p", "top_k", "seed", "n_predict")


class LlamaCpp(Engine):
    """``max_running`` are its slots. A model called ``…embed…`` is served with --embeddings."""

    kind: ClassVar[str] = "llamacpp"
    newest: ClassVar[str] = "0"
    keep_alive_s: ClassVar[float] = 5.0
    json_type: ClassVar[bytes] = b"application/json; charset=utf-8"
    closes_on_error: ClassVar[bool] = True
    closes_after_stream: ClassVar[bool] = True

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.build = f"b{self.version}-unknown"
        self._longest = 0
        shape = {"fingerprint": self.build, "stream_type": b"text/event-stream"}
        self._chat_form = type("LlamaChat", (LlamaChat,), shape)
        self._completion_form = type("LlamaCompletion", (LlamaCompletion,), shape)
        self._messages_form = type("LlamaMessages", (LlamaMessages,), shape)
        self._responses_form = type("LlamaResponses", (LlamaResponses,), shape)

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        get, post = "GET", "POST"
        routes: dict[str, dict[str, Route]] = {
            "/props": {get: self._props},
            "/slots": {get: self._slots},
            "/metrics": {get: self._metrics},
            "/tokenize": {post: self._tokenize},
            "/detokenize": {post: self._detokenize},
            "/v1/completions": {post: self._completions},
            "/v1/responses": {post: self._responses},
            "/v1/messages": {post: self._messages},
            "/v1/messages/count_tokens": {post: self._count},
            "/lora-adapters": {get: self._loras},
        }
        shared: tuple[tuple[tuple[str, ...], dict[str, Route]], ...] = (
            (("/health", "/v1/health"), {get: self._health, "HEAD": self._health}),
            (("/models", "/v1/models"), {get: self._models}),
            (("/chat/completions", "/v1/chat/completions"), {post: self._chat}),
            (("/embeddings", "/v1/embeddings"), {post: self._embeddings}),
        )
        for paths, methods in shared:
            routes |= dict.fromkeys(paths, methods)
        return routes

    # -- shapes -------------------------------------------------------------------------------------------------

    def error(self, status: int, message: str, kind: str = "", param: str | None = None, code: str = "") -> Refusal:
        kind = kind or _TYPES.get(status, "invalid_request_error")
        return Refusal(status, encode({"error": {"code": status, "message": message, "type": kind}}))

    def missing(self, call: Call, allowed: tuple[str, ...]) -> Refusal:
        """A route is its path and its method: with another method there is none."""
        return Refusal(404, b'{"error":{"message":"File Not Found","type":"not_found_error","code":404}}')

    def busy(self, call: Call, ask: Ask) -> Refusal:
        return self.error(503, "no slot available")

    def stream_error(self, message: str) -> bytes:
        return event({"error": {"code": 500, "message": message, "type": "server_error"}})

    def bad_json(self, call: Call, error: Exception) -> Refusal:
        line, column, trouble = _where(call.body)
        what = f"syntax error while parsing value - {trouble}"
        return self.error(400, f"[json.exception.parse_error.101] parse error at line {line}, column {column}: {what}")

    def authorize(self, call: Call) -> None:
        key = self.settings.api_key
        given = (call.header(b"authorization").removeprefix("Bearer "), call.header(b"x-api-key"))
        if key and call.path not in _OPEN and key not in given:
            raise self.error(401, "Invalid API Key")

    def answer_headers(self, call: Call, form: Form | None) -> Headers:
        own: Headers = ((b"server", b"llama.cpp"), (b"access-control-allow-origin", b""))
        if form is not None and form.ask.stream:
            own = (*own, (b"x-accel-buffering", b"no"))
        return (*own, (b"keep-alive", b"timeout=5, max=100"))

    # -- checks -------------------------------------------------------------------------------------------------

    def read(self, call: Call, *required: str) -> dict[str, Any]:
        """The content type is not looked at, and a body that is no object is one without members."""
        try:
            fields = self.decode(call)
        except _NotObject:
            fields = {}
        for name in required:
            if fields.get(name) is None:
                raise self._absent(call, name)
        for name in _NUMBERS:
            value = fields.get(name)
            if value is not None and not isinstance(value, int | float):
                found = {str: "string", bool: "boolean", list: "array", dict: "object"}.get(type(value), "null")
                what = f"[json.exception.type_error.302] type must be number, but is {found}"
                raise self.error(400, f"Field '{name}': {what}")
        slots = self.settings.max_running
        if fields.get("n") is not None and not 1 <= fields["n"] <= slots:
            raise self.error(400, f"Field 'n': Value must be between 1 <= value <= {slots}, but got {fields['n']}")
        return fields

    def _absent(self, call: Call, name: str) -> Refusal:
        if call.path == "/v1/completions":
            return self.error(400, f"[json.exception.out_of_range.403] key '{name}' not found")
        return self.error(500 if call.path.startswith("/v1/messages") else 400, f"'{name}' is required")

    def check_chat(self, fields: dict[str, Any]) -> None:
        messages = fields["messages"]
        if not isinstance(messages, list):
            raise self.error(400, "Expected 'messages' to be an array")
        form = fields.get("response_format") or {}
        if not isinstance(form, dict) or not all(isinstance(each, dict) for each in messages):
            raise self.error(500, "[json.exception.type_error.306] cannot use value() with string")
        if any(each.get("content") is None for each in messages if each.get("role") != "assistant"):
            raise self.error(400, "All non-assistant messages must contain 'content'")
        if any(_pictured(each) for each in messages):
            what = "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"
            raise self.error(500, what)
        kind = form.get("type", "text")
        if kind not in ("text", "json_object", "json_schema"):
            known = '"text" or "json_object"'
            raise self.error(400, f"response_format type must be one of {known}, but got: {kind}")
        wanted = fields.get("tool_choice")
        if isinstance(wanted, str) and wanted not in ("auto", "none", "required"):
            raise self.error(400, f"Invalid tool_choice: {wanted}")

    def not_object(self, call: Call, value: Any) -> Refusal:
        return _NotObject(400, b"")

    def check_length(self, ask: Ask) -> None:
        longest = self.settings.model_len
        tokens = max(text.count(prompt) for prompt in ask.prompts)
        if tokens < longest:
            return
        what = f"request ({tokens} tokens) exceeds the available context size ({longest} tokens), try increasing it"
        error = {"code": 400, "message": what, "type": "exceed_context_size_error"}
        raise Refusal(400, encode({"error": {**error, "n_prompt_tokens": tokens, "n_ctx": longest}}))

    # -- generating endpoints -----------------------------------------------------------------------------------

    async def _chat(self, call: Call) -> None:
        fields = self.read(call, "messages")
        self.check_chat(fields)
        await self._run(call, intake.chat(fields, self.models[0]), self._chat_form)

    async def _completions(self, call: Call) -> None:
        """Without ``max_tokens`` it goes on to the end of the text; ``echo`` is ignored."""
        fields = self.read(call, "prompt")
        ask = intake.completion({**fields, "echo": False}, self.models[0])
        ask.limit = fields.get("max_tokens")
        await self._run(call, ask, self._completion_form)

    async def _responses(self, call: Call) -> None:
        fields = self.read(call, "input")
        await self._run(call, intake.responses(fields, self.models[0]), self._responses_form, "resp_")

    async def _messages(self, call: Call) -> None:
        fields = self.read(call, "messages")
        await self._run(call, intake.messages(fields, self.models[0]), self._messages_form)

    async def _run(self, call: Call, ask: Ask, form: type[Form], prefix: str = "chatcmpl-") -> None:
        """A limit below zero is none, and one token comes whatever the limit."""
        ask.reasons = "reason" in ask.model.lower()
        if ask.limit is not None:
            ask.limit = None if ask.limit < 0 else max(1, int(ask.limit))
        ask.tool_forced = False
        self.check_length(ask)
        id = prefix + self.new_id(32)
        choices = self.choices(ask, id, self.new_id(32))
        await self.generate(call, ask, form(ask, choices, id, int(self.wall())))

    # -- the other endpoints ------------------------------------------------------------------------------------

    async def _health(self, call: Call) -> None:
        await self.reply(call, {"status": "ok"})

    async def _models(self, call: Call) -> None:
        name, length = self.models[0], self.settings.model_len
        shown = {
            "name": name,
            "model": name,
            "modified_at": "",
            "size": "",
            "digest": "",
            "type": "model",
            "description": "",
            "tags": [""],
            "capabilities": ["embedding" if self._embeds else "completion"],
            "parameters": "",
            "details": dict.fromkeys(("parent_model", "format", "family"), "")
            | {"format": "gguf", "families": [""], "parameter_size": "", "quantization_level": ""},
        }
        meta = {"vocab_type": 2, "n_vocab": 2048, "n_ctx": length, "n_ctx_train": length, "n_embd": 128}
        card = {
            "id": name,
            "aliases": list(self.models),
            "tags": [],
            "object": "model",
            "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
            "created": int(self.wall()),
            "owned_by": "llamacpp",
            "meta": {**meta, "n_params": 820352, "size": 3281408, "ftype": "all F32"},
        }
        await self.reply(call, {"models": [shown], "object": "list", "data": [card]})

    async def _props(self, call: Call) -> None:
        defaults = {"params": {"seed": 4294967295, "temperature": 0.8, "top_k": 40, "top_p": 0.95, "max_tokens": -1}}
        await self.reply(
            call,
            {
                "default_generation_settings": {**defaults, "n_ctx": self.settings.model_len},
                "total_slots": self.settings.max_running,
                "model_alias": self.models[0],
                "model_path": f"{self.models[0]}/model.gguf",
                "modalities": {"vision": False, "video": False, "audio": False},
                "endpoint_slots": True,
                "endpoint_props": False,
                "endpoint_metrics": True,
                "chat_template": "",
                "build_info": self.build,
                "is_sleeping": False,
            },
        )

    async def _slots(self, call: Call) -> None:
        """With ``fail_on_no_slot`` a full server says so."""
        busy, count = len(self.model.batch.running), self.settings.max_running
        if b"fail_on_no_slot" in call.exchange.request.target and busy >= count:
            raise self.error(503, "no slot available")
        same = {"n_ctx": self.settings.model_len, "speculative": False}
        await self.reply(call, [{"id": at, **same, "is_processing": at < busy} for at in range(count)])

    async def _metrics(self, call: Call) -> None:
        running = [each.prompt + each.generated for each in self.model.batch.running]
        self._longest = max(self._longest, *running, 0)
        page = llamacpp_metrics.page(self.model, self._longest)
        await self.reply(call, page, content_type=b"text/plain; version=0.0.4")

    async def _tokenize(self, call: Call) -> None:
        """``content`` is what is tokenized; any other member is not looked at."""
        fields = self.read(call)
        tokens = text.encode(str(fields.get("content") or ""))
        pieces = [{"id": token, "piece": text.decode([token])} for token in tokens]
        await self.reply(call, {"tokens": pieces if fields.get("with_pieces") else tokens})

    async def _detokenize(self, call: Call) -> None:
        await self.reply(call, {"content": text.decode(self.read(call).get("tokens") or ())})

    async def _count(self, call: Call) -> None:
        prompt = intake.messages(self.read(call, "messages"), "").prompts[0]
        await self.reply(call, {"input_tokens": text.count(prompt)})

    async def _loras(self, call: Call) -> None:
        found = enumerate(self.loras.values())
        await self.reply(call, [{"id": at, "path": path, "scale": 1.0} for at, path in found])

    @property
    def _embeds(self) -> bool:
        return "embed" in self.models[0].lower()

    async def _embeddings(self, call: Call) -> None:
        if not self._embeds:
            raise self.error(501, "This server does not support embeddings. Start it with `--embeddings`")
        fields = self.read(call)
        if fields.get("input") is None:
            raise self.error(400, '"input" or "content" must be provided')
        prompts = intake.prompts(fields["input"])
        total = sum(text.count(prompt) for prompt in prompts)
        data = vectors.listing(prompts, None, fields.get("encoding_format"))
        usage = {"prompt_tokens": total, "total_tokens": total}
        await self.reply(call, {"model": self.models[0], "object": "list", "usage": usage, "data": data})


def _pictured(message: dict[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any(part.get("type") == "image_url" for part in content)


class _NotObject(Refusal):
    """The body is JSON, but no object."""


def _where(body: bytes) -> tuple[int, int, str]:
    """Line, column and the trouble with a body that is no JSON."""
    try:
        json.loads(body)
    except json.JSONDecodeError as error:
        if error.pos >= len(error.doc):
            return error.lineno, error.colno, "unexpected end of input; expected '[', '{', or a literal"
        return error.lineno, error.colno, f"invalid literal; last read: '{error.doc[error.pos]}'"
    except (ValueError, RecursionError):
        pass
    return 1, 1, "invalid UTF-8 byte"
