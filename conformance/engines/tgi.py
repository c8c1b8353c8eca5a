"""A simulated Text Generation Inference server, 3.3: native routes, the Messages API, and what it refuses. (T)"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

from conformance.engines import intake, pydantic, text, tgi_metrics
from conformance.engines.ask import Ask
from conformance.engines.call import Call, Headers, Refusal, Route
from conformance.engines.engine import Engine
from conformance.engines.forms import Form, encode
from conformance.engines.settings import Settings
from conformance.engines.tgi_forms import TgiChat, TgiCompletion, TgiGenerate

_TEXT = b"text/plain; charset=utf-8"
_SSE = b"text/event-stream"
_BUSY = "Model is overloaded"


class Tgi(Engine):
    """One model, served under its own name and as ``tgi``; any other name is taken for a LoRA."""

    kind: ClassVar[str] = "tgi"
    newest: ClassVar[str] = "3.3.7"
    max_body: ClassVar[int] = 2_000_000
    comment: ClassVar[bytes] = b":\n\n"
    comment_every_s: ClassVar[float] = 15.0

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        shape = {"fingerprint": f"{self.version}-native", "stream_type": _SSE}
        self._chat_form = type("TgiChat", (TgiChat,), shape)
        self._completion_form = type("TgiCompletion", (TgiCompletion,), shape)
        self.failures = Counter[str]()

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        get, post = "GET", "POST"
        return {
            "/health": {get: self._empty},
            "/ping": {get: self._empty},
            "/info": {get: self._info},
            "/metrics": {get: self._metrics},
            "/v1/models": {get: self._models},
            "/": {post: self._compatible, get: self._empty},
            "/generate": {post: self._generate},
            "/generate_stream": {post: self._generate_stream},
            "/v1/chat/completions": {post: self._chat},
            "/v1/completions": {post: self._completions},
            "/tokenize": {post: self._tokenize},
            "/chat_tokenize": {post: self._chat_tokenize},
            "/invocations": {post: self._chat},
        }

    # -- shapes -------------------------------------------------------------------------------------------------

    def error(self, status: int, message: str, kind: str = "", param: str | None = None, code: str = "") -> Refusal:
        kind = kind or {429: "overloaded", 422: "validation", 424: "generation"}.get(status, "generation")
        self.failures[kind] += 1
        return Refusal(status, encode({"error": message, "error_type": kind}))

    def invalid(self, message: str) -> Refusal:
        return self.error(422, f"Input validation error: {message}", "validation")

    def unreadable(self, message: str) -> Refusal:
        return Refusal(422, f"Failed to deserialize the JSON body into the target type: {message}".encode(), _TEXT)

    def bad_json(self, call: Call, error: Exception) -> Refusal:
        return Refusal(400, f"Failed to parse the request body as JSON: {error}".encode(), _TEXT)

    def not_object(self, call: Call, value: Any) -> Refusal:
        return self.unreadable("invalid type: expected struct")

    def missing(self, call: Call, allowed: tuple[str, ...]) -> Refusal:
        headers = ((b"allow", ",".join(allowed).encode()),) if allowed else ()
        return Refusal(405 if allowed else 404, b"", _TEXT, headers)

    def busy(self, call: Call, ask: Ask) -> Refusal:
        """A stream has its 200 by then, and chat calls everything a 422."""
        refusal = self.error(429, _BUSY, "overloaded")
        if not ask.stream:
            return refusal
        if call.path == "/v1/chat/completions":
            error = {"error": {"message": _BUSY, "http_status_code": 422}}
            return Refusal(200, b"data:" + encode(error) + b"\n\ndata:[DONE]\n\n", _SSE)
        return Refusal(200, b"data:" + refusal.body + b"\n\n", _SSE)

    def stream_error(self, message: str) -> bytes:
        return b"data:" + encode({"error": message, "error_type": "generation"}) + b"\n\n"

    def authorize(self, call: Call) -> None:
        key = self.settings.api_key
        guarded = call.path not in ("/health", "/metrics", "/ping", "/info")
        if key and guarded and call.header(b"authorization") != f"Bearer {key}":
            raise Refusal(401, b"", _TEXT)

    def answer_headers(self, call: Call, form: Form | None) -> Headers:
        if form is None:
            return ()
        kind = (b"x-compute-type", b"1-simulated")
        if form.ask.stream:
            return (kind, (b"x-accel-buffering", b"no"), (b"cache-control", b"no-cache"))
        generation = form.choices[0].generation
        now = self.model.batch
        total = 1000 * max(0.0, generation.last_at - generation.arrived)
        queued = 1000 * (generation.admitted - generation.arrived)
        each = total / max(1, form.completion_tokens)
        times = {"total-time": total, "queue-time": queued, "inference-time": total - queued, "time-per-token": each}
        counts = {"prompt-tokens": form.prompt_tokens, "generated-tokens": form.completion_tokens}
        numbers = {**times, **counts, "batch-size": len(now.running)}
        return (kind, *((f"x-{name}".encode(), b"%d" % value) for name, value in numbers.items()))

    # -- checks -------------------------------------------------------------------------------------------------

    def read(self, call: Call, *required: str) -> dict[str, Any]:
        if call.header(b"content-type").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, b"Expected request with `Content-Type: application/json`", _TEXT)
        fields = self.decode(call)
        for name in required:
            if fields.get(name) is None:
                raise self.unreadable(f"missing field `{name}` at line 1 column {len(call.body)}")
        flaw = pydantic.mistyped({name: value for name, value in fields.items() if name != "response_format"})
        if flaw is not None:
            raise self.unreadable(f"{flaw.member}: invalid type, {flaw.message[:1].lower()}{flaw.message[1:]}")
        return fields

    def check_chat(self, fields: dict[str, Any]) -> None:
        """What serde and the router refuse in a Messages request."""
        if fields.get("max_tokens") is not None and fields.get("max_completion_tokens") is not None:
            raise self.unreadable("duplicate field `max_tokens`")
        if isinstance(fields.get("stop"), str):
            raise self.unreadable(f'stop: invalid type: string "{fields["stop"]}", expected a sequence')
        if isinstance(fields.get("logit_bias"), dict):
            raise self.unreadable("logit_bias: invalid type: map, expected a sequence")
        form = fields.get("response_format")
        if form is not None and not isinstance(form, dict):
            raise self.unreadable("response_format: invalid type: string, expected internally tagged enum GrammarType")
        if form and form.get("type") != "regex" and "value" not in form:
            raise self.unreadable("response_format: missing field `value`")
        if form and fields.get("tools"):
            raise self.error(422, "Grammar and tools are mutually exclusive", "grammar and tools")

    def check_sampling(self, fields: dict[str, Any]) -> None:
        if (fields.get("temperature") or 0) < 0:
            raise self.invalid("`temperature` must be strictly positive")
        top_p = fields.get("top_p")
        if top_p is not None and not 0 < top_p < 1:
            raise self.invalid("`top_p` must be > 0.0 and < 1.0")
        if (fields.get("top_logprobs") or 0) > 5:
            raise self.invalid("`top_n_tokens` must be >= 0 and <= 5")
        if len(fields.get("stop") or ()) > 4:
            raise self.invalid(f"`stop` supports up to 4 stop sequences. Given: {len(fields['stop'])}")
        limit = fields.get("max_tokens")
        if limit is not None and limit < 1:
            raise self.invalid("`max_new_tokens` must be strictly positive")

    def check_length(self, ask: Ask) -> None:
        longest = self.settings.model_len
        for prompt in ask.prompts:
            tokens = text.count(prompt)
            if tokens >= longest:
                raise self.invalid(f"`inputs` must have less than {longest} tokens. Given: {tokens}")
            if ask.limit is not None and tokens + ask.limit > longest:
                given = f"Given: {tokens} `inputs` tokens and {ask.limit} `max_new_tokens`"
                raise self.invalid(f"`inputs` tokens + `max_new_tokens` must be <= {longest}. {given}")

    def adapter(self, name: Any) -> str:
        """A name that is neither ``tgi`` nor the model's is an adapter id."""
        if not name or name == "tgi" or name in self.models:
            return ""
        if name not in self.loras:
            raise self.error(422, f"Input validation error: adapter_id `{name}` is not available", "validation")
        return str(name)

    # -- generating endpoints -----------------------------------------------------------------------------------

    async def _chat(self, call: Call) -> None:
        fields = self.read(call, "messages")
        self.check_chat(fields)
        self.check_sampling(fields)
        if not fields["messages"]:
            raise self.error(422, "Template error: invalid operation", "template_error")
        ask = intake.chat({**fields, "n": 1}, self.models[0])
        ask.adapter = self.adapter(fields.get("model"))
        await self._run(call, ask, self._chat_form)

    async def _completions(self, call: Call) -> None:
        fields = self.read(call, "prompt")
        if fields.get("suffix"):
            raise self.error(422, "Suffix is not supported and can be achieved by preprocessing the prompt.", "suffix")
        if isinstance(fields.get("stop"), str):
            raise self.unreadable(f'stop: invalid type: string "{fields["stop"]}", expected a sequence')
        self.check_sampling(fields)
        ask = intake.completion({**fields, "n": 1, "logprobs": None}, self.models[0])
        ask.adapter = self.adapter(fields.get("model"))
        ask.limit = fields.get("max_tokens") or 100
        await self._run(call, ask, self._completion_form)

    async def _compatible(self, call: Call) -> None:
        fields = self.read(call, "inputs")
        await self._native(call, fields, stream=bool(fields.get("stream")), listed=True)

    async def _generate(self, call: Call) -> None:
        await self._native(call, self.read(call, "inputs"), stream=False)

    async def _generate_stream(self, call: Call) -> None:
        await self._native(call, self.read(call, "inputs"), stream=True)

    async def _native(self, call: Call, fields: dict[str, Any], *, stream: bool, listed: bool = False) -> None:
        given = fields.get("parameters") or {}
        limit = given.get("max_new_tokens", 100)
        self.check_sampling({**given, "max_tokens": limit})
        grammar = given.get("grammar") or {}
        wanted = {"prompt": fields["inputs"], "max_tokens": limit, "stop": given.get("stop"), "stream": stream}
        if grammar.get("type") in ("json", "json_schema"):
            wanted["response_format"] = {"type": "json", "value": grammar.get("value")}
        ask = intake.completion(wanted, self.models[0])
        ask.adapter = self.adapter(given.get("adapter_id"))
        shape = {"details": bool(given.get("details")), "full_text": bool(given.get("return_full_text"))}
        form = type("TgiGenerate", (TgiGenerate,), {**shape, "listed": listed, "stream_type": _SSE})
        await self._run(call, ask, form)

    async def _run(self, call: Call, ask: Ask, form: type[Form]) -> None:
        if ask.prompts == [b""]:
            raise self.invalid("`inputs` cannot be empty")
        self.check_length(ask)
        choices = self.choices(ask, "", "0")
        await self.generate(call, ask, form(ask, choices, "", int(self.wall())))

    # -- the other endpoints ------------------------------------------------------------------------------------

    async def _empty(self, call: Call) -> None:
        await call.exchange.respond(200, ())

    async def _info(self, call: Call) -> None:
        settings = self.settings
        info = {
            "model_id": self.models[0],
            "model_sha": "0" * 40,
            "model_pipeline_tag": "text-generation",
            "max_concurrent_requests": settings.max_running + (settings.max_queued or 0),
            "max_best_of": 2,
            "max_stop_sequences": 4,
            "max_input_tokens": settings.model_len - 1,
            "max_total_tokens": settings.model_len,
            "validation_workers": 2,
            "max_client_batch_size": 4,
            "router": "text-generation-router",
            "version": self.version,
            "sha": "0" * 40,
            "docker_label": None,
        }
        await self.reply(call, info)

    async def _models(self, call: Call) -> None:
        name = self.models[0]
        card = {"id": name, "object": "model", "created": 0, "owned_by": name}
        await self.reply(call, {"object": "list", "data": [card]})

    async def _metrics(self, call: Call) -> None:
        page = tgi_metrics.page(self.model, dict(self.failures))
        await self.reply(call, page, content_type=b"text/plain")

    async def _tokenize(self, call: Call) -> None:
        await self.reply(call, _tokens(self.read(call, "inputs")["inputs"].encode()))

    async def _chat_tokenize(self, call: Call) -> None:
        prompt = intake.chat(self.read(call, "messages"), "").prompts[0]
        answer = {"tokenize_response": _tokens(prompt), "templated_text": prompt.decode(errors="replace")}
        await self.reply(call, answer)


def _tokens(data: bytes) -> list[dict[str, Any]]:
    """Ids with the span of characters each stands for."""
    made, at = [], 0
    for token in text.encode(data):
        piece = text.decode([token])
        made.append({"id": token, "text": piece, "start": at, "stop": at + len(piece)})
        at += len(piece)
    return made
