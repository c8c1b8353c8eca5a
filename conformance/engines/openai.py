"""Simulated public providers: OpenAI, which checks every parameter and counts what is left, and DeepSeek. (T)"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import unquote

import msgspec
import trio

from conformance.engines import intake, openai_checks, text, vectors
from conformance.engines.ask import Ask
from conformance.engines.call import Call, Headers, Refusal, Route
from conformance.engines.chat import Chat
from conformance.engines.engine import Engine
from conformance.engines.forms import DONE, Form, encode, event
from conformance.engines.openai_forms import DeepSeekChat, OpenAIChat, OpenAICompletion
from conformance.engines.rates import elapse
from conformance.engines.responses import Responses

_CHAT_FIELDS = frozenset(
    (
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "modalities",
        "model",
        "moderation",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    )
)
_TYPES = {401: "authentication_error", 429: "requests", 500: "server_error", 503: "server_error"}
_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
PER_MINUTE = {"requests": 1_000_000, "tokens": 1_000_000_000}


class OpenAI(Engine):
    """Keys are demanded when one is set."""

    kind: ClassVar[str] = "openai"
    newest: ClassVar[str] = "2020-10-01"
    model_name: ClassVar[str] = "gpt-simulated"
    owner: ClassVar[str] = "system"
    default_chat: ClassVar[type[Chat]] = OpenAIChat
    rate_limits: ClassVar[Mapping[str, int]] = PER_MINUTE

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {
            "/v1/models": {"GET": self._models},
            "/v1/models/*": {"GET": self._one_model},
            "/v1/chat/completions": {"POST": self._chat},
            "/v1/completions": {"POST": self._completions},
            "/v1/embeddings": {"POST": self._embeddings},
            "/v1/responses": {"POST": self._responses},
        }

    # -- shapes -------------------------------------------------------------------------------------------------

    def error(self, status: int, message: str, kind: str = "", param: str | None = None, code: str = "") -> Refusal:
        kind = kind or _TYPES.get(status, "invalid_request_error")
        body = {"message": message, "type": kind, "param": param, "code": code or _CODES.get(status)}
        return Refusal(status, encode({"error": body}))

    def missing(self, call: Call, allowed: tuple[str, ...]) -> Refusal:
        method = call.exchange.request.method.decode("latin-1")
        if allowed:
            return self.error(405, f"Not allowed to {method} on {call.path}.", code="method_not_supported")
        return self.error(404, f"Invalid URL ({method} {call.path})")

    def busy(self, call: Call, ask: Ask) -> Refusal:
        refusal = self.error(429, "Rate limit reached for requests. Please try again in 1s.")
        refusal.headers = retry_after(1.0)
        return refusal

    def stream_error(self, message: str) -> bytes:
        return event({"error": {"message": message, "type": "server_error", "param": None, "code": None}}) + DONE

    def authorize(self, call: Call) -> None:
        key = self.settings.api_key
        given = call.header(b"authorization").removeprefix("Bearer ").strip()
        if key and not given:
            raise self.error(401, "You didn't provide an API key in an Authorization header using Bearer auth.")
        if key and given != key:
            raise self.error(401, f"Incorrect API key provided: {given[:3]}***.", "invalid_request_error")

    def limited(self, name: str, wait: float) -> Refusal:
        what = f"Rate limit reached for {self.models[0]} on {name} per min: Limit {self.rates.limits[name]}."
        refusal = self.error(429, f"{what} Please try again in {elapse(wait)}.", name)
        refusal.headers = retry_after(wait)
        return refusal

    def answer_headers(self, call: Call, form: Form | None) -> Headers:
        """What is left of this minute, and the request's id."""
        return (
            (b"x-request-id", f"req_{self.new_id(32)}".encode()),
            (b"openai-version", b"2020-10-01"),
            (b"openai-processing-ms", b"1"),
            *self.limit_headers(),
        )

    def limit_headers(self) -> Headers:
        rates, now = self.rates, trio.current_time()
        made: list[tuple[str, str]] = []
        for name, limit in rates.limits.items():
            reset = elapse(rates.reset(now))
            made += [(f"limit-{name}", str(limit)), (f"remaining-{name}", str(rates.remaining(name, now)))]
            made.append((f"reset-{name}", reset))
        return tuple((f"x-ratelimit-{name}".encode(), value.encode()) for name, value in made)

    # -- checks -------------------------------------------------------------------------------------------------

    def read(self, call: Call, *required: str, known: frozenset[str] | None = None) -> dict[str, Any]:
        fields = self.decode(call)
        for name in ("model", *required):
            if fields.get(name) is None:
                what = f"Missing required parameter: '{name}'."
                raise self.error(400, what, param=name, code="missing_required_parameter")
        for name in fields:
            if known is not None and name not in known:
                raise self.error(400, f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
        if not isinstance(fields["model"], str):
            message = "Invalid type for 'model': expected a string, but got something else instead."
            raise self.error(400, message, param="model", code="invalid_type")
        if fields["model"] not in self.models:
            raise self.unknown_model(fields["model"])
        return fields

    def bad_json(self, call: Call, error: Exception) -> Refusal:
        return self.error(400, "We could not parse the JSON body of your request.")

    def unknown_model(self, name: str) -> Refusal:
        message = f"The model `{name}` does not exist or you do not have access to it."
        return self.error(404, message, code="model_not_found")

    def check(self, fields: dict[str, Any], shape: type[msgspec.Struct]) -> None:
        """Raises Refusal for what is wrong with a request of this shape."""
        flaw = openai_checks.flaw(fields, shape)
        if flaw is not None:
            message, param, code = flaw
            raise self.error(400, message, param=param, code=code)

    def check_chat(self, fields: dict[str, Any]) -> None:
        self.check(fields, openai_checks.ChatRequest)
        if fields.get("max_tokens") is not None and self.reasons(fields["model"]):
            message = "Unsupported parameter: 'max_tokens' is not supported with this model."
            message = f"{message} Use 'max_completion_tokens' instead."
            raise self.error(400, message, param="max_tokens", code="unsupported_parameter")

    def _check_range(self, fields: dict[str, Any], name: str, low: float, high: float) -> None:
        value = fields.get(name)
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int | float):
            message = f"Invalid type for '{name}': expected a number, but got something else instead."
            raise self.error(400, message, param=name, code="invalid_type")
        if not low <= value <= high:
            message = f"Invalid '{name}': {value} is outside the range {low:g} to {high:g}."
            raise self.error(400, message, param=name, code="invalid_value")

    def check_length(self, ask: Ask, param: str) -> None:
        longest = self.settings.model_len
        tokens = max(text.count(prompt) for prompt in ask.prompts)
        if tokens >= longest:
            message = (
                f"This model's maximum context length is {longest} tokens. However, your messages resulted in "
                f"{tokens} tokens. Please reduce the length of the messages."
            )
            raise self.error(400, message, param=param, code="context_length_exceeded")

    def reasons(self, model: str) -> bool:
        return "reason" in model.lower()

    def thinks(self, fields: dict[str, Any]) -> bool:
        return self.reasons(fields["model"])

    # -- endpoints ----------------------------------------------------------------------------------------------

    async def _chat(self, call: Call) -> None:
        fields = self.read(call, "messages", known=_CHAT_FIELDS)
        self.check_chat(fields)
        form: type[Form] = self.default_chat
        if (fields.get("stream_options") or {}).get("include_obfuscation") is False:
            form = type(form.__name__, (form,), {"padding": None})
        ask = intake.chat(fields, fields["model"])
        ask.reasons = self.thinks(fields)
        await self._run(call, ask, form, "chatcmpl-", "messages")

    async def _completions(self, call: Call) -> None:
        fields = self.read(call, "prompt")
        self.check(fields, openai_checks.CompletionRequest)
        ask = intake.completion(fields, fields["model"])
        ask.reasons = self.reasons(ask.model)
        await self._run(call, ask, OpenAICompletion, "cmpl-", "prompt")

    async def _responses(self, call: Call) -> None:
        fields = self.read(call, "input")
        ask = intake.responses(fields, fields["model"])
        ask.reasons = self.reasons(ask.model)
        await self._run(call, ask, Responses, "resp_", "input")

    async def _run(self, call: Call, ask: Ask, form: type[Form], prefix: str, param: str) -> None:
        ask.continuous_usage = False
        self.check_length(ask, param)
        id = prefix + self.new_id(29)
        choices = self.choices(ask, id, f"call_{self.new_id(24)}")
        await self.generate(call, ask, form(ask, choices, id, int(self.wall())))

    async def _embeddings(self, call: Call) -> None:
        fields = self.read(call, "input")
        self.check(fields, openai_checks.EmbeddingsRequest)
        prompts = intake.prompts(fields["input"])
        total = sum(text.count(prompt) for prompt in prompts)
        self.charge(total, 0)
        data = vectors.listing(prompts, fields.get("dimensions"), fields.get("encoding_format"))
        usage = {"prompt_tokens": total, "total_tokens": total}
        await self.reply(call, {"object": "list", "data": data, "model": fields["model"], "usage": usage})

    async def _models(self, call: Call) -> None:
        await self.reply(call, {"object": "list", "data": [self._card(name) for name in self.models]})

    async def _one_model(self, call: Call) -> None:
        name = unquote(call.path.removeprefix("/v1/models/"))
        if name not in self.models:
            raise self.unknown_model(name)
        await self.reply(call, self._card(name))

    def _card(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": self.owner}


def retry_after(seconds: float) -> Headers:
    """How long to wait, rounded up to seconds and to milliseconds."""
    milliseconds = math.ceil(seconds * 1000 - 1e-6)
    return ((b"retry-after", b"%d" % -(-milliseconds // 1000)), (b"retry-after-ms", b"%d" % milliseconds))


class DeepSeek(OpenAI):
    """``/v1`` may be left out; silence is filled with comments, or with blank lines before a whole answer."""

    kind: ClassVar[str] = "deepseek"
    owner: ClassVar[str] = "deepseek"
    newest: ClassVar[str] = "1"
    model_name: ClassVar[str] = "deepseek-reasoner"
    default_chat: ClassVar[type[Chat]] = DeepSeekChat
    comment_every_s: ClassVar[float] = 5.0
    fills_whole: ClassVar[bool] = True

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        chat: dict[str, Route] = {"POST": self._chat}
        models: dict[str, Route] = {"GET": self._models}
        return {
            **dict.fromkeys(("/chat/completions", "/v1/chat/completions"), chat),
            **dict.fromkeys(("/models", "/v1/models"), models),
        }

    def unknown_model(self, name: str) -> Refusal:
        return self.error(400, "Model Not Exist")

    def limited(self, name: str, wait: float) -> Refusal:
        return self.error(429, "Rate Limit Reached")

    def answer_headers(self, call: Call, form: Form | None) -> Headers:
        return ((b"x-ds-trace-id", self.new_id(32).encode()),)

    def read(self, call: Call, *required: str, known: frozenset[str] | None = None) -> dict[str, Any]:
        return super().read(call, *required, known=None)

    def check_chat(self, fields: dict[str, Any]) -> None:
        fields.setdefault("max_completion_tokens", fields.pop("max_tokens", None))
        super().check_chat(fields)
        if self.thinks(fields) and any(_thoughtless(message) for message in fields["messages"]):
            raise self.error(400, "The reasoning_content in the thinking mode must be passed back to the API.")

    def thinks(self, fields: dict[str, Any]) -> bool:
        """``thinking`` overrules the model's name."""
        kind = (fields.get("thinking") or {}).get("type")
        return kind == "enabled" if kind else self.reasons(fields["model"])


def _thoughtless(message: Any) -> bool:
    """A call of a tool without the thoughts that led to it."""
    return isinstance(message, dict) and bool(message.get("tool_calls")) and not message.get("reasoning_content")
