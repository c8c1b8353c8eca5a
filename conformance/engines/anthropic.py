"""A simulated Anthropic API: messages, token counts and models behind a key and a version. (T)"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import parse_qs

import trio

from conformance.engines import anthropic_checks, intake, text
from conformance.engines.anthropic_forms import PING, AnthropicMessages
from conformance.engines.ask import Ask
from conformance.engines.call import Call, Headers, Refusal, Route
from conformance.engines.engine import Engine
from conformance.engines.forms import Form, encode, event

_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class Anthropic(Engine):
    """A key is demanded when one is set, in ``x-api-key`` or as a bearer; ``anthropic-version`` always."""

    kind: ClassVar[str] = "anthropic"
    newest: ClassVar[str] = "2023-06-01"
    model_name: ClassVar[str] = "claude-simulated"
    comment: ClassVar[bytes] = PING
    comment_every_s: ClassVar[float] = 15.0
    max_body: ClassVar[int] = 32 * 1024 * 1024
    rate_limits: ClassVar[Mapping[str, int]] = {
        "requests": 1_000_000,
        "input-tokens": 1_000_000_000,
        "output-tokens": 1_000_000_000,
        "tokens": 2_000_000_000,
    }

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {
            "/v1/messages": {"POST": self._messages},
            "/v1/messages/count_tokens": {"POST": self._count},
            "/v1/models": {"GET": self._models},
            "/v1/models/*": {"GET": self._one_model},
        }

    # -- shapes -------------------------------------------------------------------------------------------------

    def error(self, status: int, message: str, kind: str = "", param: str | None = None, code: str = "") -> Refusal:
        kind = kind or _TYPES.get(status) or ("invalid_request_error" if status < 500 else "api_error")
        id = self._request_id()
        body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": id}
        return Refusal(status, encode(body), headers=((b"request-id", id.encode()),))

    def missing(self, call: Call, allowed: tuple[str, ...]) -> Refusal:
        return self.error(405, "Method Not Allowed") if allowed else self.error(404, "Not Found")

    def busy(self, call: Call, ask: Ask) -> Refusal:
        return self.error(529, "Overloaded")

    def limited(self, name: str, wait: float) -> Refusal:
        limit = f"{self.rates.limits[name]:,} {name.replace('-', ' ')} per minute"
        refusal = self.error(429, f"This request would exceed your organization's rate limit of {limit}.")
        refusal.headers += ((b"retry-after", b"%d" % math.ceil(wait - 1e-6)),)
        return refusal

    def stream_error(self, message: str) -> bytes:
        error = {"type": "overloaded_error", "message": "Overloaded"}
        return event({"type": "error", "error": error, "request_id": self._request_id()}, "error")

    def bad_json(self, call: Call, error: Exception) -> Refusal:
        return self.error(400, f"The request body is not valid JSON: {error}")

    def not_object(self, call: Call, value: Any) -> Refusal:
        return self.error(400, "Input should be a valid dictionary")

    def authorize(self, call: Call) -> None:
        key = self.settings.api_key
        given = call.header(b"x-api-key") or call.header(b"authorization").removeprefix("Bearer ")
        if key and not given:
            raise self.error(401, "x-api-key header is required")
        if key and given != key:
            raise self.error(401, "invalid x-api-key")
        version = call.header(b"anthropic-version")
        if not version:
            raise self.error(400, "anthropic-version: header is required")
        if version not in anthropic_checks.VERSIONS:
            raise self.error(400, f'anthropic-version: "{version}" is not a valid version')

    def answer_headers(self, call: Call, form: Form | None) -> Headers:
        """What is left of this minute, and the request's id."""
        rates, now = self.rates, trio.current_time()
        made: list[tuple[bytes, bytes]] = [(b"request-id", self._request_id().encode())]
        reset = datetime.fromtimestamp(math.ceil(self.wall() + rates.reset(now)), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for name, limit in rates.limits.items():
            for word, value in (("limit", limit), ("remaining", rates.remaining(name, now)), ("reset", reset)):
                made.append((f"anthropic-ratelimit-{name}-{word}".encode(), str(value).encode()))
        return (*made, (b"anthropic-organization-id", b"00000000-0000-4000-8000-000000000000"))

    def _request_id(self) -> str:
        return f"req_{self.new_id(24)}"

    # -- messages -----------------------------------------------------------------------------------------------

    def read(self, call: Call, *required: str) -> dict[str, Any]:
        """The body, checked; of a model that is served."""
        fields = self.decode(call)
        found = anthropic_checks.flaw(fields, ("model", *required), call.header(b"anthropic-version"))
        if found is not None:
            raise self.error(400, found)
        if fields["model"] not in self.models:
            raise self.error(404, f"model: {fields['model']}")
        return fields

    def check_length(self, ask: Ask) -> None:
        longest = self.settings.model_len
        tokens = text.count(ask.prompts[0])
        if tokens >= longest:
            raise self.error(400, f"prompt is too long: {tokens} tokens > {longest} maximum")
        if ask.limit is not None and ask.limit > longest:
            what = f"which is the maximum allowed number of output tokens for {ask.model}"
            raise self.error(400, f"max_tokens: {ask.limit} > {longest}, {what}")

    async def _messages(self, call: Call) -> None:
        fields = self.read(call, "messages", "max_tokens")
        ask = intake.messages(fields, fields["model"])
        thinking = (fields.get("thinking") or {}).get("type")
        ask.reasons = thinking in ("enabled", "adaptive") or ("reason" in ask.model.lower() and thinking != "disabled")
        ask.tool_forced = False
        ask.schema = _schema(fields)
        self.check_length(ask)
        id = f"msg_{self.new_id(24)}"
        shape = {"block": self.settings.block_size, "caching": b'"cache_control"' in call.body}
        form = type("AnthropicMessages", (AnthropicMessages,), shape)
        choices = self.choices(ask, id, f"toolu_{self.new_id(24)}")
        await self.generate(call, ask, form(ask, choices, id, int(self.wall())))

    async def _count(self, call: Call) -> None:
        fields = self.read(call, "messages")
        ask = intake.messages(fields, fields["model"])
        await self.reply(call, {"input_tokens": text.count(ask.prompts[0])})

    # -- models -------------------------------------------------------------------------------------------------

    async def _models(self, call: Call) -> None:
        """A page of at most ``limit`` models (20) after the one called ``after_id``."""
        query = parse_qs(call.exchange.request.target.partition(b"?")[2].decode("latin-1"))
        after, limit = query.get("after_id", [""])[0], query.get("limit", ["20"])[0]
        if not limit.isdigit() or not 1 <= int(limit) <= 1000:
            raise self.error(400, "limit: Input should be between 1 and 1000")
        names = list(self.models)
        rest = names[names.index(after) + 1 :] if after in names else names
        shown = rest[: int(limit)]
        ends = {"first_id": shown[0] if shown else None, "last_id": shown[-1] if shown else None}
        await self.reply(call, {"data": [self._card(n) for n in shown], "has_more": len(rest) > len(shown), **ends})

    async def _one_model(self, call: Call) -> None:
        name = call.path.removeprefix("/v1/models/")
        if name not in self.models:
            raise self.error(404, f"model: {name}")
        await self.reply(call, self._card(name))

    def _card(self, name: str) -> dict[str, Any]:
        longest = self.settings.model_len
        card = {"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"}
        return {**card, "lifecycle": "active", "max_input_tokens": longest, "max_tokens": longest}


def _schema(fields: dict[str, Any]) -> Any:
    """What the answer has to fit; the beta said it elsewhere."""
    form = (fields.get("output_config") or {}).get("format") or fields.get("output_format") or {}
    return form.get("schema") if form.get("type") == "json_schema" else None
