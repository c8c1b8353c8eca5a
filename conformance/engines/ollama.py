"""A simulated Ollama, 0.33: OpenAI routes that ignore much, and native ones that stream lines of JSON. (T)"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

from conformance.engines import intake, text, vectors
from conformance.engines.ask import Ask
from conformance.engines.call import Call, Refusal, Route
from conformance.engines.engine import Engine
from conformance.engines.forms import Form, encode
from conformance.engines.ollama_forms import OllamaChat, OllamaCompletion, OllamaLines
from conformance.engines.settings import Settings

_TYPES = {400: "invalid_request_error", 404: "not_found_error"}
_GO = {str: "string", bool: "bool", list: "array", dict: "object", int: "number", float: "number"}
_CHAT: dict[str, type | tuple[type, ...]] = {
    "messages": list,
    "tools": list,
    "stream": bool,
    "max_tokens": int,
    "seed": int,
    "temperature": (int, float),
    "top_p": (int, float),
    "stream_options": dict,
}
_COMPLETION = {**_CHAT, "prompt": str}
_BUSY = "server busy, please try again.  maximum pending requests exceeded"
_PLAIN = b"text/plain"


class Ollama(Engine):
    """It asks for no key. A name without a tag is ``:latest``; a prompt too long loses its beginning."""

    kind: ClassVar[str] = "ollama"
    newest: ClassVar[str] = "0.33.0"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._loaded: set[str] = set()

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        get, post = "GET", "POST"
        return {
            "/": {get: self._running, "HEAD": self._running},
            "/v1/chat/completions": {post: self._chat},
            "/v1/completions": {post: self._completions},
            "/v1/embeddings": {post: self._embeddings},
            "/v1/models": {get: self._models},
            "/v1/models/*": {get: self._one_model},
            "/api/version": {get: self._version},
            "/api/tags": {get: self._tags},
            "/api/ps": {get: self._ps},
            "/api/show": {post: self._show},
            "/api/chat": {post: self._native_chat},
            "/api/generate": {post: self._native_generate},
        }

    # -- shapes -------------------------------------------------------------------------------------------------

    def error(self, status: int, message: str, kind: str = "", param: str | None = None, code: str = "") -> Refusal:
        error = {"message": message, "type": kind or _TYPES.get(status, "api_error"), "param": None, "code": None}
        return Refusal(status, encode({"error": error}))

    def refusal(self, call: Call, status: int, message: str) -> Refusal:
        """An error as the route words it: native ones have the text alone."""
        if call.path.startswith("/v1/"):
            return self.error(status, message)
        return Refusal(status, encode({"error": message}), b"application/json; charset=utf-8")

    def missing(self, call: Call, allowed: tuple[str, ...]) -> Refusal:
        if allowed:
            return Refusal(405, b"405 method not allowed", _PLAIN)
        return Refusal(404, b"404 page not found", _PLAIN)

    def busy(self, call: Call, ask: Ask) -> Refusal:
        return self.refusal(call, 503, _BUSY)

    def stream_error(self, message: str) -> bytes:
        return b"data: " + encode({"error": message}) + b"\n\n"

    def bad_json(self, call: Call, error: Exception) -> Refusal:
        return self.refusal(call, 400, "EOF" if not call.body else "unexpected EOF")

    def not_object(self, call: Call, value: Any) -> Refusal:
        what = "null" if value is None else _GO.get(type(value), "number")
        return self.refusal(call, 400, f"json: cannot unmarshal {what} into Go value of type openai.Request")

    # -- checks -------------------------------------------------------------------------------------------------

    def read(self, call: Call, types: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
        fields = self.decode(call)
        for name, wanted in types.items():
            value = fields.get(name)
            if value is not None and (not isinstance(value, wanted) or (wanted is int and isinstance(value, bool))):
                what = f"cannot unmarshal {_GO.get(type(value), 'number')} into Go struct field .{name}"
                raise self.refusal(call, 400, f"json: {what} of type {_go(wanted)}")
        return fields

    def served(self, call: Call, fields: dict[str, Any]) -> str:
        """The name as it was asked for, of a model that is there; it is in memory from now on."""
        name = str(fields.get("model") or "")
        if not name:
            raise self.refusal(call, 400, "model is required")
        if tagged(name) not in self.names:
            raise self.refusal(call, 404, f"model '{name}' not found")
        self._loaded.add(tagged(name))
        return name

    @property
    def names(self) -> list[str]:
        return [tagged(name) for name in self.models]

    # -- generating endpoints -----------------------------------------------------------------------------------

    async def _chat(self, call: Call) -> None:
        """Members it does not know, and some it should, are ignored."""
        fields = self.read(call, _CHAT)
        if not fields.get("messages"):
            raise self.error(400, "[] is too short - 'messages'")
        heard = {**fields, "n": 1, "max_completion_tokens": None, "tool_choice": "auto"}
        await self._run(call, intake.chat(heard, self.served(call, fields)), OllamaChat, f"chatcmpl-{self._number()}")

    async def _completions(self, call: Call) -> None:
        fields = self.read(call, _COMPLETION)
        ask = intake.completion({**fields, "n": 1, "logprobs": None, "echo": False}, self.served(call, fields))
        ask.limit = fields.get("max_tokens")
        await self._run(call, ask, OllamaCompletion, f"cmpl-{self._number()}")

    async def _native_chat(self, call: Call) -> None:
        fields = self.read(call, {"messages": list, "stream": bool, "options": dict, "tools": list})
        asked = {"messages": fields.get("messages") or [], "tools": fields.get("tools"), **_options(fields)}
        await self._run(call, intake.chat(asked, self.served(call, fields)), OllamaLines, "")

    async def _native_generate(self, call: Call) -> None:
        fields = self.read(call, {"prompt": str, "stream": bool, "options": dict})
        options = _options(fields)
        ask = intake.completion({"prompt": fields.get("prompt", ""), **options}, self.served(call, fields))
        ask.limit = options["max_tokens"]
        await self._run(call, ask, type("OllamaGenerate", (OllamaLines,), {"said": False}), "")

    async def _run(self, call: Call, ask: Ask, form: type[Form], id: str) -> None:
        ask.reasons = "reason" in ask.model.lower() and form is not OllamaCompletion
        if ask.limit is not None:
            ask.limit = None if ask.limit < 0 else max(1, ask.limit)
        kept = (self.settings.model_len - 1) * text.TOKEN_BYTES
        ask.prompts = [prompt[-kept:] for prompt in ask.prompts]
        choices = self.choices(ask, id, f"call_{self.new_id(8)}")
        await self.generate(call, ask, form(ask, choices, id, int(self.wall())))

    def _number(self) -> int:
        return int(self.new_id(4), 16) % 999

    # -- the other endpoints ------------------------------------------------------------------------------------

    async def _running(self, call: Call) -> None:
        await self.reply(call, b"Ollama is running", content_type=b"text/plain; charset=utf-8")

    async def _version(self, call: Call) -> None:
        await self.reply(call, {"version": self.version})

    async def _models(self, call: Call) -> None:
        await self.reply(call, {"object": "list", "data": [_card(name) for name in self.names]})

    async def _one_model(self, call: Call) -> None:
        name = call.path.removeprefix("/v1/models/")
        if tagged(name) not in self.names:
            raise self.error(404, f"model '{name}' not found")
        await self.reply(call, _card(name))

    async def _tags(self, call: Call) -> None:
        await self.reply(call, {"models": [{**_shown(name), "modified_at": _STAMP} for name in self.names]})

    async def _ps(self, call: Call) -> None:
        """Models in memory: those that were asked for."""
        expires = datetime.fromtimestamp(self.wall() + 300, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        more = {"expires_at": expires, "size_vram": _SIZE, "context_length": self.settings.model_len}
        await self.reply(call, {"models": [{**_shown(name), **more} for name in self.names if name in self._loaded]})

    async def _show(self, call: Call) -> None:
        fields = self.read(call, {})
        name = str(fields.get("model") or fields.get("name") or "")
        if tagged(name) not in self.names:
            raise self.refusal(call, 404, f"model '{name}' not found")
        info = {"general.architecture": "simulated", "simulated.context_length": self.settings.model_len}
        await self.reply(call, {"details": _DETAILS, "model_info": info, "capabilities": ["completion", "tools"]})

    async def _embeddings(self, call: Call) -> None:
        fields = self.read(call, {"dimensions": int, "encoding_format": str})
        name = self.served(call, fields)
        if not fields.get("input"):
            raise self.error(400, "invalid input")
        prompts = intake.prompts(fields["input"])
        total = sum(text.count(prompt) for prompt in prompts)
        data = vectors.listing(prompts, fields.get("dimensions"), fields.get("encoding_format"))
        usage = {"prompt_tokens": total, "total_tokens": total}
        await self.reply(call, {"object": "list", "data": data, "model": name, "usage": usage})


_SIZE = 3281408
_STAMP = "2026-01-31T12:00:00Z"
_DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "simulated",
    "families": ["simulated"],
    "parameter_size": "820K",
    "quantization_level": "F32",
}


def tagged(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _shown(name: str) -> dict[str, Any]:
    return {"name": name, "model": name, "size": _SIZE, "digest": "0" * 64, "details": _DETAILS}


def _card(name: str) -> dict[str, Any]:
    owner = name.partition("/")[0] if "/" in name else "library"
    return {"id": name, "object": "model", "created": 1_769_860_800, "owned_by": owner}


def _options(fields: dict[str, Any]) -> dict[str, Any]:
    """The native routes' options under OpenAI's names. They stream unless told not to."""
    options = fields.get("options") or {}
    made: dict[str, Any] = {"max_tokens": options.get("num_predict"), "stop": options.get("stop")}
    made["stream"] = fields.get("stream") is not False
    form = fields.get("format")
    if form == "json":
        made["response_format"] = {"type": "json_object"}
    elif isinstance(form, dict):
        made["response_format"] = {"type": "json_schema", "json_schema": {"schema": form}}
    return made


def _go(wanted: type | tuple[type, ...]) -> str:
    names = {int: "int", str: "string", bool: "bool", list: "[]openai.Message", dict: "openai.Options"}
    return "float64" if isinstance(wanted, tuple) else names[wanted]
