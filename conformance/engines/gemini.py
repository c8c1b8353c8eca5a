"""Gemini's OpenAI-compatible endpoint, simulated: Google's errors around OpenAI's chats. (T)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from conformance.engines import intake, text
from conformance.engines.ask import Ask
from conformance.engines.call import Call, Headers, Refusal, Route
from conformance.engines.forms import Form, encode, event
from conformance.engines.gemini_forms import GeminiChat, thought_signature
from conformance.engines.openai import OpenAI
from conformance.engines.rates import elapse

ROOT = "/v1beta/openai"
_RPC = "type.googleapis.com/google.rpc."
_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_FIELDS = frozenset(
    (
        "extra_body",
        "frequency_penalty",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "modalities",
        "model",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "reasoning_effort",
        "response_format",
        "seed",
        "service_tier",
        "stop",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "web_search_options",
    )
)
_UNPAIRED = (
    "Please ensure that the number of function response parts is equal to the number of function call parts of the "
    "function call turn."
)
_UNSIGNED = "Function call is missing a thought_signature in functionCall parts."


class Gemini(OpenAI):
    """Served below /v1beta/openai. A model may be asked for as ``models/NAME``."""

    kind: ClassVar[str] = "gemini"
    newest: ClassVar[str] = "1"
    model_name: ClassVar[str] = "gemini-simulated"

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {
            f"{ROOT}/models": {"GET": self._models},
            f"{ROOT}/models/*": {"GET": self._one_model},
            f"{ROOT}/chat/completions": {"POST": self._chat},
            f"{ROOT}/embeddings": {"POST": self._embeddings},
        }

    # -- shapes -------------------------------------------------------------------------------------------------

    def error(self, status: int, message: str, kind: str = "", param: str | None = None, code: str = "") -> Refusal:
        return self._refusal(status, message)

    def _refusal(self, status: int, message: str, details: list[Any] | None = None) -> Refusal:
        """Errors come as a list of one."""
        error = {"code": status, "message": message, "status": _STATUS.get(status, "UNKNOWN")}
        return Refusal(status, encode([{"error": {**error, "details": details} if details else error}]))

    def missing(self, call: Call, allowed: tuple[str, ...]) -> Refusal:
        if allowed:
            return self._refusal(405, "Method not allowed.")
        return Refusal(404, b"", b"text/html; charset=UTF-8")

    def busy(self, call: Call, ask: Ask) -> Refusal:
        return self.error(503, "The model is overloaded. Please try again later.")

    def failing(self, status: int, retry_after: float | None) -> Refusal:
        return self._refusal(status, "simulated failure", None if retry_after is None else [_retry_info(retry_after)])

    def limited(self, name: str, wait: float) -> Refusal:
        """How long to wait is in the details, not in a header."""
        metric = f"generativelanguage.googleapis.com/generate_{name}"
        message = f"You exceeded your current quota. * Quota exceeded for metric: {metric}. Please retry in "
        quota = {"quotaMetric": metric, "quotaId": f"Generate{name.title()}PerMinute"}
        details = [
            {"@type": f"{_RPC}QuotaFailure", "violations": [{**quota, "quotaValue": str(self.rates.limits[name])}]},
            _retry_info(wait),
        ]
        return self._refusal(429, f"{message}{elapse(wait)}.", details)

    def stream_error(self, message: str) -> bytes:
        return event({"error": {"code": 500, "message": message, "status": "INTERNAL"}})

    def bad_json(self, call: Call, error: Exception) -> Refusal:
        return self.error(400, f"Invalid JSON payload received. {error}")

    def not_object(self, call: Call, value: Any) -> Refusal:
        return self.error(400, "Invalid JSON payload received. Expected an object.")

    def authorize(self, call: Call) -> None:
        key = self.settings.api_key
        given = call.header(b"authorization").removeprefix("Bearer ").strip()
        if key and not given:
            raise self._refusal(400, "Missing or invalid Authorization header.")
        if key and given != key:
            about = {"reason": "API_KEY_INVALID", "domain": "googleapis.com"}
            what = "API key not valid. Please pass a valid API key."
            raise self._refusal(400, what, [{"@type": f"{_RPC}ErrorInfo", **about}])

    def answer_headers(self, call: Call, form: Form | None) -> Headers:
        return ((b"server", b"scaffolding on HTTPServer2"), (b"server-timing", b"gfet4t7; dur=1"))

    # -- checks -------------------------------------------------------------------------------------------------

    def read(self, call: Call, *required: str, known: frozenset[str] | None = None) -> dict[str, Any]:
        fields = self.decode(call)
        for name in fields:
            if known is not None and name not in known:
                what = f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.'
                violations = [{"description": what}]
                raise self._refusal(400, what, [{"@type": f"{_RPC}BadRequest", "fieldViolations": violations}])
        for name in ("model", *required):
            if fields.get(name) is None:
                raise self.error(400, f"{name} is not specified")
        if str(fields["model"]).removeprefix("models/") not in self.models:
            raise self.unknown_model(str(fields["model"]).removeprefix("models/"))
        return fields

    def unknown_model(self, name: str) -> Refusal:
        what = f"models/{name} is not found for API version v1main, or is not supported for generateContent."
        return self.error(404, f"{what} Call ListModels to see the list of available models and their methods.")

    def check_chat(self, fields: dict[str, Any]) -> None:
        if not isinstance(fields["messages"], list) or not fields["messages"]:
            raise self.error(400, "* GenerateContentRequest.contents: contents is not specified")
        for name, low, high in (("temperature", 0, 2), ("top_p", 0, 1), ("n", 1, 8), ("top_logprobs", 0, 20)):
            self._check_range(fields, name, low, high)
        for name in ("max_tokens", "max_completion_tokens"):
            self._check_range(fields, name, 1, 1_000_000_000)
        for calls, answers in _turns(fields["messages"]):
            if len(calls) != answers:
                raise self.error(400, _UNPAIRED)
            if self.reasons(fields["model"]) and any(map(_unsigned, calls)):
                raise self.error(400, _UNSIGNED)

    def check_length(self, ask: Ask, param: str) -> None:
        longest = self.settings.model_len
        tokens = max(text.count(prompt) for prompt in ask.prompts)
        if tokens >= longest:
            counts = f"The input token count ({tokens}) exceeds the maximum number of tokens allowed ({longest})."
            raise self.error(400, counts)

    # -- endpoints ----------------------------------------------------------------------------------------------

    async def _chat(self, call: Call) -> None:
        fields = self.read(call, "messages", known=_FIELDS)
        self.check_chat(fields)
        ask = intake.chat(fields, fields["model"])
        ask.reasons = self.reasons(ask.model) and fields.get("reasoning_effort") != "none"
        ask.tool_forced = False
        self.check_length(ask, "")
        id = self.new_id(22)
        choices = self.choices(ask, id, f"function-call-{int(self.new_id(15), 16)}")
        await self.generate(call, ask, GeminiChat(ask, choices, id, int(self.wall())))

    async def _models(self, call: Call) -> None:
        await self.reply(call, {"object": "list", "data": [_card(name) for name in self.models]})

    async def _one_model(self, call: Call) -> None:
        name = call.path.removeprefix(f"{ROOT}/models/").removeprefix("models/")
        if name not in self.models:
            raise self.unknown_model(name)
        await self.reply(call, _card(name))


def _retry_info(seconds: float) -> dict[str, Any]:
    return {"@type": f"{_RPC}RetryInfo", "retryDelay": f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"}


def _card(name: str) -> dict[str, Any]:
    return {"id": f"models/{name}", "object": "model", "owned_by": "google", "display_name": name}


def _turns(messages: list[Any]) -> list[tuple[list[Any], int]]:
    """The calls of every turn that made some, and how many answers follow it."""
    found: list[tuple[list[Any], int]] = []
    answering = False
    for message in messages:
        role = message.get("role") if isinstance(message, dict) else None
        if role == "tool" and answering:
            calls, answers = found.pop()
            found.append((calls, answers + 1))
            continue
        answering = role == "assistant" and bool(message.get("tool_calls"))
        if answering:
            found.append((message["tool_calls"], 0))
    return found


def _unsigned(call: Any) -> bool:
    google = ((call.get("extra_content") or {}).get("google") or {}) if isinstance(call, dict) else {}
    return bool(google.get("thought_signature") != thought_signature(str(call.get("id"))))
