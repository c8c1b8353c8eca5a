"""Hugging Face's router, simulated: one model, several providers behind it, each with its own accent. (T)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from conformance.engines import intake
from conformance.engines.ask import Ask
from conformance.engines.call import Call, Headers, Refusal, Route
from conformance.engines.chat import Chat
from conformance.engines.forms import Choice, Form, encode, event
from conformance.engines.openai import OpenAI
from conformance.engines.responses import Responses
from conformance.engines.settings import Settings

_TEXTS = {
    401: "Invalid username or password.",
    402: (
        "You have exceeded your monthly included credits for Inference Providers. Subscribe to PRO to get 20x more "
        "monthly included credits."
    ),
}
_POLICIES = {"": "groq", "fastest": "groq", "cheapest": "novita", "preferred": "together"}


class Provider(msgspec.Struct, frozen=True):
    """Who computes an answer: what it calls a model, where it puts thoughts, and whether usage ends the last choice."""

    name: str
    own: str
    reasoning: str = "reasoning_content"
    usage_on_finish: bool = False

    def model(self, name: str) -> str:
        """``own`` with the model's name in it, and with its name alone."""
        return self.own.format(name=name, alone=name.rpartition("/")[2].lower())


PROVIDERS = {
    each.name: each
    for each in (
        Provider("groq", "{alone}", "reasoning"),
        Provider("novita", "{name}"),
        Provider("together", "{name}-Turbo", "reasoning", usage_on_finish=True),
    )
}


class RoutedChat(Chat):
    provider: ClassVar[Provider] = PROVIDERS["groq"]

    def closing(self, choice: Choice) -> bytes:
        if not self.provider.usage_on_finish or not self._is_last(choice):
            return super().closing(choice)
        ended = self.choice(choice, self.end_delta(), None, self.finish(choice))
        return self.event(self.chunk(choice, [ended], usage=self.final_usage()))

    def end(self) -> bytes:
        return self.done if self.provider.usage_on_finish else super().end()

    def _is_last(self, choice: Choice) -> bool:
        return all(other.closed for other in self.choices if other is not choice)


class HuggingFace(OpenAI):
    """``model`` is ``org/name``, with ``:provider`` or how to choose one. The default is the fastest, groq."""

    kind: ClassVar[str] = "huggingface"
    newest: ClassVar[str] = "1"
    model_name: ClassVar[str] = "simulated/model"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._forms = {
            name: type("RoutedChat", (RoutedChat,), {"provider": provider, "reasoning_field": (provider.reasoning,)})
            for name, provider in PROVIDERS.items()
        }

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {
            "/v1/models": {"GET": self._models},
            "/v1/models/*": {"GET": self._one_model},
            "/v1/chat/completions": {"POST": self._chat},
            "/v1/responses": {"POST": self._responses},
        }

    # -- shapes -------------------------------------------------------------------------------------------------

    def error(self, status: int, message: str, kind: str = "", param: str | None = None, code: str = "") -> Refusal:
        return Refusal(status, encode({"error": _TEXTS.get(status, message)}))

    def missing(self, call: Call, allowed: tuple[str, ...]) -> Refusal:
        return self.error(405, "Method Not Allowed") if allowed else self.error(404, "Not Found")

    def busy(self, call: Call, ask: Ask) -> Refusal:
        return self.error(503, "Service temporarily unavailable")

    def limited(self, name: str, wait: float) -> Refusal:
        return self.error(429, f"You have reached the limit on {name} per minute.")

    def stream_error(self, message: str) -> bytes:
        return event({"error": {"message": message, "type": "server_error"}})

    def authorize(self, call: Call) -> None:
        key = self.settings.api_key
        if key and call.path != "/v1/models" and call.header(b"authorization") != f"Bearer {key}":
            raise self.error(401, "")

    def answer_headers(self, call: Call, form: Form | None) -> Headers:
        made: Headers = ((b"x-request-id", f"Root=1-{self.new_id(8)}-{self.new_id(24)}".encode()),)
        if form is not None:
            made += ((b"x-inference-provider", self.chosen(call.fields).name.encode()),)
        return made

    # -- checks -------------------------------------------------------------------------------------------------

    def read(self, call: Call, *required: str, known: frozenset[str] | None = None) -> dict[str, Any]:
        """Members nobody knows are the provider's to ignore."""
        fields = self.decode(call)
        for name in ("model", *required):
            if fields.get(name) is None:
                raise self.error(400, f"Missing required field: {name}")
        self.chosen(fields)
        return fields

    def chosen(self, fields: dict[str, Any]) -> Provider:
        """The provider of a request. Raises Refusal for a model or a provider there is none of."""
        name, _, wanted = str(fields["model"]).partition(":")
        if name not in self.models:
            raise self.error(400, f"The requested model '{name}' does not exist")
        provider = PROVIDERS.get(_POLICIES.get(wanted, wanted))
        if provider is None:
            raise self.error(400, f"The requested model '{name}' is not supported by provider '{wanted}'")
        return provider

    def check_chat(self, fields: dict[str, Any]) -> None:
        if not isinstance(fields["messages"], list) or not fields["messages"]:
            raise self.error(422, "messages: at least one message is required")
        for name, low, high in (("temperature", 0, 2), ("top_p", 0, 1), ("n", 1, 128), ("max_tokens", 1, 1e9)):
            self._check_range(fields, name, low, high)

    # -- endpoints ----------------------------------------------------------------------------------------------

    async def _chat(self, call: Call) -> None:
        fields = self.read(call, "messages")
        self.check_chat(fields)
        provider = self.chosen(fields)
        ask = intake.chat(fields, provider.model(fields["model"].partition(":")[0]))
        ask.reasons = self.reasons(fields["model"])
        await self._run(call, ask, self._forms[provider.name], "chatcmpl-", "messages")

    async def _responses(self, call: Call) -> None:
        fields = self.read(call, "input")
        ask = intake.responses(fields, self.chosen(fields).model(fields["model"].partition(":")[0]))
        ask.reasons = self.reasons(fields["model"])
        await self._run(call, ask, Responses, "resp_", "input")

    def _card(self, name: str) -> dict[str, Any]:
        live = {"status": "live", "context_length": self.settings.model_len, "supports_tools": True}
        providers = [{"provider": provider, **live} for provider in PROVIDERS]
        card = {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": name.partition("/")[0]}
        return {**card, "providers": providers}
